"""The gate: what is compared at all, what a reader is warned of, and which rows are regressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlmbench.comparison.chosen import refuse_other_choice
from vlmbench.comparison.paired import ROUNDING
from vlmbench.comparison.pairing import Pair
from vlmbench.comparison.verdict import METRICS, Comparison, Outcome, Verdict
from vlmbench.errors import NotComparableError, UsageError, unknown
from vlmbench.metrics.estimate import distinct
from vlmbench.metrics.significance import holm
from vlmbench.schema import Table

DEFAULT_FAIL_ON: Mapping[str, float] = {"accuracy": 0.0, "flip_rate": 0.0}


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
    warnings = _warnings(base, candidate) + refuse_other_choice(base, candidate)
    rows: list[Comparison] = []
    alone: tuple[list[str], list[str]] = ([], [])
    items: dict[str, int] = {}
    clusters: dict[str, int] = {}
    for task in tasks:
        pair = Pair.of(base, candidate, blocks[0][task], blocks[1][task], common)
        items[task] = len(pair.items)
        clusters[task] = distinct(pair.sides[0].outcomes.cluster)
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
        elif row.gated and -gain > margins[row.metric] + ROUNDING:
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


def _list(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "") or "none"
