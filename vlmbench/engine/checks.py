"""What must hold for a method on a model, shown on a few requests: each check is a function of both.

A check says pass, FAIL, `exempt` where it cannot hold by design, and `n.a.` where the method cannot serve
the model; the last two with the reason, which is the error that `prune` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from vlmbench.conditions import show_value
from vlmbench.engine.checks_oracle import masked_answers
from vlmbench.engine.checks_run import Answers, Bench, Method, Pruned, difference
from vlmbench.engine.checks_select import selection_faults
from vlmbench.engine.checks_state import Place, Planted, changes, failing, snapshot
from vlmbench.errors import NotApplicableError, UsageError, VlmbenchError
from vlmbench.models import families
from vlmbench.models.inputs import bucket
from vlmbench.models.inside_refuse import sliding_windows
from vlmbench.prune.base import COMPACT, ORIGINAL, Pruner

if TYPE_CHECKING:
    from vlmbench.models.decoding import Generation
    from vlmbench.models.inputs import RowInputs

State = Literal["pass", "FAIL", "exempt", "n.a."]

KEEP_ALL, MASKING, BATCH, RESTORE, SELECTION = (
    "keep-all is identity",
    "removing equals masking",
    "batch equals single",
    "exit restores",
    "selection contract",
)
FULL = "full model"


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one method."""

    name: str
    method: str
    state: State
    detail: str = ""
    difference: float | None = None
    """Largest difference of logits seen; None where none were compared."""


class ExemptError(Exception):
    """By design the check does not hold for the method."""


@dataclass(frozen=True)
class Finding:
    """What a check saw: faults in words, and the largest difference of logits beside what is allowed."""

    faults: tuple[str, ...] = ()
    difference: float | None = None
    limit: float = 0.0
    note: str = ""


def keep_all(bench: Bench, method: Method) -> Finding:
    """With nothing to drop, the full way gives the logits and answers of the full model."""
    pruner = method.keeping_all()
    if pruner.merges:
        raise ExemptError("it makes new tokens even where all may stay")
    tokens = [row.visual_tokens for row in bench.rows]
    if not pruner.budgeted and any(pruner.budget(n) != n for n in tokens):
        raise NotApplicableError("it never keeps all tokens")
    run = bench.run(method, pruner)
    if pruner.stage == "image":
        for sample, row in zip(bench.samples, run.rows, strict=True):
            if any(not torch.equal(row.vision[key], value) for key, value in sample.row.vision.items()):
                raise ExemptError("the processor resamples in its own way: the same size gives other pixels")
    return _compared(bench, run.answers, bench.plain)


def removing_equals_masking(bench: Bench, method: Method) -> Finding:
    """What is left answers as it does where all tokens stay and the dropped ones are masked."""
    if method.stage == "image":
        raise NotApplicableError("it makes a smaller image: no token is taken from a sequence")
    _refuse_windows(bench)

    def compare(pruner: Pruner) -> Finding:
        run = bench.run(method, pruner)
        if not pruner.merges and all(set(g.visual_tokens) == {r.visual_tokens} for g, r in _told_of(run)):
            raise NotApplicableError("it drops no token")
        oracle = masked_answers(bench.adapter, run, bench.max_new_tokens)
        return _compared(bench, run.answers, oracle, f"{_budget(pruner)}, {pruner.positions} positions")

    pruners = method.budgets(bench.ratios)
    if method.has_positions:
        # each budget as the method wants it, the mildest one also with the other kind of positions
        other = COMPACT if pruners[0].positions == ORIGINAL else ORIGINAL
        pruners = [*pruners, replace(pruners[0], positions=other)]
    return _over(pruners, compare)


def batch_equals_single(bench: Bench, method: Method | None) -> Finding:
    """Requests of different lengths in one batch answer as each does alone; None: the full model."""
    if method is None:
        return _singles(bench, bench.plain, [single.plain for single in bench.singles])

    exact = bench.adapter.loaded.dtype == "float32"

    def compare(pruner: Pruner) -> Finding:
        together = bench.run(method, pruner).answers
        alone = []
        for i, single in enumerate(bench.singles):
            if not exact and pruner.stage != "image":
                # rounding in the encoder may change the choice itself, which is not what is asked here
                encoded = bench.encode(pruner.needs)
                single.encodings[pruner.needs] = replace(encoded, features=encoded.features[i : i + 1])
            try:
                alone.append(single.run(method, pruner).answers)
            except VlmbenchError as error:
                return Finding((f"{_budget(pruner)}: request {i} is refused alone: {error}",))
        found = _singles(bench, together, alone, _budget(pruner))
        if found.faults and pruner.stage == "llm" and not exact:
            raise ExemptError(
                "rounding changes what its layers attend to most: check it with --dtype float32"
            )
        return found

    return _over(method.budgets(bench.ratios), compare)


def exit_restores(bench: Bench, method: Method) -> Finding:
    """Afterwards, and after an exception in the middle, the model is what it was, bit for bit."""
    model = bench.adapter.model
    _ = bench.plain  # transformers itself sets up some things when a model runs for the first time
    before, faults = snapshot(model), []
    pruner = _first_served(method, bench, lambda each: bench.run_again(method, each, fresh=True))
    faults += [f"after a run: {line}" for line in changes(before, snapshot(model))]
    for place in _places(model):
        try:
            with failing(place):
                bench.run_again(method, pruner, fresh=True)
            faults.append(f"an exception in the {place.name} did not get through")
        except Planted:
            pass
        except VlmbenchError as error:
            faults.append(f"a second run is refused: {error}")
        left = changes(before, snapshot(model))
        faults += [f"after an exception in the {place.name}: {line}" for line in left]
    return Finding(tuple(faults))


def selection_contract(bench: Bench, method: Method) -> Finding:
    """Sorted unique ids of real tokens, as many as declared, their own features, and the same every time."""

    def compare(pruner: Pruner) -> Finding:
        run = bench.run(method, pruner)
        with torch.random.fork_rng():  # torch's own generator, which no method may draw from
            torch.manual_seed(torch.initial_seed() + 1)
            try:
                again = bench.run_again(method, pruner)
            except VlmbenchError as error:
                return Finding((f"{_budget(pruner)}: a second run is refused: {error}",))
        faults = [f"{_budget(pruner)}: {fault}" for fault in selection_faults(bench.adapter, run)]
        pairs = zip(run.answers.generations, again.answers.generations, strict=True)
        if any(a.kept_hash != b.kept_hash or a.visual_tokens != b.visual_tokens for a, b in pairs):
            faults.append(f"{_budget(pruner)}: the same seed keeps other tokens the second time")
        return Finding(tuple(dict.fromkeys(faults)))

    return _over(method.budgets(bench.ratios), compare)


CHECKS: dict[str, Callable[[Bench, Method], Finding]] = {
    KEEP_ALL: keep_all,
    MASKING: removing_equals_masking,
    BATCH: batch_equals_single,
    RESTORE: exit_restores,
    SELECTION: selection_contract,
}


def check(name: str, bench: Bench, method: Method) -> Check:
    """One check of one method; what the method refuses is told, anything else that goes wrong has failed."""
    return _told(name, method.name, lambda: CHECKS[name](bench, method))


def run_checks(bench: Bench, methods: Sequence[Method]) -> Iterator[Check]:
    """The full model in batches and alone, then every check of every method."""
    yield _told(BATCH, FULL, lambda: batch_equals_single(bench, None))
    for method in methods:
        for name in CHECKS:
            yield check(name, bench, method)


def tie_tolerance(checks: Iterable[Check], dtype: str) -> float:
    """Below this gap of the two largest logits another batch size may give the other token.

    Four times the largest difference between batched and single seen, at least 1e-4 in float32.
    """
    seen = [check.difference or 0.0 for check in checks if check.name == BATCH and check.state == "pass"]
    return max([4 * max(seen, default=0.0), *([1e-4] if dtype == "float32" else [])])


def _told(name: str, method: str, find: Callable[[], Finding]) -> Check:
    try:
        found = find()
    except ExemptError as reason:
        return Check(name, method, "exempt", str(reason))
    except (NotApplicableError, UsageError) as reason:
        return Check(name, method, "n.a.", str(reason))
    except Exception as error:  # of a third party's method too: the other checks go on
        return Check(name, method, "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    faults = list(found.faults)
    if found.difference is not None and found.difference > found.limit:
        faults.append(f"logits differ by {found.difference:.3g}, more than {found.limit:.3g}; {found.note}")
    if faults:
        more = f" (and {len(faults) - 2} more)" if len(faults) > 2 else ""
        return Check(name, method, "FAIL", "; ".join(faults[:2]).rstrip("; ") + more, found.difference)
    return Check(name, method, "pass", found.note, found.difference)


def _compared(bench: Bench, one: Answers, other: Answers, note: str = "") -> Finding:
    rows = range(len(one.generations))
    worst = max(difference(one, row, other, row) for row in rows)
    return Finding((), worst, bench.limit(other), note)


def _singles(bench: Bench, together: Answers, alone: Sequence[Answers], note: str = "") -> Finding:
    worst, faults = 0.0, []
    for row, single in enumerate(alone):
        worst = max(worst, difference(together, row, single, 0))
        a, b = together.generations[row], single.generations[0]
        if a.kept_hash != b.kept_hash or a.visual_tokens != b.visual_tokens:
            faults.append(f"{note}: request {row} keeps other tokens in a batch than alone")
    return Finding(tuple(faults), worst, bench.limit(together), note)


def _over(pruners: Sequence[Pruner], find: Callable[[Pruner], Finding]) -> Finding:
    """All budgets together: every fault, and the difference that comes nearest to its limit.

    Budgets that the method cannot serve are told; where it serves none, the first reason is raised.
    """
    found: list[Finding] = []
    refused: list[VlmbenchError] = []
    for pruner in pruners:
        try:
            found.append(find(pruner))
        except (NotApplicableError, UsageError) as reason:
            refused.append(reason)
    if not found:
        raise refused[0]
    most = max(found, key=lambda f: (f.difference or 0.0) / (f.limit or 1.0))
    faults = tuple(fault for f in found for fault in f.faults)
    note = "; ".join(dict.fromkeys(map(str, refused))) if most.difference is None else most.note
    return Finding(faults, most.difference, most.limit, note)


def _first_served(method: Method, bench: Bench, serve: Callable[[Pruner], Pruned]) -> Pruner:
    """Runs the budgets in turn until one is served. Raises the first reason where none is."""
    refused: list[VlmbenchError] = []
    for pruner in method.budgets(bench.ratios):
        try:
            serve(pruner)
        except (NotApplicableError, UsageError) as reason:
            refused.append(reason)
        else:
            return pruner
    raise refused[0]


def _told_of(run: Pruned) -> Iterator[tuple[Generation, RowInputs]]:
    return zip(run.answers.generations, run.rows, strict=True)


def _budget(pruner: Pruner) -> str:
    if not pruner.budgeted:
        return "no budget"
    return f"keep {pruner.keep}" if pruner.keep else f"ratio {show_value(pruner.ratio)}"


def _refuse_windows(bench: Bench) -> None:
    """A sliding window counts what is left after pruning; where nothing is removed it sees other tokens."""
    longest = bucket(max(row.length for row in bench.rows)) + bench.max_new_tokens
    windows = [window for window in sliding_windows(bench.adapter.model) if window is not None]
    if windows and longest > min(windows):
        raise NotApplicableError(
            f"the language model slides over {min(windows)} tokens and the prompts are longer ({longest}): "
            "masking is no oracle"
        )


def _places(model: Any) -> Iterator[Place]:
    """Where exceptions are planted: while the encoder is captured, and while the language model runs."""
    with suppress(AttributeError):  # a family that nobody described may have its tower elsewhere
        yield Place("vision encoder", families.of(model).tower(model))
    yield Place("language model", model.base_model.get_decoder().layers[-1])
