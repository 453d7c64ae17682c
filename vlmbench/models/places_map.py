"""What visual tokens see of a box, and which tokens of a perturbed image see what others saw before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmbench.models.geometry import Size

Array = NDArray[np.float64]
Points = Callable[[Array], Array]
"""[n, 2] source pixels -> [n, 2] pixels of the perturbed image, NaN for what is lost: `Transform.points`."""

_OCTAVE = 4.0
"""Cell sides that a token may rather be away than see twice or half as much along one axis."""
_THIN = 1e-3
"""Pixels; cells of padding alone have no sides."""
_NOWHERE = 1e6
"""Cost of a token with a place for one without, and the other way round."""


def coverage(cells: Tensor, boxes: Tensor | Sequence[Sequence[float]], size: Size | None = None) -> Tensor:
    """[n, b] float32 in [0, 1]: the share of each box's area that each token's cell covers.

    cells [n, 4], boxes [b, 4]: left, top, right, bottom in source pixels. With `size`, only what lies on the
    image counts.

    A share is a token's own: over one set of cells that covers the image once those of a box sum to 1; over
    all tokens to how often the box is seen (twice for tiles and a picture of the whole), or to less than 1
    where the processor crops. 0 for tokens without a place (NaN) and for boxes without an area.
    """
    box = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    if size is not None:
        box = box.clamp(min=0).minimum(torch.tensor([*size, *size], dtype=torch.float64))
    cell = cells.detach().cpu().double()
    low = torch.maximum(cell[:, None, :2], box[None, :, :2])
    high = torch.minimum(cell[:, None, 2:], box[None, :, 2:])
    seen = (high - low).nan_to_num(0.0).clamp(min=0).prod(-1)
    area = (box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1)
    return torch.where(area > 0, seen / area, 0.0).clamp(max=1).float()


def map_tokens(cells_from: Tensor, chosen: Tensor, transform: Points | None, cells_to: Tensor) -> Tensor:
    """[k] int64, ascending, distinct: the tokens of the perturbed image that see what the chosen ones saw.

    cells_from [n, 4], chosen [k] indices into it, cells_to [m, 4]; `transform` maps points of the one image
    to the other, None where none moved. All m where k > m.

    One token for each, so that the distances between where a cell's middle went and where the new one's is,
    in sides of the cell, are least in sum (linear assignment). Cells of other sides cost 4 sides per doubling
    along each axis: tiles map to tiles and the picture of the whole to itself. Of what left the image the
    place is continued by an affine fit, so that its stand-ins are the nearest at the border. Tokens without a
    place map to their like, in order.
    """
    wanted = torch.unique(chosen.detach().cpu().long())
    if len(wanted) >= len(cells_to):
        return torch.arange(len(cells_to))
    return assign_tokens(cells_from, wanted, transform, cells_to).sort().values


def assign_tokens(
    cells_from: Tensor, chosen: Tensor, transform: Points | None, cells_to: Tensor, distinct: bool = True
) -> Tensor:
    """[k] int64: the token of the perturbed image that each of the distinct tokens `chosen` [k] maps to.

    See `map_tokens`. Distinct where k <= m; else all m are met, and what is left shares the nearest one. With
    `distinct` off each takes the nearest, whoever has it: much faster for thousands of tokens.
    """
    old, new = cells_from.detach().cpu().double().numpy(), cells_to.detach().cpu().double().numpy()
    wanted = chosen.detach().cpu().long().numpy()
    middle, scale = _moved(old, transform)
    cost = _cost(old[wanted], middle[wanted], scale, new)
    # the lower, nearer index wins among equal cells
    cost += 1e-9 * np.abs(wanted[:, None] - np.arange(len(new)))
    nearest = cost.argmin(1)
    if distinct and len(np.unique(nearest)) < len(wanted):
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(cost)
        nearest[rows] = columns
    return torch.from_numpy(nearest.astype(np.int64))


def overlap(
    cells_a: Tensor, chosen_a: Tensor, transform: Points | None, cells_b: Tensor, chosen_b: Tensor
) -> float:
    """In [0, 1]: the share of the tokens kept in a perturbed image (b) that see what was kept before (a).

    Arguments as of `map_tokens`. 1 where the same places were kept; also where nothing was, both times.
    """
    return overlap_of(map_tokens(cells_a, chosen_a, transform, cells_b), chosen_b)


def overlap_of(before: Tensor, kept: Tensor) -> float:
    """The same for tokens [k] that have been mapped, or of an image that did not change."""
    if not len(kept):
        return float(not len(before))
    kept = torch.unique(kept.detach().cpu().long())
    return float(torch.isin(kept, before.detach().cpu().long()).double().mean())


def _moved(cells: Array, transform: Points | None) -> tuple[Array, Array]:
    """[n, 2] the middles on the new image, [2] how much wider and higher things are there."""
    middle = (cells[:, :2] + cells[:, 2:]) / 2
    placed = ~np.isnan(middle).any(1)
    if transform is None or not placed.any():
        return middle, np.ones(2)
    moved = np.full_like(middle, np.nan)
    moved[placed] = transform(middle[placed])
    stayed = ~np.isnan(moved).any(1)
    if not stayed.any():
        return middle, np.ones(2)
    lost = placed & ~stayed
    if lost.any():
        ones = np.ones((len(middle), 1))
        offset = middle[stayed].mean(0)
        # of the fits to points in a row, that of least norm around the identity: no more than they tell
        change = moved[stayed] - middle[stayed]
        fit = np.linalg.lstsq(np.hstack((middle - offset, ones))[stayed], change, rcond=None)[0]
        moved[lost] = middle[lost] + np.hstack((middle - offset, ones))[lost] @ fit
    return moved, np.array([_stretch(middle[stayed], moved[stayed], transform, axis) for axis in (0, 1)])


def _stretch(middle: Array, moved: Array, transform: Points, axis: int) -> float:
    """Of one axis, by a step that stays within a cell: a shift around the border is no stretch."""
    step = np.eye(2)[axis] * 0.5
    lengths = np.linalg.norm(transform(middle + step) - moved, axis=1) / 0.5
    known = lengths[~np.isnan(lengths)]
    return float(np.median(known)) if len(known) else 1.0


def _cost(old: Array, middle: Array, scale: Array, new: Array) -> Array:
    """[k, m]."""
    side = ((old[:, 2:] - old[:, :2]) * scale).clip(min=_THIN)
    sides = (new[:, 2:] - new[:, :2]).clip(min=_THIN)
    target = (new[:, :2] + new[:, 2:]) / 2
    x, y = ((middle[:, axis, None] - target[None, :, axis]) / side[:, axis, None] for axis in (0, 1))
    cost = np.sqrt(x * x + y * y)
    for axis in (0, 1):
        cost += _OCTAVE * np.abs(np.log2(side[:, axis, None]) - np.log2(sides[None, :, axis]))
    lost, nowhere = np.isnan(old[:, 0]), np.isnan(new[:, 0])
    cost[lost], cost[:, nowhere] = _NOWHERE, _NOWHERE
    cost[np.ix_(lost, nowhere)] = 0.0
    return np.asarray(cost, dtype=np.float64)
