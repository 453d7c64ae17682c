"""`perturb --forecast` and `--drift`: what the inspection pass found, as figures of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench import table_io
from vlmbench.engine.inspection import Inspection, Look, Wanted, inspect
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import settle_early
from vlmbench.experiments.riskiest import drifts, is_foretold, told_reason
from vlmbench.metrics.forecast import Pairs, drift_metrics, forecast_metrics
from vlmbench.metrics.forecast_cost import Price, forecast_costs
from vlmbench.metrics.riskiest import Chosen, riskiest_metrics
from vlmbench.schema import Estimate, Record, Summary, Table
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.experiments.session import Finished
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.metrics.tabulate import Variation

Records = Mapping[tuple[str, str], Record]
"""Of one task, by item and condition."""
_NAN = float("nan")


@dataclass(frozen=True)
class Inspected:
    """What is asked for."""

    forecast: bool = False
    drift: bool = False
    rows: int = 16
    """Rows of a batch."""
    show_progress: bool = True

    def __bool__(self) -> bool:
        return self.forecast or self.drift

    def varied(self, plan: TaskPlan) -> list[Variation]:
        """Perturbations of the full model; a question's changes no visual token, but the states."""
        return [v for v in plan.variations if is_foretold(v) or (self.drift and drifts(v))]

    def settings(self, folder: Path) -> Inspection:
        """Of the run in this folder."""
        identity = digest(table_io.read_manifest(folder).identity)
        return Inspection(self.forecast, self.drift, self.rows, identity, self.show_progress)


def wanted(
    plan: TaskPlan, records: Mapping[tuple[str, str, str], Record], asked: Inspected, seed: int
) -> list[Wanted]:
    """The items with an image whose clean request was answered, each under all variants that can be asked,
    answered or not."""
    found = []
    task, varied = plan.task.name, asked.varied(plan)
    for item in plan.items if varied else ():
        clean = records.get((task, item.id, "clean"))
        if not item.images or clean is None or not clean.state.counts:
            continue
        requests = [Request(task, item, v.condition) for v in varied]
        conditions = [r.condition for r in requests if settle_early(r, seed) is None]
        if conditions:
            found.append(Wanted(item, conditions, clean.key))
    return found


def inspected(finished: Finished, plans: Sequence[TaskPlan], asked: Inspected) -> Table:
    """The table with what the inspection pass over all answered items with images found."""
    table = finished.table
    settings = asked.settings(finished.folder)
    share = table.identity.get("riskiest")
    summaries: list[Summary] = []
    notes: list[str] = []
    costs: dict[str, Any] = {}
    for plan in plans:
        name = plan.task.name
        items = wanted(plan, finished.records, asked, finished.preparer.seed)
        looks = inspect(finished.preparer, name, items, finished.folder, settings)
        found = _Found(plan, asked.varied(plan), finished.records, looks, share)
        if asked.forecast:
            mine = [*(found.forecasts() if share is None else found.riskiest())]
            summaries += mine
            notes += found.told(mine)
            costs |= found.costs()
        if asked.drift:
            summaries += found.drifts()
    added = {"summaries": [*table.summaries, *summaries], "notes": [*table.notes, *notes]}
    # times differ from run to run: beside the plan, where no comparison of tables looks
    return table.model_copy(
        update={**added, "plan": {**table.plan, **({"forecast": costs} if costs else {})}}
    )


class _Found:
    """The looks at one task's items beside their records."""

    def __init__(
        self,
        plan: TaskPlan,
        varied: Sequence[Variation],
        records: Mapping[tuple[str, str, str], Record],
        looks: Sequence[Look],
        share: float | None,
    ) -> None:
        self.task, self.varied, self.looks, self.share = plan.task.name, varied, looks, share
        self.records: Records = {(i, c): r for (t, i, c), r in records.items() if t == self.task}
        self.not_chosen = "" if share is None else told_reason(share)
        codes: dict[str, int] = {}
        self.cluster = {look.item: codes.setdefault(look.cluster, len(codes)) for look in looks}

    def forecasts(self) -> Iterator[Summary]:
        for family, pairs in self._groups("image"):
            arrays = self._pairs(pairs)
            known = ~np.isnan(arrays.forecast)
            counts = {"pairs": int(known.sum()), "pairs_left_out": int((~known).sum())}
            counts["flips"] = int(arrays.flipped[known].sum())
            metrics = forecast_metrics(arrays)
            yield Summary(task=self.task, group={"forecast": family}, metrics=metrics, counts=counts)

    def riskiest(self) -> Iterator[Summary]:
        """Where only the riskiest pairs were answered: nothing that would need the answers to the others."""
        for family, pairs in self._groups("image"):
            arrays = self._pairs(pairs)
            answered = np.array([self.records[look.item, name].state.counts for look, name in pairs])
            flipped = arrays.flipped & answered
            metrics = riskiest_metrics(Chosen(answered, flipped, arrays.forecast, arrays.cluster))
            counts = {"pairs": len(pairs), "answered": int(answered.sum()), "flips": int(flipped.sum())}
            counts["pairs_without_forecast"] = int(np.isnan(arrays.forecast).sum())
            group = {"forecast": family, "answered": "riskiest"}
            yield Summary(task=self.task, group=group, metrics=metrics, counts=counts)

    def told(self, groups: Sequence[Summary]) -> Iterator[str]:
        """What a reader of all other figures has to know."""
        for s in groups if self.share is not None else ():
            if s.group["forecast"] == "all":
                least = s.metrics["flip_rate_at_least"].value or 0.0
                yield (
                    f"{self.task}: --riskiest {self.share:g}: {s.counts['answered']:,} of "
                    f"{s.counts['pairs']:,} image variants were answered, those most likely to flip: every "
                    "figure of image perturbations, and of all perturbations together, is of these alone, "
                    f"and its flip rate too high; of all image variants at least {100 * least:.1f} % flip"
                )

    def costs(self) -> dict[str, Any]:
        """What was spent and what could have been, by task; empty where nothing was timed."""
        groups = [(family, self._pairs(pairs), pairs) for family, pairs in self._groups("image")]
        price = self._price()
        if not groups or price is None:
            return {}
        told: dict[str, Any] = {"ms": {n: round(v, 3) for n, v in vars(price).items()}}
        if self.share is not None:
            pairs = groups[-1][2]
            answered = sum(self.records[look.item, name].state.counts for look, name in pairs)
            told["spent"] = round(price.spent(_items(pairs), len(pairs), answered), 4)
            return {self.task: told}
        told["groups"] = {}
        for family, arrays, pairs in groups:
            foretold = [pair for pair in pairs if pair[1] in pair[0].forecast]
            figures = forecast_costs(arrays, _items(foretold), price)
            told["groups"][family] = {
                name: v.model_dump(mode="json") if isinstance(v, Estimate) else round(v, 4)
                for name, v in figures.items()
            }
        return {self.task: told}

    def _price(self) -> Price | None:
        """Medians: over the looks, and over the answered image variants."""
        times = [
            [look.milliseconds[name] for look in self.looks if name in look.milliseconds]
            for name in ("encode", "backward", "variant")
        ]
        names = {v.condition.id for v in self.varied if v.axis == "image"}
        answers = [
            sum(time for stage, time in record.milliseconds.items() if stage != "prepare")
            for (_, condition), record in self.records.items()
            if condition in names and record.state.counts and record.milliseconds
        ]
        if not answers or not all(times):
            return None
        encode, backward, variant = map(median, times)
        return Price(encode + backward, variant, median(answers))

    def _pairs(self, pairs: Sequence[tuple[Look, str]]) -> Pairs:
        rows = [
            (
                self._flipped(look, name),
                look.forecast.get(name, _NAN),
                _NAN if look.margin is None else look.margin,
                look.feature_drift.get(name, _NAN),
                self.cluster[look.item],
            )
            for look, name in pairs
        ]
        flipped, forecast, margin, drift, cluster = map(np.array, zip(*rows, strict=True))
        return Pairs(flipped.astype(bool), forecast, margin, drift, cluster)

    def drifts(self) -> Iterator[Summary]:
        nan = _NAN
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
            if (r := self.records.get((look.item, name))) is not None
            and (r.state.counts or (axis == "image" and self.not_chosen and r.detail == self.not_chosen))
        ]
        for family in dict.fromkeys(names.values()):
            mine = [pair for pair in pairs if names[pair[1]] == family]
            if mine:
                yield family, mine
        if pairs:
            yield "all", pairs


def _items(pairs: Sequence[tuple[Look, str]]) -> int:
    return len({look.item for look, _ in pairs})


def _change(before: float | None, after: float | None) -> float:
    return float("nan") if not before or after is None else after / before - 1
