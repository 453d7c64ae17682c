"""Every check of `vlmbench check` turns red for the fault that it is there for, and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pruning import bench_of, method, told
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlmbench.cli.app import run as command
from vlmbench.engine import checks
from vlmbench.engine.checks import BATCH, CHECKS, KEEP_ALL, MASKING, RESTORE, SELECTION, Check, check
from vlmbench.engine.checks_oracle import without_gaps
from vlmbench.engine.checks_run import Bench
from vlmbench.engine.checks_state import changes, snapshot
from vlmbench.errors import NotApplicableError
from vlmbench.models import adapter as adapting
from vlmbench.models import before, capture, features, inside, inside_needs, inside_run, pruning
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import VisualInput
from vlmbench.models.inside_left import Left
from vlmbench.models.shrink import Kept
from vlmbench.prune import PRUNERS
from vlmbench.prune.base import Context, Cut, Reduced
from vlmbench.prune.random import Random
from vlmbench.prune.sparsevlm import SparseVLM
from vlmbench.prune.visionzip import VisionZip

Tiny = Callable[[str], Path]
Patch = pytest.MonkeyPatch
Load = Callable[[str], Bench]

SPARSE = "sparsevlm@0.3"


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: bench_of(tiny_model(family)))


def anew(bench: Bench) -> Bench:
    """The same model and requests, with nothing computed yet."""
    return Bench(bench.adapter, bench.samples, bench.ratios, bench.max_new_tokens)


def wrap(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replaces `owner.name` by `change(original, *args)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


# ------------------------------------------------------------------------- faults before the language model


def columns_off_by_one(patch: Patch) -> None:
    def shifted(original: Any, *args: Any) -> Kept:
        kept: Kept = original(*args)
        return Kept((kept.index - 1).clamp(min=0), kept.valid)

    wrap(patch, adapting, "keep_columns", shifted)


def right_padded(patch: Patch) -> None:
    def right(original: Any, *args: Any) -> Kept:
        kept: Kept = original(*args)
        order = (~kept.valid).long().argsort(dim=1, stable=True)
        return Kept(kept.index.gather(1, order), kept.valid.gather(1, order))

    wrap(patch, adapting, "keep_columns", right)


def padding_is_seen(patch: Patch) -> None:
    def ones(original: Any, *args: Any) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = original(*args)
        return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}

    wrap(patch, adapting, "shrink", ones)


def positions_shifted(patch: Patch) -> None:
    """Of the second half of the sequence: rotary embeddings do not notice where all move together."""

    def shifted(original: Any, *args: Any) -> Tensor:
        ids: Tensor = original(*args)
        return ids + (torch.arange(ids.shape[-1]) >= ids.shape[-1] * 2 // 3)

    wrap(patch, adapting, "kept_positions", shifted)


def positions_of_the_kept_columns(patch: Patch) -> None:
    """The ids of the slots in place of those that new tokens stand for."""

    def own(original: Any, ids: Any, kept: Any, places: Any, visual: Sequence[Any], compact: Any) -> Tensor:
        moved = [replace(part, position_from=part.keep.flip(0)) for part in visual]
        ids = original(ids, kept, places, moved, compact)
        return ids

    wrap(patch, adapting, "kept_positions", own)


def rows_of_the_batch_swapped(patch: Patch) -> None:
    wrap(patch, features, "for_requests", lambda original, encoded, order: original(encoded, order[::-1]))


def kept(change: Callable[[VisualInput], VisualInput]) -> Callable[[Patch], None]:
    """A fault in what is left of every request."""

    def plant(patch: Patch) -> None:
        def changed(original: Any, *args: Any) -> list[Any]:
            return [
                part if isinstance(part, NotApplicableError) else change(part) for part in original(*args)
            ]

        wrap(patch, pruning, "prune", changed)

    return plant


def chosen(change: Callable[[Tensor, Context], Tensor]) -> Callable[[Patch], None]:
    """A fault in the ids that the method `random` gives."""

    def plant(patch: Patch) -> None:
        def changed(original: Any, self: Any, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
            made = original(self, contexts, ks)
            return [change(ids, ctx) for ids, ctx in zip(made, contexts, strict=True)]

        wrap(patch, Random, "select_many", changed)

    return plant


def global_draw(patch: Patch) -> None:
    def drawn(self: Any, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        return [torch.randperm(ctx.n)[:k].sort().values for ctx, k in zip(contexts, ks, strict=True)]

    patch.setattr(Random, "select_many", drawn)


def choice_depends_on_the_batch(patch: Patch) -> None:
    def first(original: Any, self: Any, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        return original(self, [replace(ctx, seed=len(contexts)) for ctx in contexts], ks)

    wrap(patch, Random, "select_many", first)


def one_too_many_for_every_budget(patch: Patch) -> None:
    wrap(patch, before, "_image", lambda original, *args: _with_k(original(*args)))


def _with_k(image: Any) -> Any:
    return replace(image, k=min(image.k + 1, len(image.at)))


def capture_changes_features(patch: Patch) -> None:
    def receive(self: Any, module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._inputs.append(arguments[0].reshape(-1, arguments[0].shape[-1]))
        return (arguments[0] * 1.01, *arguments[1:])

    patch.setattr(capture.Capture, "_receive", receive)


def record_tells_of_one_more(patch: Patch) -> None:
    def more(original: Any, *args: Any) -> Any:
        generation = original(*args)
        return replace(generation, visual_tokens=tuple(n + 1 for n in generation.visual_tokens))

    wrap(patch, Adapter, "_with_tokens", more)


def reduced(change: Callable[[Reduced], Reduced], kind: type = VisionZip) -> Callable[[Patch], None]:
    """A fault in the new tokens of a method that merges."""

    def plant(patch: Patch) -> None:
        wrap(patch, kind, "reduce_many", lambda original, *args: [change(made) for made in original(*args)])

    return plant


def method_crashes(patch: Patch) -> None:
    def crash(self: Any, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        raise ZeroDivisionError("no tokens")

    patch.setattr(Random, "select_many", crash)


def features_are_nan(patch: Patch) -> None:
    wrap(patch, before, "_image", lambda original, *args: _nan(original(*args)))


def _nan(image: Any) -> Any:
    bad = torch.full_like(image.context.features, float("nan"))
    return replace(image, context=replace(image.context, features=bad))


# ------------------------------------------------------------------------- faults inside the language model


@dataclass(frozen=True)
class Other:
    """A pruner with another schedule than it says."""

    pruner: Any
    by_layers: int = 0
    by_tokens: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pruner, name)

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        cuts = self.pruner.schedule(n, layers)
        return tuple(Cut(cut.layer + self.by_layers, cut.keep + self.by_tokens) for cut in cuts)


def scheduled(**by: int) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        wrap(patch, adapting, "prune_inside", lambda o, model, p, *args: o(model, Other(p, **by), *args))

    return plant


def rotary_not_gathered(patch: Patch) -> None:
    patch.setattr(inside_run, "take_rotary", lambda tensor, segment: tensor[..., : segment.width, :])


def mask_not_gathered(patch: Patch) -> None:
    def first(segment: Any, mask: Tensor | None, *_: Any) -> Tensor | None:
        return None if mask is None else mask[..., : segment.width, : segment.width]

    patch.setattr(inside_run, "prefill_mask", first)


def padding_is_seen_while_decoding(patch: Patch) -> None:
    patch.setattr(inside_run, "decode_mask", lambda *_: None)


def other_tokens_than_chosen(patch: Patch) -> None:
    """The hidden states of the neighbours go on."""

    def shifted(original: Any, self: Any, stays: Tensor, dropped: list[int], start: int) -> Any:
        segment, order = original(self, stays, dropped, start)
        return segment, (order - 1).clamp(min=0)

    wrap(patch, inside_run.Segment, "cut", shifted)


def new_ids_not_shifted(patch: Patch) -> None:
    def unshifted(original: Any, *args: Any) -> tuple[Tensor, Tensor]:
        ids, shift = original(*args)
        return ids, torch.zeros_like(shift)

    wrap(patch, inside_run, "compact_ids", unshifted)


def merged(change: Callable[[Left], Left]) -> Callable[[Patch], None]:
    """A fault in where new tokens go."""

    def plant(patch: Patch) -> None:
        wrap(patch, Left, "merged", lambda original, self, reduced: change(original(self, reduced)))

    return plant


FAULTS: tuple[tuple[Callable[[Patch], None], str, str, tuple[str, ...]], ...] = (
    (columns_off_by_one, "llava", "random", (KEEP_ALL, MASKING)),
    (columns_off_by_one, "qwen2_vl", "random", (MASKING,)),
    (right_padded, "llava", "random", (MASKING,)),
    (padding_is_seen, "llava", "random", (MASKING, BATCH)),
    (positions_shifted, "llava", "random", (KEEP_ALL, MASKING)),
    (positions_shifted, "qwen2_vl", "random", (KEEP_ALL, MASKING)),
    (positions_of_the_kept_columns, "llava", "visionzip", (MASKING,)),
    (rows_of_the_batch_swapped, "llava", "random", (BATCH,)),
    (kept(lambda v: replace(v, rows=v.rows.flip(0))), "llava", "random", (KEEP_ALL, SELECTION)),
    (kept(lambda v: replace(v, rows=v.rows.roll(1, 0))), "llava", "visionzip", (SELECTION,)),
    (kept(lambda v: replace(v, keep=v.keep.flip(0))), "llava", "random", (MASKING, SELECTION)),
    (kept(lambda v: replace(v, position_from=v.keep.roll(1))), "llava", "random", (KEEP_ALL, SELECTION)),
    (
        kept(lambda v: replace(v, deepstack=tuple(x.roll(1, 0) for x in v.deepstack))),
        "qwen3_vl",
        "random",
        (KEEP_ALL, SELECTION),
    ),
    (chosen(lambda ids, ctx: ids.flip(0)), "llava", "random", (SELECTION,)),
    (chosen(lambda ids, ctx: ids[:1].expand_as(ids)), "llava", "random", (SELECTION,)),
    (chosen(lambda ids, ctx: ids[:-1]), "llava", "random", (KEEP_ALL, SELECTION)),
    (chosen(lambda ids, ctx: (ids + 1) % (ctx.n + 1)), "llava", "random", (KEEP_ALL, SELECTION)),
    (global_draw, "llava", "random", (SELECTION,)),
    (choice_depends_on_the_batch, "llava", "random", (BATCH,)),
    (one_too_many_for_every_budget, "llava_next", "random", (SELECTION,)),
    (capture_changes_features, "llava", "zoo", (KEEP_ALL,)),
    (record_tells_of_one_more, "llava", "random", (SELECTION,)),
    (record_tells_of_one_more, "llava", "fastv", (SELECTION,)),
    (reduced(lambda r: replace(r, weights=r.weights.roll(1, 0))), "llava", "visionzip", (SELECTION,)),
    (reduced(lambda r: replace(r, source=r.position_from)), "llava", "visionzip", (SELECTION,)),
    (reduced(lambda r: replace(r, features=r.features * 1.01)), "qwen3_vl", "visionzip", (SELECTION,)),
    (method_crashes, "llava", "random", tuple(CHECKS)),
    (features_are_nan, "llava", "random", tuple(CHECKS)),
    (scheduled(by_layers=1), "llava", "fastv", (MASKING, SELECTION)),
    (scheduled(by_layers=-1), "llava", "fastv", (MASKING, SELECTION)),
    (scheduled(by_tokens=-1), "llava", "fastv", (SELECTION,)),
    (rotary_not_gathered, "llava", "fastv", (MASKING,)),
    (rotary_not_gathered, "qwen2_vl", "fastv", (MASKING,)),
    (mask_not_gathered, "gemma3", "fastv", (MASKING,)),
    (padding_is_seen_while_decoding, "llava", "fastv", (MASKING, BATCH)),
    (other_tokens_than_chosen, "llava", "fastv", (MASKING,)),
    (new_ids_not_shifted, "llava", "fastv", (MASKING,)),
    (merged(lambda left: replace(left, columns=left.columns.flip(0))), "llava", SPARSE, (MASKING,)),
    (merged(lambda left: replace(left, origin=left.origin.sort().values)), "llava", SPARSE, (MASKING,)),
    (merged(lambda left: replace(left, origin=left.origin.flip(0))), "qwen2_vl", SPARSE, (MASKING,)),
    (
        reduced(lambda r: replace(r, features=r.features * 1.01), SparseVLM),
        "llava",
        SPARSE,
        (MASKING, SELECTION),
    ),
    (
        reduced(lambda r: replace(r, weights=r.weights.roll(1, 0)), SparseVLM),
        "llava",
        SPARSE,
        (MASKING, SELECTION),
    ),
    (
        reduced(lambda r: replace(r, source=r.position_from.roll(1)), SparseVLM),
        "llava",
        SPARSE,
        (SELECTION,),
    ),
    (
        reduced(lambda r: replace(r, position_from=r.position_from * 0), SparseVLM),
        "llava",
        SPARSE,
        (MASKING, BATCH, SELECTION, RESTORE),
    ),
)


def name_of(value: Any) -> str | None:
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize(("plant", "family", "name", "red"), FAULTS, ids=name_of)
def test_a_planted_fault_turns_its_checks_red(
    plant: Callable[[Patch], None],
    family: str,
    name: str,
    red: tuple[str, ...],
    load: Load,
    monkeypatch: Patch,
) -> None:
    bench = anew(load(family))
    _ = bench.plain, [single.plain for single in bench.singles]  # of the model without the fault
    with monkeypatch.context() as patch:
        plant(patch)
        for each in red:
            assert check(each, bench, method(name)).state == "FAIL", each


@pytest.mark.parametrize(("family", "name"), sorted({fault[1:3] for fault in FAULTS}))
def test_without_a_fault_all_is_green(family: str, name: str, load: Load) -> None:
    found = [check(each, load(family), method(name)) for each in CHECKS]
    assert {each.state for each in found} <= {"pass", "exempt"}, [told(each) for each in found]


# ------------------------------------------------------------------------------------- what stays behind


def hook_stays(patch: Patch) -> None:
    @contextmanager
    def leaking(module: Any, hook: Any, after: bool = False) -> Iterator[None]:
        register = module.register_forward_hook if after else module.register_forward_pre_hook
        register(hook, with_kwargs=True)
        yield

    patch.setattr(inside, "_hooked", leaking)


def hook_stays_after_an_exception(patch: Patch) -> None:
    @contextmanager
    def leaking(module: Any, hook: Any, after: bool = False) -> Iterator[None]:
        register = module.register_forward_hook if after else module.register_forward_pre_hook
        handle = register(hook, with_kwargs=True)
        yield
        handle.remove()

    patch.setattr(inside, "_hooked", leaking)


def attention_function_stays(patch: Patch) -> None:
    @contextmanager
    def leaking(modules: Any, observer: Any) -> Iterator[None]:
        own = ALL_ATTENTION_FUNCTIONS._local_mapping
        patch.setitem(
            own, "sdpa", lambda *args, o=ALL_ATTENTION_FUNCTIONS["sdpa"], **kwargs: o(*args, **kwargs)
        )
        with original(modules, observer):
            yield

    original = inside_needs.attention_tap
    patch.setattr(inside_needs, "attention_tap", leaking)


def encoder_hook_stays(patch: Patch) -> None:
    @contextmanager
    def leaking(self: Any) -> Iterator[None]:
        self._family.receiver(self._model).register_forward_pre_hook(self._receive)
        yield

    patch.setattr(capture.Capture, "recording", leaking)


def on_model(change: Callable[[Any], None]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        def changed(original: Any, self: Adapter, *args: Any) -> Any:
            change(self.model)
            return original(self, *args)

        wrap(patch, Adapter, "apply", changed)

    return plant


def one_bit(model: Any) -> None:
    next(model.parameters()).view(-1).data.view(torch.int32)[3] ^= 1


def method_replaced(model: Any) -> None:
    layer = model.base_model.get_decoder().layers[0]
    layer.forward = layer.forward


def attribute_set(model: Any) -> None:
    model.ratio = 0.9


def setting_changed(model: Any) -> None:
    model.generation_config.do_sample = not model.generation_config.do_sample


def attention_changed(model: Any) -> None:
    model.base_model.get_decoder().config._attn_implementation = "eager"


def training_mode(model: Any) -> None:
    model.base_model.get_decoder().norm.train()


@pytest.mark.parametrize(
    ("plant", "name", "said"),
    [
        (hook_stays, "fastv", "after a run: model.language_model.layers.2: attributes: _forward_pre_hooks"),
        (hook_stays_after_an_exception, "fastv", "after an exception in the language model"),
        (attention_function_stays, "fastv", "attention functions: sdpa"),
        (encoder_hook_stays, "zoo", "multi_modal_projector: attributes: _forward_pre_hooks"),
        (on_model(one_bit), "random", "weight "),
        (on_model(method_replaced), "random", "layers.0: attributes: forward"),
        (on_model(attribute_set), "random", "the model itself: attributes: ratio"),
        (on_model(setting_changed), "random", "generation config: do_sample"),
        (on_model(attention_changed), "random", ": attention"),
        (on_model(training_mode), "random", "norm: attributes: training"),
    ],
    ids=name_of,
)
def test_traces_are_seen(
    plant: Callable[[Patch], None], name: str, said: str, tiny_model: Tiny, monkeypatch: Patch
) -> None:
    """On a model of its own, which is thrown away."""
    bench = bench_of(tiny_model("llava"))
    with monkeypatch.context() as patch:
        plant(patch)
        found = check(RESTORE, bench, method(name))
    assert found.state == "FAIL"
    assert said in found.detail


def test_an_exception_that_is_swallowed_is_seen(load: Load, monkeypatch: Patch) -> None:
    def quiet(original: Any, self: Adapter, *args: Any) -> Any:
        try:
            return original(self, *args)
        except BaseException:
            return original(self, *args[:-1])

    bench = anew(load("llava"))
    with monkeypatch.context() as patch:
        patch.setattr(checks, "failing", lambda place: _nothing())
        found = check(RESTORE, bench, method("random"))
    assert "did not get through" in found.detail


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_a_snapshot_is_stable(load: Load) -> None:
    model = load("qwen2_vl").adapter.model
    before = snapshot(model)
    assert changes(before, snapshot(model)) == []
    json.dumps(sorted(before))


# ----------------------------------------------------------------------------------------- what is said


def test_ids_without_gaps() -> None:
    assert without_gaps(torch.tensor([3, 7, 9])).tolist() == [0, 1, 2]
    assert without_gaps(torch.tensor([3, 7, 9]), 1).tolist() == [1, 2, 3]
    axes = torch.tensor([[0, 4, 4, 9], [0, 4, 6, 9], [0, 5, 4, 9]])
    assert without_gaps(axes).tolist() == [[0, 1, 1, 4], [0, 1, 3, 4], [0, 2, 1, 4]]
    text = torch.cat([torch.tensor([[0, 2, 5, 8]]), axes])
    assert without_gaps(text).tolist() == [[0, 1, 2, 3], *without_gaps(axes).tolist()]


def test_tie_tolerance_follows_the_batches() -> None:
    seen = [Check(BATCH, "a", "pass", difference=1e-3), Check(MASKING, "a", "pass", difference=1.0)]
    assert checks.tie_tolerance(seen, "float32") == pytest.approx(4e-3)
    assert checks.tie_tolerance(seen[1:], "float32") == 1e-4
    assert checks.tie_tolerance([Check(BATCH, "a", "FAIL", difference=5.0)], "float32") == 1e-4
    assert checks.tie_tolerance(seen[1:], "bfloat16") == 0.0


def test_every_check_has_a_planted_fault() -> None:
    assert set(CHECKS) == {name for fault in FAULTS for name in fault[3]} | {RESTORE}
    assert {field.name for field in fields(Check)} == {"name", "method", "state", "detail", "difference"}


MINE = """
from dataclasses import dataclass
import torch
from vlmbench.prune import BUDGET, PRUNERS
from vlmbench.prune.base import Pruner
from vlmbench.registry import Entry

@dataclass(frozen=True, kw_only=True)
class Mine(Pruner):
    def select(self, ctx, k):
        return torch.arange({n})[:k]{tail}

PRUNERS.add(Entry("mine", Mine, "the first tokens", BUDGET))
"""


@pytest.fixture
def registry(monkeypatch: Patch) -> None:
    monkeypatch.setattr(PRUNERS, "_entries", dict(PRUNERS._entries))


@pytest.mark.parametrize(
    ("tail", "code", "state"), [("", 0, "pass"), (".flip(0)", 1, "FAIL")], ids=["right", "unsorted"]
)
@pytest.mark.usefixtures("registry")
def test_the_command_checks_methods_of_third_parties(
    tail: str, code: int, state: str, tmp_path: Path, tiny_model: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.format(n="ctx.n", tail=tail), encoding="utf-8")
    model = str(tiny_model("qwen2_vl"))
    arguments = ["check", "--model", model, "--include", str(file), "--limit", "2", "--json"]
    assert command([*arguments, "--method", "mine,blind"]) == code
    report = json.loads(capsys.readouterr().out)
    found = {(each["method"], each["name"]): each["state"] for each in report["checks"]}
    assert found["mine", SELECTION] == state
    assert found["blind", KEEP_ALL] == "n.a."
    assert found["full model", BATCH] == "pass"
    assert len(found) == 2 * len(CHECKS) + 1
    assert report["ok"] == (code == 0)
    assert len(set(report["visual_tokens"])) == 3, "two items of different shapes, and both in one prompt"
    assert report["tie_tolerance"] >= 1e-4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "zo"], "did you mean 'zoo'?"),
        (["--method", "zoo@1.2"], "ratio must be in [0, 1)"),
        (["--limit", "all"], "give a number, such as 6"),
        (["--limit", "0"], "--limit"),
        (["--task", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_table_tells_states_and_reasons(capsys: pytest.CaptureFixture[str], tiny_model: Tiny) -> None:
    model = str(tiny_model("llava"))
    assert (
        command(["check", "--model", model, "--limit", "1", "--method", "uniform,pool,downsample@0.5"]) == 0
    )
    out = capsys.readouterr().out
    for said in (
        "uniform",
        "exempt",
        "n.a.",
        "use pool",
        "tie tolerance",
        "sensitivity: ",
        "none of the",
    ):
        assert said in out
