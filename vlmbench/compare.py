"""Two result tables -> a verdict: is the candidate less accurate or less stable than the base, beyond chance?

Cells are matched by task and by every parameter and version of the condition, items by id. Every row is a
paired test on the items that count on both sides; Holm's correction runs over all rows that can fail.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import erfc, sqrt
from types import ModuleType
from typing import Any

import numpy as np

from vlmbench.errors import NotComparableError, UsageError, unknown
from vlmbench.metrics.estimate import Floats, Ints, paired_difference
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.significance import EXACT_BELOW, discordant, holm, mcnemar, sign_flip
from vlmbench.packing import DIGITS
from vlmbench.schema import Cell, Estimate, State, Table, TaskBlock

METRICS: Mapping[str, bool] = {"accuracy": True, "flip_rate": False}
"""What can be compared; whether more of it is better."""
DEFAULT_FAIL_ON: Mapping[str, float] = {"accuracy": 0.0, "flip_rate": 0.0}
LISTED = 10
"""Changed items that are shown."""
_ROUNDING = 1e-12
_EXACT_UP_TO = 1000
"""Sum of |cluster sums| up to which the law of the sign flips is computed and not approximated."""


class Outcome(StrEnum):
    """What a row says. Only REGRESSION turns a gate red."""

    REGRESSION = "regression"
    WITHIN_MARGIN = "worse within the margin"
    IMPROVEMENT = "improvement"
    NO_DIFFERENCE = "no difference"
    NO_DATA = "no data"


@dataclass(frozen=True)
class Change:
    """An item that the candidate treats otherwise. Answers are canonical; a state where there is none."""

    task: str
    condition: str
    item: str
    base: str
    candidate: str
    effect: str
    """worse, better or same: what it does to the metric of its row."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one matched cell. Values are over the n items that count on both sides."""

    task: str
    condition: str
    metric: str
    n: int
    base: float | None
    candidate: float | None
    difference: Estimate
    """candidate - base with its clustered 95 % interval."""
    method: str
    p: float | None
    p_holm: float | None
    """Holm over the gated rows; over the others where `gated` is False."""
    gated: bool
    outcome: Outcome
    worse: int
    """Items whose figure got worse, better."""
    better: int
    changed: int
    """Items whose answer, state or score differs under this condition, ties among them."""
    ties: int
    left_out: int
    """Items that count on one side only."""
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The whole comparison; `ok` is False where a gated row regressed."""

    base: str
    candidate: str
    alpha: float
    fail_on: dict[str, float]
    comparisons: tuple[Comparison, ...]
    only_base: tuple[str, ...] = ()
    """Cells without a partner, `task · condition` with the metric where only that has none."""
    only_candidate: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    items: dict[str, int] = field(default_factory=dict)
    """Items compared, per task."""

    def rows(self, outcome: Outcome) -> list[Comparison]:
        """Rows of one outcome, the smallest p first, the largest difference first among equals."""
        found = [row for row in self.comparisons if row.outcome is outcome]
        return sorted(found, key=lambda row: (row.p or 0.0, -abs(row.difference.value or 0.0)))

    @property
    def ok(self) -> bool:
        return not self.rows(Outcome.REGRESSION)

    @property
    def changes(self) -> list[Change]:
        """The changed items worth a look: those of regressions first, then the other rows, each item and
        condition once."""
        order = (Outcome.REGRESSION, Outcome.WITHIN_MARGIN, Outcome.IMPROVEMENT, Outcome.NO_DIFFERENCE)
        listed: dict[tuple[str, str, str], Change] = {}
        for row in (row for outcome in order for row in self.rows(outcome)):
            for change in row.changes:
                listed.setdefault((change.task, change.condition, change.item), change)
            if len(listed) >= LISTED:
                break
        return list(listed.values())[:LISTED]

    @property
    def sentence(self) -> str:
        """Why the gate is red, or that it is not."""
        red = self.rows(Outcome.REGRESSION)
        tests = sum(row.gated and row.p is not None for row in self.comparisons)
        if not red:
            better = len(self.rows(Outcome.IMPROVEMENT))
            return f"no regression in {tests} paired tests, {better} improved (Holm, alpha {self.alpha:g})"
        first, more = red[0], len(red) - 1
        d = first.difference
        interval = (
            f" [{100 * d.low:+.1f}, {100 * d.high:+.1f}]" if d.low is not None and d.high is not None else ""
        )
        others = f"; {more} more of {tests} paired tests regressed" if more else ""
        return (
            f"regression: {first.metric} of {first.task} under {first.condition} went from "
            f"{100 * (first.base or 0):.1f} to {100 * (first.candidate or 0):.1f} %, "
            f"{100 * (d.value or 0):+.1f}{interval} points on {first.n} items, beyond the margin of "
            f"{100 * self.fail_on[first.metric]:g} points and beyond chance "
            f"(p = {first.p_holm:.2g} after Holm){others}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = {"verdict": "ok" if self.ok else "regression", "sentence": self.sentence}
        data |= {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        rows = [dataclasses.asdict(row) for row in self.comparisons]
        for row in rows:
            row["difference"] = row["difference"].model_dump()
        return data | {"comparisons": rows, "changes": [dataclasses.asdict(c) for c in self.changes]}


def parse_fail_on(text: str) -> dict[str, float]:
    """`accuracy:1%,flip_rate:0.005` -> margins as shares. Raises UsageError."""
    margins: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = (piece.strip() for piece in part.partition(":"))
        try:
            value = float(amount.removesuffix("%") or 0) / (100 if amount.endswith("%") else 1)
        except ValueError:
            raise UsageError(f"--fail-on {part!r}: expected METRIC:MARGIN, as in accuracy:1%") from None
        if name in margins:
            raise UsageError(f"--fail-on names {name!r} twice")
        margins[name] = value
    return margins


def compare(
    base: Table,
    candidate: Table,
    fail_on: str | Mapping[str, float] | None = None,
    *,
    alpha: float = 0.05,
    allow_partial: bool = False,
    common: bool = False,
    names: tuple[str, str] = ("base", "candidate"),
) -> Verdict:
    """The candidate against the base, paired by item.

    fail_on: margins as shares, or `accuracy:1%,flip_rate:0.5%`; metrics that it does not name are compared
    but cannot fail. A regression is a loss larger than the margin whose Holm-adjusted p is at most alpha.
    Raises NotComparableError saying what differs, UsageError for a margin or a table that makes no sense.
    """
    margins = dict(DEFAULT_FAIL_ON if fail_on is None else _margins(fail_on))
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must be in (0, 1): got {alpha:g}")
    _refuse_partial(base, candidate, allow_partial)
    blocks = [{block.task: block for block in table.tasks} for table in (base, candidate)]
    tasks = [name for name in blocks[0] if name in blocks[1]]
    if not tasks:
        raise NotComparableError(
            f"no task in common: base has {_list(blocks[0])}, candidate {_list(blocks[1])}"
        )
    warnings = _warnings(base, candidate)
    rows: list[Comparison] = []
    alone: tuple[list[str], list[str]] = ([], [])
    items: dict[str, int] = {}
    clusters: dict[str, int] = {}
    for task in tasks:
        pair = _Pair.of(base, candidate, blocks[0][task], blocks[1][task], common)
        items[task] = len(pair.items)
        clusters[task] = len(np.unique(pair.sides[0].outcomes.cluster))
        rows += pair.compare(margins)
        for side in (0, 1):
            alone[side].extend(pair.unmatched(side))
        warnings += pair.warnings
    for side, mine, other in ((0, base, blocks[1]), (1, candidate, blocks[0])):
        alone[side].extend(f"{c.task} · {c.condition}" for c in mine.cells if c.task not in other)
    if not rows:
        raise NotComparableError(
            f"no condition in common: base has {_list(alone[0])}, candidate {_list(alone[1])}"
        )
    if fail_on is not None and (missing := margins.keys() - {row.metric for row in rows}):
        raise NotComparableError(f"no cell in common has {_list(sorted(missing))}, which --fail-on asks for")
    if sum(row.left_out for row in rows):
        most = max(rows, key=lambda row: row.left_out)
        warnings.append(
            f"{sum(row.left_out > 0 for row in rows)} rows leave out items that count on one side only, "
            f"up to {most.left_out} ({most.task} · {most.condition})"
        )
    warnings += _powerless(rows, clusters, alpha)
    return Verdict(
        base=names[0],
        candidate=names[1],
        alpha=alpha,
        fail_on=margins,
        comparisons=tuple(_judged(rows, margins, alpha)),
        only_base=tuple(alone[0]),
        only_candidate=tuple(alone[1]),
        warnings=tuple(warnings),
        items=items,
    )


def paired_test(base: Floats, candidate: Floats, cluster: Ints) -> tuple[str, float | None]:
    """(method, two-sided p) of paired figures [n]; NaN does not count, p is None where nothing does.

    McNemar for 0/1 figures of independent items; else signs of whole clusters are flipped. For 0/1 figures
    the law of the flipped sum is computed: exact, mid-p from 25 differing clusters on. It is McNemar where
    clusters are single items, and has no smallest p as drawn signs have (10,000 draws end at 1e-4, which Holm
    over 500 cells can never call significant). Otherwise all signs are listed up to 14 differing clusters;
    beyond that S^2 / sum(s_g^2) is chi-square (clustered McNemar: Durkalski et al. 2003, Stat. Med. 22:2417).
    """
    both = ~(np.isnan(base) | np.isnan(candidate))
    a, b, codes = base[both], candidate[both], cluster[both]
    if not len(a):
        return "", None
    difference = b - a
    counts = bool(np.isin(difference, (-1.0, 0.0, 1.0)).all())
    if counts and np.bincount(codes).max() <= 1:
        exact = mcnemar(*discordant(a, b))
        return exact.method, exact.p
    sums = np.bincount(codes, weights=difference)
    sums = sums[np.abs(sums) > _ROUNDING]
    if counts and np.abs(sums).sum() <= _EXACT_UP_TO:
        return _flip_law(np.rint(sums).astype(np.int64))
    if len(sums) <= 14:
        listed = sign_flip(difference, codes)
        return listed.method, listed.p
    return "sign-flip-normal", erfc(abs(float(sums.sum())) / sqrt(2 * float(sums @ sums)))


def _flip_law(sums: Ints) -> tuple[str, float]:
    """p of |sum(sums)| under independent random signs, from the convolution of all binomials."""
    from scipy.special import gammaln

    law = np.ones(1)
    for size, count in zip(*np.unique(np.abs(sums), return_counts=True), strict=True):
        k = np.arange(count + 1)
        log = gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1) - count * np.log(2.0)
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = np.exp(log)
        law = np.convolve(law, spread)
    observed, middle = abs(int(sums.sum())), len(law) // 2
    if observed == 0:
        return "sign-flip-exact", 1.0
    beyond, point = 2 * float(law[middle + observed + 1 :].sum()), 2 * float(law[middle + observed])
    if len(sums) < EXACT_BELOW:
        return "sign-flip-exact", min(1.0, beyond + point)
    return "sign-flip-mid-p", min(1.0, beyond + point / 2)


@dataclass(frozen=True, eq=False)
class _Side:
    """One table's cells of one task, restricted to the items compared."""

    cells: list[Cell]
    outcomes: Outcomes
    keys: dict[Hashable, int]
    """(condition, None) for accuracy, (condition, its reference) for flips -> column."""

    @classmethod
    def read(
        cls, name: str, table: Table, block: TaskBlock, rows: Ints, cluster: Ints, words: dict[str, int]
    ) -> _Side:
        """`words` numbers the answers; both sides share it, so that their codes can be compared."""
        cells = [cell for cell in table.cells if cell.task == block.task]
        n, m = len(block.items), len(cells)
        state, answer = np.empty((n, m), dtype=np.int64), np.empty((n, m), dtype=np.int64)
        score, tie = np.empty((n, m)), np.zeros((n, m), dtype=bool)
        width = 1 + max((len(known) for known in block.answers), default=0)
        table_of = np.full((n, width), -2, dtype=np.int64)
        table_of[:, 0] = -1
        for i, known in enumerate(block.answers):
            table_of[i, 1 : 1 + len(known)] = [words.setdefault(word, len(words)) for word in known]
        for j, cell in enumerate(cells):
            try:
                places = np.array([STATES.index(State(value)) for value in cell.state.values], dtype=np.int64)
                scores = np.array([np.nan if value is None else float(value) for value in cell.score.values])
                state[:, j] = places[_indices(cell.state.index, n)]
                score[:, j] = scores[_indices(cell.score.index, n)]
                answer[:, j] = table_of[np.arange(n), _indices(cell.answer, n)]
                tie[cell.tie, j] = True
                if (answer[:, j] == -2).any():
                    raise ValueError("answer is none of the item's answers")
            except (ValueError, IndexError, TypeError) as error:
                raise UsageError(f"{name}: {cell.task}: {cell.condition}: damaged column: {error}") from None
        column = {cell.condition: j for j, cell in enumerate(cells)}
        reference = [column.get(cell.reference, -1) if cell.reference else -1 for cell in cells]
        try:
            outcomes = Outcomes(
                answer=answer[rows],
                state=state[rows],
                score=score[rows],
                tie=tie[rows],
                prob=np.full(len(rows), np.nan),
                cluster=cluster,
                reference=np.array(reference, dtype=np.int64),
                # such inputs have the state NOT_APPLICABLE, which leaves every denominator by itself
                unchanged=np.zeros((len(rows), m), dtype=bool),
            )
        except ValueError as error:
            raise UsageError(f"{name}: {block.task}: {error}") from None
        keys: dict[Hashable, int] = {}
        for j, cell in enumerate(cells):
            own = _freeze(cell.parts)
            if (own, None) in keys:
                raise UsageError(f"{name}: {cell.task}: {cell.condition}: the table has this condition twice")
            keys[own, None] = j
            if outcomes.is_variant[j]:
                keys[own, _freeze(cells[reference[j]].parts)] = j
        return cls(cells, outcomes, keys)

    def figures(self, metric: str, column: int) -> Floats:
        """The metric per item [n], NaN where it does not count."""
        found = self.outcomes
        if metric == "flip_rate":
            flips: Floats = found.flips[:, column]
            return flips
        return np.where(found.scored[:, column], found.score[:, column], np.nan)

    def text(self, item: int, column: int, words: Sequence[str]) -> str:
        code = int(self.outcomes.answer[item, column])
        return words[code] if code >= 0 else str(STATES[int(self.outcomes.state[item, column])])


@dataclass(frozen=True, eq=False)
class _Pair:
    """One task on both sides."""

    task: str
    items: list[str]
    sides: tuple[_Side, _Side]
    words: list[str]
    warnings: list[str]

    @classmethod
    def of(cls, base: Table, candidate: Table, one: TaskBlock, two: TaskBlock, common: bool) -> _Pair:
        _refuse_other_task(one, two)
        places = [_places(name, block) for name, block in (("base", one), ("candidate", two))]
        items = [item for item in one.items if item in places[1]]
        if not common and not len(items) == len(one.items) == len(two.items):
            raise NotComparableError(
                f"{one.task}: other items: {len(one.items)} in base, {len(two.items)} in candidate, "
                f"{len(items)} in common; --common compares those"
            )
        if not items:
            raise NotComparableError(f"{one.task}: no item in common")
        rows = [np.array([place[item] for item in items], dtype=np.int64) for place in places]
        clusters = [one.clusters[i] for i in rows[0]]
        warnings = []
        if clusters != [two.clusters[j] for j in rows[1]]:
            warnings.append(f"{one.task}: items are clustered otherwise; the base's clusters are used")
        if one.prompt != two.prompt:
            warnings.append(f"{one.task}: prompt differs: {one.prompt!r} and {two.prompt!r}")
        numbers = {name: code for code, name in enumerate(dict.fromkeys(clusters))}
        cluster = np.array([numbers[name] for name in clusters], dtype=np.int64)
        words: dict[str, int] = {}
        sides = (
            _Side.read("base", base, one, rows[0], cluster, words),
            _Side.read("candidate", candidate, two, rows[1], cluster, words),
        )
        pair = cls(one.task, items, sides, list(words), warnings)
        pair._refuse_other_items([(one.digests[i], two.digests[j]) for i, j in zip(*rows, strict=True)])
        spaces = [table.identity.get("space") for table in (base, candidate)]
        if spaces[0] != spaces[1] and any("image" in cell.parts for _, cell in pair.matched()):
            raise NotComparableError(
                f"images are perturbed in other spaces: --space {spaces[0]} and {spaces[1]}"
            )
        return pair

    def _refuse_other_items(self, digests: Sequence[tuple[str, str]]) -> None:
        """An item that failed everywhere on a side counts nowhere and may lack its pixels' hash."""
        error = STATES.index(State.ERROR)
        failed = np.zeros(len(self.items), dtype=bool)
        for side in self.sides:
            failed |= (side.outcomes.state == error).all(axis=1)
        other = [i for i, (one, two) in enumerate(digests) if one != two and not failed[i]]
        if other:
            raise NotComparableError(
                f"{self.task}: {len(other)} of {len(self.items)} common items have another question, "
                f"answers, options or pixels, first {self.items[other[0]]!r}; run both on the same data"
            )

    def matched(self) -> Iterator[tuple[Hashable, Cell]]:
        one, two = self.sides
        return ((key, one.cells[j]) for key, j in one.keys.items() if key in two.keys)

    def unmatched(self, side: int) -> list[str]:
        """Cells that the other side lacks; `· flip_rate` where it has the cell with another reference."""
        mine, other = self.sides[side], self.sides[1 - side]
        found = []
        for key, j in mine.keys.items():
            own, reference = key if isinstance(key, tuple) else (key, None)
            if key in other.keys or (reference is not None and (own, None) not in other.keys):
                continue
            cell = mine.cells[j]
            flips = f" · flip_rate against {cell.reference}" if reference is not None else ""
            found.append(f"{self.task} · {cell.condition}{flips}")
        return found

    def compare(self, margins: Mapping[str, float]) -> list[Comparison]:
        """A row per matched cell and metric, not yet judged."""
        rows = []
        for key, cell in self.matched():
            is_flips = isinstance(key, tuple) and key[1] is not None
            metric = "flip_rate" if is_flips else "accuracy"
            columns = self.sides[0].keys[key], self.sides[1].keys[key]
            a, b = (side.figures(metric, j) for side, j in zip(self.sides, columns, strict=True))
            rows.append(self._row(cell, metric, a, b, columns, gated=metric in margins))
        return rows

    def _row(
        self, cell: Cell, metric: str, a: Floats, b: Floats, columns: tuple[int, int], gated: bool
    ) -> Comparison:
        one, two = (side.outcomes for side in self.sides)
        left, right = columns
        both = ~(np.isnan(a) | np.isnan(b))
        n, cluster = int(both.sum()), one.cluster
        ones = np.ones(len(a))
        method, p = paired_test(a, b, cluster)
        gain = np.where(both, b - a, 0.0) * (1 if METRICS[metric] else -1)
        changed = both & (
            (one.answer[:, left] != two.answer[:, right])
            | (one.state[:, left] != two.state[:, right])
            | (np.nan_to_num(one.score[:, left]) != np.nan_to_num(two.score[:, right]))
        )
        touched = np.flatnonzero(changed | (gain != 0))
        return Comparison(
            task=self.task,
            condition=cell.condition,
            metric=metric,
            n=n,
            base=float(a[both].mean()) if n else None,
            candidate=float(b[both].mean()) if n else None,
            difference=paired_difference(b, ones, a, ones, cluster),
            method=method,
            p=p,
            p_holm=None,
            gated=gated,
            outcome=Outcome.NO_DATA,
            worse=int((gain < 0).sum()),
            better=int((gain > 0).sum()),
            changed=int(changed.sum()),
            ties=int((changed & (one.tie[:, left] | two.tie[:, right])).sum()),
            left_out=int((np.isnan(a) != np.isnan(b)).sum()),
            changes=tuple(
                Change(
                    self.task,
                    cell.condition,
                    self.items[i],
                    self._answer(0, i, left, metric),
                    self._answer(1, i, right, metric),
                    "worse" if gain[i] < 0 else "better" if gain[i] > 0 else "same",
                )
                for i in touched[np.argsort(gain[touched], kind="stable")][:LISTED]
            ),
        )

    def _answer(self, side: int, item: int, column: int, metric: str) -> str:
        """The answer; for flips with that of the reference before it."""
        mine = self.sides[side]
        answer = mine.text(item, column, self.words)
        if metric != "flip_rate":
            return answer
        return f"{mine.text(item, int(mine.outcomes.base[column]), self.words)} → {answer}"


def _judged(rows: Sequence[Comparison], margins: Mapping[str, float], alpha: float) -> Iterator[Comparison]:
    """The rows with their adjusted p and outcome."""
    p = np.array([np.nan if row.p is None else row.p for row in rows])
    gated = np.array([row.gated for row in rows])
    adjusted = np.full(len(rows), np.nan)
    for family in (gated, ~gated):
        adjusted[family] = holm(p[family])
    for row, p_holm in zip(rows, adjusted.tolist(), strict=True):
        value = row.difference.value
        if row.p is None or value is None:
            yield row
            continue
        gain = value if METRICS[row.metric] else -value
        if p_holm > alpha or gain == 0:
            outcome = Outcome.NO_DIFFERENCE
        elif gain > 0:
            outcome = Outcome.IMPROVEMENT
        elif row.gated and -gain > margins[row.metric] + _ROUNDING:
            outcome = Outcome.REGRESSION
        else:
            outcome = Outcome.WITHIN_MARGIN
        yield dataclasses.replace(row, p_holm=p_holm, outcome=outcome)


def _margins(fail_on: str | Mapping[str, float]) -> dict[str, float]:
    margins = parse_fail_on(fail_on) if isinstance(fail_on, str) else dict(fail_on)
    if not margins:
        raise UsageError("--fail-on names no metric: expected METRIC:MARGIN, as in accuracy:1%")
    for name, margin in margins.items():
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if not 0 <= margin < 1:
            raise UsageError(f"margin of {name} must be in [0, 1): got {margin:g} (1 point is 1% or 0.01)")
    return margins


def _refuse_partial(base: Table, candidate: Table, allowed: bool) -> None:
    partial = [n for n, t in (("base", base), ("candidate", candidate)) if t.status == "partial"]
    if partial and not allowed:
        raise NotComparableError(
            f"partial run: {' and '.join(partial)}; resume it, or --allow-partial compares what is there"
        )


def _refuse_other_task(one: TaskBlock, two: TaskBlock) -> None:
    for what, here, there in (
        ("version", one.version, two.version),
        ("scorer", one.scorer, two.scorer),
        ("data hash", one.data_hash, two.data_hash),
    ):
        if here != there:
            raise NotComparableError(f"{one.task}: other {what}: {here} in base, {there} in candidate")


def _powerless(rows: Sequence[Comparison], clusters: Mapping[str, int], alpha: float) -> Iterator[str]:
    """A gate that no loss can turn red must say so: g clusters have no p below 2^(1 - g)."""
    tests = sum(row.gated and row.p is not None for row in rows)
    for task, groups in clusters.items():
        if tests * 2.0 ** (1 - groups) > alpha:
            yield (
                f"{task}: {groups} clusters are too few for {tests} tests: not even the loss of every item "
                "would be beyond chance; compare more items or fewer conditions"
            )


def _warnings(base: Table, candidate: Table) -> list[str]:
    """What may explain a difference although nobody meant to change it."""
    found = []
    for key in ("dtype", "attention", "seed", "decoding"):
        here, there = base.identity.get(key), candidate.identity.get(key)
        if here != there:
            found.append(f"{key} differs: {here} and {there}")
    for group in ("packages", "hardware"):
        one, two = (table.environment.get(group) or {} for table in (base, candidate))
        changed = [k for k in sorted(one.keys() | two.keys()) if one.get(k) != two.get(k)]
        if changed:
            shown = ", ".join(f"{k} {one.get(k, 'none')} and {two.get(k, 'none')}" for k in changed)
            found.append(f"{group} differ: {shown}")
    return found


def _places(name: str, block: TaskBlock) -> dict[str, int]:
    """Item id -> place. Raises UsageError on a block that contradicts itself."""
    places = {item: i for i, item in enumerate(block.items)}
    if len(places) != len(block.items):
        raise UsageError(f"{name}: {block.task}: an item id occurs twice")
    for column in ("clusters", "digests", "answers"):
        if len(getattr(block, column)) != len(places):
            raise UsageError(f"{name}: {block.task}: {column}: expected {len(places)} entries, one per item")
    return places


_CODES = np.full(256, -1, dtype=np.int64)
_CODES[np.frombuffer(DIGITS.encode(), dtype=np.uint8)] = np.arange(len(DIGITS))


def _indices(packed: str | Sequence[int], n: int) -> Ints:
    """`packing.unpack_indices` as an array [n], forty times as fast. Raises ValueError."""
    if isinstance(packed, str):
        codes: Ints = _CODES[np.frombuffer(packed.encode(), dtype=np.uint8)]
    else:
        codes = np.asarray(packed, dtype=np.int64)
    if codes.shape != (n,):
        raise ValueError(f"expected {n} entries, got {len(codes)}")
    if n and codes.min() < 0:
        raise ValueError("not a packed column")
    return codes


def _freeze(value: Any) -> Hashable:
    """A key in which 1 and 1.0 are the same."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _freeze(item)) for key, item in value.items()))
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple)) else value


def _list(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "none"


class _CallableModule(ModuleType):
    """`vlmbench.compare` is this module and, by contract, a function: importing a module sets its name in
    the package, so that a function of that name could not last."""

    def __call__(self, *args: Any, **kwargs: Any) -> Verdict:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
