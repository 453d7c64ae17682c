"""`perturb --forecast` and `--drift`: what the inspection pass found, as figures of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.engine.inspection import Inspection, Look, Wanted, inspect
from vlmbench.metrics.forecast import Pairs, drift_metrics, forecast_metrics
from vlmbench.schema import Record, Summary, Table
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.experiments.session import Finished
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.items import Item
    from vlmbench.metrics.tabulate import Variation

Records = Mapping[tuple[str, str], Record]
"""Of one task, by item and condition."""


@dataclass(frozen=True)
class Inspected:
    """What is asked for."""

    forecast: bool = False
    drift: bool = False

    def __bool__(self) -> bool:
        return self.forecast or self.drift


def inspected(
    finished: Finished, plans: Sequence[TaskPlan], asked: Inspected, rows: int, show_progress: bool
) -> Table:
    """The table with summaries and notes of the inspection pass over all answered items with images."""
    table = finished.table
    settings = Inspection(asked.forecast, asked.drift, rows, digest(table.identity), show_progress)
    summaries: list[Summary] = []
    notes: list[str] = []
    for plan in plans:
        records = {(i, c): r for (task, i, c), r in finished.records.items() if task == plan.task.name}
        varied = [v for v in plan.variations if _inspectable(v, asked)]
        wanted = _wanted(plan.items, varied, records)
        looks = inspect(finished.preparer, plan.task.name, wanted, finished.folder, settings)
        found = _Found(plan, varied, records, looks)
        if asked.forecast:
            summaries += found.forecasts()
            notes += found.cost()
        if asked.drift:
            summaries += found.drifts()
    return table.model_copy(
        update={"summaries": [*table.summaries, *summaries], "notes": [*table.notes, *notes]}
    )


def _inspectable(variation: Variation, asked: Inspected) -> bool:
    """Perturbations of the full model; a question's changes no visual token, but the states."""
    condition = variation.condition
    if condition.prune is not None or condition.roi is not None or not variation.reference:
        return False
    return variation.axis == "image" or (asked.drift and variation.axis == "question")


def _wanted(items: Sequence[Item], varied: Sequence[Variation], records: Records) -> list[Wanted]:
    found = []
    for item in items:
        clean = records.get((item.id, "clean"))
        conditions = [
            v.condition
            for v in varied
            if (r := records.get((item.id, v.condition.id))) is not None and r.state.counts
        ]
        if item.images and clean is not None and clean.state.counts and conditions:
            found.append(Wanted(item, conditions))
    return found


class _Found:
    """The looks at one task's items beside their records."""

    def __init__(
        self, plan: TaskPlan, varied: Sequence[Variation], records: Records, looks: Sequence[Look]
    ) -> None:
        self.task, self.varied, self.records, self.looks = plan.task.name, varied, records, looks
        codes: dict[str, int] = {}
        self.cluster = {look.item: codes.setdefault(look.cluster, len(codes)) for look in looks}

    def forecasts(self) -> Iterator[Summary]:
        for family, pairs in self._groups("image"):
            nan = float("nan")
            rows = [
                (
                    self._flipped(look, name),
                    look.forecast.get(name, nan),
                    nan if look.margin is None else look.margin,
                    look.feature_drift.get(name, nan),
                    self.cluster[look.item],
                )
                for look, name in pairs
            ]
            flipped, forecast, margin, drift, cluster = map(np.array, zip(*rows, strict=True))
            known = int((~np.isnan(forecast)).sum())
            metrics = forecast_metrics(Pairs(flipped.astype(bool), forecast, margin, drift, cluster))
            counts = {"pairs": known, "pairs_left_out": len(rows) - known}
            counts["flips"] = int(flipped[~np.isnan(forecast)].sum())
            yield Summary(task=self.task, group={"forecast": family}, metrics=metrics, counts=counts)

    def drifts(self) -> Iterator[Summary]:
        nan = float("nan")
        for axis in ("image", "question"):
            for family, pairs in self._groups(axis):
                columns = [
                    (
                        look.state_drift.get(name, nan),
                        nan if look.unrelated is None else look.unrelated,
                        look.feature_drift.get(name, nan),
                        _change(look.energy.get("clean"), look.energy.get(name)),
                        self.cluster[look.item],
                    )
                    for look, name in pairs
                ]
                state, unrelated, feature, energy, cluster = map(np.array, zip(*columns, strict=True))
                metrics = drift_metrics(state, unrelated, feature, energy, cluster)
                group = {"drift": family, "axis": axis}
                yield Summary(task=self.task, group=group, metrics=metrics, counts={"pairs": len(columns)})

    def cost(self) -> Iterator[str]:
        """Measured in this run: medians over items, and over answered variants."""
        encode, backward = (
            median(times) if (times := [x.milliseconds[n] for x in self.looks if n in x.milliseconds]) else 0
            for n in ("encode", "backward")
        )
        names = {v.condition.id for v in self.varied}
        answer = [
            r.milliseconds["generate"]
            for (_, condition), r in self.records.items()
            if condition in names and "generate" in r.milliseconds
        ]
        if not self.looks or not answer:
            return
        each = median(answer)
        variants = sum(len(look.feature_drift) for look in self.looks) / len(self.looks)
        share = (backward + variants * encode) / (variants * (encode + each))
        yield (
            f"{self.task}: flip forecast: one pass back {backward:.1f} ms per item, one picture encoded "
            f"{encode:.1f} ms, one answer {each:.1f} ms (medians): foretelling {variants:.0f} variants costs "
            f"{100 * share:.0f} % of answering them"
        )

    def _flipped(self, look: Look, name: str) -> bool:
        one, two = self.records[look.item, "clean"], self.records[look.item, name]
        return one.answer is not None and two.answer is not None and one.answer != two.answer

    def _groups(self, axis: str) -> Iterator[tuple[str, list[tuple[Look, str]]]]:
        """Per family, then all: (look, condition) of the pairs that count."""
        names = {v.condition.id: v.family for v in self.varied if v.axis == axis}
        pairs = [
            (look, name)
            for look in self.looks
            for name in names
            if (r := self.records.get((look.item, name))) is not None and r.state.counts
        ]
        for family in dict.fromkeys(names.values()):
            mine = [pair for pair in pairs if names[pair[1]] == family]
            if mine:
                yield family, mine
        if pairs:
            yield "all", pairs


def _change(before: float | None, after: float | None) -> float:
    return float("nan") if not before or after is None else after / before - 1
