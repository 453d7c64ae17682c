"""How good a region is where the boxes that a question asks about are known, and how stable it is.

Boxes are left, top, right, bottom in pixels of the picture. METRICS says what each name means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmbench.metrics.estimate import Bools, Floats

METRICS = {
    "box_iou": "mean intersection over union of the region's box and the box around all boxes asked about, 0 "
    "without a region; items with boxes",
    "box_recall": "mean share of each box asked about that the region's box covers, 0 without a region",
    "pointing": "share of maps whose largest cell points at a box asked about; methods with a map",
    "map_auroc": "chance that a pixel of the boxes asked about has a larger value on the map than one beside "
    "them, mean over items",
}


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """[.., 4] and [.., 4] -> [..]: intersection over union, broadcast; 0 where neither has any area.

    NaN where a box is: the caller's mark of a region that is not there.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = area(_intersection(first, second))
    union = area(first) + area(second) - both
    return np.asarray(both / np.where(union > 0, union, 1.0))


def area(boxes: npt.ArrayLike) -> Floats:
    """[.., 4] -> [..]; 0 where a side is not positive."""
    box = np.asarray(boxes, np.float64)
    sides = np.maximum(box[..., 2:] - box[..., :2], 0)
    result: Floats = sides[..., 0] * sides[..., 1]
    return result


def around(boxes: npt.ArrayLike) -> Floats:
    """[b, 4] -> [4]: the box around all that have an area; NaN where none has."""
    box = np.asarray(boxes, np.float64).reshape(-1, 4)
    box = box[area(box) > 0]
    if not len(box):
        return np.full(4, np.nan)
    return np.concatenate([box[:, :2].min(0), box[:, 2:].max(0)])


def recall(region: npt.ArrayLike, boxes: npt.ArrayLike) -> float:
    """Share of each of the boxes [b, 4] that the region's box [4] covers, averaged over those that have an
    area; NaN where none has, or where the region is: the caller's mark of one that is not there."""
    box = np.asarray(boxes, np.float64).reshape(-1, 4)
    box = box[area(box) > 0]
    if not len(box):
        return float("nan")
    return float((area(_intersection(np.asarray(region, np.float64), box)) / area(box)).mean())


def pointing(map: npt.ArrayLike, cells: npt.ArrayLike, boxes: npt.ArrayLike) -> bool | None:
    """The pointing game (Zhang et al. 2016, arXiv 1608.00507) for a map [N] whose cells [N, 4] see so much of
    the picture: whether its largest cell points at one of the boxes [b, 4].

    It does where its centre lies in a box, or the centre of a box in it: a cell cannot point more precisely,
    and the game allows 15 pixels for the same reason. Cells without area see padding and are passed over; the
    lowest index wins a tie. None where no cell or no box has an area.
    """
    cell, box = np.asarray(cells, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    box = box[area(box) > 0]
    seen = area(cell) > 0
    if not len(box) or not seen.any():
        return None
    largest = cell[np.where(seen, np.asarray(map, np.float64).ravel(), -np.inf).argmax()]
    return bool((_inside(_centre(largest), box) | _inside(_centre(box), largest)).any())


def map_auroc(map: npt.ArrayLike, cells: npt.ArrayLike, boxes: npt.ArrayLike) -> float:
    """AUROC over the picture's pixels of a map [N], constant on each of its cells [N, 4]; pixels of the boxes
    [b, 4] are the positives, and ties count half.

    Exact for boxes at fractions of pixels and of cells, which labels per cell would not be: an object smaller
    than a cell still has its pixels. NaN where the boxes hold none or all of what the cells see.
    """
    cell = np.asarray(cells, np.float64)
    positive = covered(cell, boxes)
    negative = np.maximum(area(cell) - positive, 0)
    if positive.sum() <= 0 or negative.sum() <= 1e-9 * area(cell).sum():
        return float("nan")
    _, place = np.unique(np.asarray(map, np.float64).ravel(), return_inverse=True)
    hits, misses = np.bincount(place, positive), np.bincount(place, negative)
    below = np.cumsum(misses) - misses
    return float((hits * (below + misses / 2)).sum() / (hits.sum() * misses.sum()))


def covered(cells: npt.ArrayLike, boxes: npt.ArrayLike) -> Floats:
    """[N]: pixels of each of the cells [N, 4] that lie in at least one of the boxes [b, 4]."""
    cell, box = np.asarray(cells, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    cell = np.concatenate([cell[:, :2], np.maximum(cell[:, 2:], cell[:, :2])], axis=1)
    xs = np.unique(np.concatenate([cell[:, ::2].ravel(), box[:, ::2].ravel()]))
    ys = np.unique(np.concatenate([cell[:, 1::2].ravel(), box[:, 1::2].ravel()]))
    across = (xs[:-1] >= box[:, :1]) & (xs[1:] <= box[:, 2:3])
    down = (ys[:-1] >= box[:, 1:2]) & (ys[1:] <= box[:, 3:])
    inside = np.einsum("by,bx->yx", down, across, dtype=np.int64) > 0
    table = np.zeros((len(ys), len(xs)))
    table[1:, 1:] = (inside * np.diff(ys)[:, None] * np.diff(xs)).cumsum(0).cumsum(1)
    x0, x1 = np.searchsorted(xs, cell[:, 0]), np.searchsorted(xs, cell[:, 2])
    y0, y1 = np.searchsorted(ys, cell[:, 1]), np.searchsorted(ys, cell[:, 3])
    return np.maximum(table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0], 0)


def _intersection(a: Floats, b: Floats) -> Floats:
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)


def _centre(boxes: Floats) -> Floats:
    centre: Floats = (boxes[..., :2] + boxes[..., 2:]) / 2
    return centre


def _inside(points: Floats, boxes: Floats) -> Bools:
    """Whether points [.., 2] lie in boxes [.., 4], broadcast."""
    inside: Bools = np.all((points >= boxes[..., :2]) & (points <= boxes[..., 2:]), axis=-1)
    return inside
