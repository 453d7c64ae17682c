"""What a comparison says: its rows, the changed items, and whether the gate is red."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vlmbench.schema import Estimate

METRICS: Mapping[str, bool] = {"accuracy": True, "flip_rate": False, "box_iou": True}
"""What can be compared; whether more of it is better."""
LISTED = 10
"""Changed items that are shown."""


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
