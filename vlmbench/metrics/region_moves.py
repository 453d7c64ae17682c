"""How stable is a region itself: the region of a perturbed request against that of the unperturbed one.

The region of the perturbed request is taken back to the unperturbed picture, and both are cut to what of that
picture the perturbed one shows. A shift around the border may take a box apart, so regions are sets of
disjoint rectangles. METRICS says what each name means; requests whose first region is not on the perturbed
picture at all are in no denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.bootstrap import estimate_all
from vlmbench.metrics.estimate import Bools, Floats, Ints, Ratio
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.regions import area
from vlmbench.schema import Estimate, PixelBox, Record

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples

METRICS = {
    "region_iou": "mean intersection over union of both regions on the unperturbed picture, cut to what is "
    "visible; pairs with a region on both sides",
    "region_appears": "share of pairs: no region without the perturbation, one under it",
    "region_vanishes": "share of pairs: a region without the perturbation, none under it",
}
_PLANE: PixelBox = (-np.inf, -np.inf, np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Moves:
    """Per record against its reference's, float [n, m]: iou, NaN unless both have a region; appears and
    vanishes 1 or 0. NaN where either record tells of no second look, or where the reference's region is not
    on the picture of the record."""

    iou: Floats
    appears: Floats
    vanishes: Floats

    @classmethod
    def of(cls, records: Sequence[Sequence[Record | None]], reference: Ints, columns: Sequence[int]) -> Moves:
        """records [n][m]; reference [m], -1 for none; the other columns stay NaN."""
        shape = (len(records), len(reference))
        moves = cls(*(np.full(shape, np.nan) for _ in range(3)))
        for j in columns:
            base = int(reference[j])
            if base >= 0:
                moves._fill(j, [(row[base], row[j]) for row in records])
        return moves

    def _fill(self, column: int, pairs: Sequence[tuple[Record | None, Record | None]]) -> None:
        looked = [
            (i, one.roi, two.roi)
            for i, (one, two) in enumerate(pairs)
            if one is not None and two is not None and one.roi is not None and two.roi is not None
        ]
        if not looked:
            return
        places = np.array([i for i, _, _ in looked])
        before = np.array([one.box is not None for _, one, _ in looked])
        after = np.array([two.box is not None for _, _, two in looked])
        iou, seen = overlap(
            _padded([one.source for _, one, _ in looked]),
            _padded([two.source for _, _, two in looked]),
            _padded([[_PLANE] if two.visible is None else two.visible for _, _, two in looked]),
        )
        known = ~before | (seen > 0)
        self.iou[places, column] = np.where(before & after & known, iou, np.nan)
        self.appears[places, column] = np.where(known, ~before & after, np.nan)
        self.vanishes[places, column] = np.where(known, before & ~after, np.nan)


def overlap(a: Floats, b: Floats, visible: Floats) -> tuple[Floats, Floats]:
    """Sets of disjoint boxes [n, p, 4], [n, q, 4], [n, v, 4] -> (IoU of a and b within what is visible [n],
    area of a within it [n]), exact; IoU is 0 where neither has any area there. A box without area is none."""
    a_seen = _cut(a[:, :, None], visible[:, None])
    b_seen = _cut(b[:, :, None], visible[:, None])
    both = area(_cut(a_seen[:, :, :, None], b[:, None, None])).sum((1, 2, 3))
    of_a, of_b = area(a_seen).sum((1, 2)), area(b_seen).sum((1, 2))
    union = of_a + of_b - both
    return both / np.where(union > 0, union, 1.0), of_a


def region_metrics(
    outcomes: Outcomes,
    columns: Sequence[int] | Ints,
    moves: Moves,
    mask: Bools | None = None,
    resamples: Resamples | None = None,
) -> dict[str, Estimate]:
    """The figures of METRICS over all (item, variant) of `columns`; empty where none looked twice.

    `mask` [n] restricts to a category or stratum.
    """
    chosen = np.asarray(columns, dtype=np.int64)
    pairs = outcomes.pairs[:, chosen] & ~np.isnan(moves.appears[:, chosen])
    if mask is not None:
        pairs = pairs & mask[:, None]
    if not pairs.any():
        return {}
    ratios = {}
    for name, values in (
        ("region_iou", moves.iou),
        ("region_appears", moves.appears),
        ("region_vanishes", moves.vanishes),
    ):
        known = pairs & ~np.isnan(values[:, chosen])
        total = np.where(known, values[:, chosen], 0.0).sum(axis=1)
        ratios[name] = Ratio(total, known.sum(axis=1).astype(np.float64))
    return estimate_all(ratios, outcomes.cluster, resamples)


def _padded(sets: Sequence[Sequence[PixelBox]]) -> Floats:
    """[n, most, 4], filled up with boxes without area."""
    table = np.zeros((len(sets), max(1, *map(len, sets)), 4))
    for i, boxes in enumerate(sets):
        if boxes:
            table[i, : len(boxes)] = boxes
    return table


def _cut(a: Floats, b: Floats) -> Floats:
    """Intersections of boxes [.., 4], broadcast; of no area where there is none."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.concatenate([low, high], axis=-1)
