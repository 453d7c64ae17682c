"""Does it help to look again: what a RoI method gains and loses against one look, and how good its regions
are.

Figures of ONE column (a method) against its reference column (the model with one look). The difference of the
two accuracies is stability's `accuracy_change`, its test `tested`. METRICS says what each name means, and
regions.METRICS what is told of the region where boxes are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.conditions import Condition
from vlmbench.items import Item
from vlmbench.metrics.bootstrap import difference_all, estimate_all
from vlmbench.metrics.estimate import Bools, Floats, Ratio
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.regions import covered
from vlmbench.metrics.retention import smallest_detectable_difference
from vlmbench.metrics.stability import cell_metrics
from vlmbench.metrics.sweep import between
from vlmbench.metrics.tested import with_tests
from vlmbench.schema import Estimate, Record, Summary

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples
    from vlmbench.metrics.tabulate import Variation

ROI = "roi"
"""The axis on which the RoI method is what varies."""

METRICS = {
    "zoomed": "share of items in which the method found a region to look at again",
    "gained": "share of scored pairs: wrong with one look, right with the region",
    "lost": "share of scored pairs: right with one look, wrong with the region",
    "accuracy_zoomed": "mean score over the items that were zoomed",
    "accuracy_zoomed_plain": "mean score with one look, same items",
    "accuracy_change_zoomed": "accuracy_zoomed minus accuracy_zoomed_plain",
    "region_share": "mean share of the picture that the region covers, items that were zoomed",
    "tokens_ratio": "visual tokens that enter the language model over those with one look, same items",
    "detectable": "smallest paired difference of accuracy that this sample finds (two-sided 5 %, power 80 %)",
}
ENLARGING = ("more-pixels",)
"""Methods that show the whole picture larger: they have no region to be told of."""

SIZES = ("small", "medium", "large")
"""Thirds of the items with boxes, by the share of the picture that the boxes cover."""

_TOLD = ("accuracy", "accuracy_change", "zoomed", "gained", "lost", "box_iou", "detectable")
"""Of a part of the items."""


@dataclass(frozen=True, eq=False)
class Looks:
    """What records tell of the second look, float [n, m] as in `RegionRecord`; NaN where there was none, or
    where it is not known. zoomed: 1 where there is a region, 0 where the answer is plain. entered: visual
    tokens that enter the language model, of every record. objects [n]: share of the picture that the boxes
    asked about cover together, NaN without one."""

    zoomed: Floats
    share: Floats
    iou: Floats
    recall: Floats
    pointing: Floats
    auroc: Floats
    entered: Floats
    objects: Floats

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        records: Sequence[Sequence[Record | None]],
        conditions: Sequence[Condition],
    ) -> Looks:
        """records [n][m] under the conditions [m], the unperturbed picture first."""
        shape = (len(items), len(records[0]) if records else 0)
        names = [field.name for field in fields(cls)][:-1]
        regions = [c.roi is not None and c.roi.name not in ENLARGING for c in conditions]
        looks = cls(**{name: np.full(shape, np.nan) for name in names}, objects=np.full(len(items), np.nan))
        for i, row in enumerate(records):
            for j, record in enumerate(row):
                if record is not None:
                    looks._fill(i, j, record, regions[j])
        if not np.isnan(looks.zoomed).all():
            for i, (item, row) in enumerate(zip(items, records, strict=True)):
                looks.objects[i] = _object_share(item, row)
        return looks

    def _fill(self, i: int, j: int, record: Record, region: bool) -> None:
        entered = record.layer_tokens[0] if record.layer_tokens else record.visual_tokens
        self.entered[i, j] = np.nan if entered is None else entered
        if record.roi is None or not region:
            return
        self.zoomed[i, j] = record.roi.box is not None
        for name in ("share", "iou", "recall", "pointing", "auroc"):
            value = getattr(record.roi, name)
            if value is not None:
                getattr(self, name)[i, j] = value

    def rows(self, mask: Bools) -> Looks:
        """The items where `mask` [n] is True."""
        return Looks(*(getattr(self, field.name)[mask] for field in fields(self)))


def _object_share(item: Item, row: Sequence[Record | None]) -> float:
    sizes = [record.image_size for record in row if record is not None and record.image_size]
    if not item.boxes or not sizes:
        return float("nan")
    width, height = sizes[0][0]
    share = float(covered([(0.0, 0.0, width, height)], item.boxes)[0]) / (width * height)
    return share if share > 0 else float("nan")


def looking_metrics(
    outcomes: Outcomes, column: int, looks: Looks, resamples: Resamples | None = None
) -> dict[str, Estimate]:
    """The figures of METRICS and of regions.METRICS for `column`; empty without a reference.

    Those of boxes are there where some item has one. A region that is not there has an IoU and a recall of 0:
    a method that seldom finds one would else look good.
    """
    if not outcomes.is_variant[column]:
        return {}
    reference = int(outcomes.base[column])
    valid, scored = outcomes.valid[:, column], outcomes.scored_pairs[:, column]
    before, after = outcomes.correct[:, reference], outcomes.correct[:, column]
    zoomed = looks.zoomed[:, column] == 1
    both = scored & zoomed
    score, plain = (np.where(both, outcomes.score[:, place], 0.0) for place in (column, reference))
    entered, usual = looks.entered[:, column], looks.entered[:, reference]
    known = outcomes.pairs[:, column] & ~np.isnan(entered) & (usual > 0)
    ratios = {
        "zoomed": _mean(looks.zoomed[:, column], valid),
        "gained": Ratio(_float(scored & ~before & after), _float(scored)),
        "lost": Ratio(_float(scored & before & ~after), _float(scored)),
        "accuracy_zoomed": Ratio(score, _float(both)),
        "accuracy_zoomed_plain": Ratio(plain, _float(both)),
        "region_share": _mean(looks.share[:, column], valid & zoomed),
        "tokens_ratio": Ratio(np.where(known, entered, 0.0), np.where(known, usual, 0.0), None),
    }
    for name, values in (
        ("box_iou", looks.iou),
        ("box_recall", looks.recall),
        ("pointing", looks.pointing),
        ("map_auroc", looks.auroc),
    ):
        if (valid & ~np.isnan(values[:, column])).any():
            ratios[name] = _mean(values[:, column], valid)
    change = {"accuracy_change_zoomed": (ratios["accuracy_zoomed"], ratios["accuracy_zoomed_plain"])}
    return {
        **estimate_all(ratios, outcomes.cluster, resamples),
        **difference_all(change, outcomes.cluster, resamples),
        "detectable": Estimate(
            value=smallest_detectable_difference(outcomes, column, reference), n=int(scored.sum())
        ),
    }


def looking_summaries(
    task: str,
    outcomes: Outcomes,
    variations: Sequence[Variation],
    items: Sequence[Item],
    looks: Looks,
    resamples: Resamples | None = None,
) -> Iterator[Summary]:
    """Per method its test against one look, with Holm over the methods; what can be told apart between any
    two (`roi` is `all`); and every method and its reference by object size, category and stratum."""
    columns = [j for j, v in enumerate(variations) if v.axis == ROI and outcomes.is_variant[j]]
    if not columns:
        return
    name = [v.condition.id for v in variations]
    yield from with_tests(
        outcomes, [(Summary(task=task, group={"roi": name[j]}, metrics={}), [j]) for j in columns]
    )
    apart = between(outcomes, columns)
    if apart:
        yield Summary(task=task, group={"roi": "all"}, metrics=apart)
    groups = [
        ({"size": size, "share": share}, mask)
        for size, share, mask in thirds(np.where(_used(outcomes, columns), looks.objects, np.nan))
    ]
    for kind in ("category", "stratum"):
        labels = np.array([getattr(item, kind) for item in items])
        groups += [({kind: label}, labels == label) for label in sorted(set(labels.tolist()) - {""})]
    shown = [*dict.fromkeys(int(outcomes.base[j]) for j in columns), *columns]
    for group, mask in groups:
        rows, told = outcomes.rows(mask), looks.rows(mask)
        for j in shown:
            found = cell_metrics(rows, j, (), resamples)
            if j in columns:
                found |= looking_metrics(rows, j, told, resamples)
            metrics = {metric: found[metric] for metric in _TOLD if metric in found}
            yield Summary(task=task, group={"roi": name[j], **group}, metrics=metrics)


def thirds(shares: Floats) -> list[tuple[str, str, Bools]]:
    """(size, `LOW to HIGH %`, mask [n]) of a third of the shares [n] each, NaN in none; equal shares go
    together, so that a third may be larger than another or missing. Empty where one would hold all."""
    known = shares[~np.isnan(shares)]
    if not len(known):
        return []
    # inverted_cdf: an edge is a share that occurs, and equal shares fall to one side of it
    low, high = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
    with np.errstate(invalid="ignore"):
        masks = (shares <= low, (shares > low) & (shares <= high), shares > high)
    found = [
        (size, f"{100 * shares[mask].min():.3g} to {100 * shares[mask].max():.3g} %", np.asarray(mask))
        for size, mask in zip(SIZES, masks, strict=True)
        if mask.any()
    ]
    return found if len(found) > 1 else []


def _used(outcomes: Outcomes, columns: Sequence[int]) -> Bools:
    """[n]: answered with one look; the same items for every method."""
    used: Bools = np.asarray(outcomes.scored[:, outcomes.base[list(columns)]].any(axis=1))
    return used


def _mean(values: Floats, where: Bools) -> Ratio:
    known = where & ~np.isnan(values)
    return Ratio(np.where(known, values, 0.0), _float(known))


def _float(cases: Bools) -> Floats:
    return cases.astype(np.float64)
