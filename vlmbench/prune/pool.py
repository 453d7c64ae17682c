"""Pool: average-pooled features, the down-sampling of models with a fixed resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context, Reduced
from vlmbench.prune.budget import split_budget
from vlmbench.prune.greedy import by_tile, check_all_finite

_ASPECT = 2.0  # cells may be this much wider or higher than the grid's own shape says


@dataclass(frozen=True, kw_only=True)
class Pool(Batched):
    """A coarser feature grid: the mean over each of h' x w' <= k cells.

    h' x w' is the largest product within the budget whose cells are at most twice as wide or high as the
    grid's shape says, then the one nearest to that shape. Cells partition the tokens. Each tile gets an equal
    share of the budget. With k = N nothing changes.

    Control; stands in for `downsample` where the resolution is fixed (VTC-Bench).

    Parameters: ratio, keep, positions (see Pruner). Reads features [N, d] and grid [N, 3].
    """

    merges: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        pooled: dict[tuple[bytes, int], tuple[Tensor, Tensor, Tensor]] = {}
        made = []
        for ctx, k in zip(contexts, ks, strict=True):
            place = (ctx.grid.cpu().numpy().tobytes(), k)
            if place not in pooled:
                pooled[place] = _pooling(ctx.grid, k)
            source, weights, position_from = (each.to(ctx.features.device) for each in pooled[place])
            means = (weights @ ctx.features.float()).to(ctx.features.dtype)
            made.append(Reduced(means, source, weights, position_from))
        return made


def _pooling(grid: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """source [k'], weights [k', N] and position_from [k'] of every image with this grid [N, 3]; k' <= k."""
    weights, centres = [], []
    tiles = by_tile(grid)
    for members, share in zip(tiles, split_budget(k, [len(m) for m in tiles]), strict=True):
        if share == 0:
            continue
        cell, distance = _cells(grid[members, 1:], share)
        filled, cell, size = torch.unique(cell, return_inverse=True, return_counts=True)
        row = torch.zeros(len(filled), len(grid), device=grid.device)
        row[cell, members] = (1 / size)[cell]
        weights.append(row)
        # by cell, then distance, then index: the first of each cell is nearest to its centre
        order = distance.argsort(stable=True)
        order = order[cell[order].argsort(stable=True)]
        centres.append(members[order[size.cumsum(0) - size]])
    position_from, order = torch.cat(centres).sort()
    made = torch.cat(weights)[order]
    return torch.where((made > 0).sum(1) == 1, position_from, -1), made, position_from


def shape(height: int, width: int, k: int) -> tuple[int, int]:
    """(h', w') for a grid of `height` x `width` and a budget of k >= 1 cells."""

    def distortion(h: int, w: int) -> float:
        return abs(math.log(h * width / (w * height)))

    shapes = [(h, min(width, k // h)) for h in range(1, min(height, k) + 1)]
    shapes += [(min(height, k // w), w) for w in range(1, min(width, k) + 1)]
    good = [s for s in shapes if distortion(*s) <= math.log(_ASPECT) + 1e-9]
    if not good:
        return min(shapes, key=lambda s: (distortion(*s), s))
    return min(good, key=lambda s: (-s[0] * s[1], distortion(*s), s))


def _cells(places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Number of the cell that each of a tile's tokens lies in, [n], and its squared distance to the centre of
    that cell, [n]; places [n, 2]: row, column."""
    rows, row = torch.unique(places[:, 0], return_inverse=True)
    columns, column = torch.unique(places[:, 1], return_inverse=True)
    height, width = len(rows), len(columns)
    h, w = shape(height, width, k)
    down, across = row * h // height, column * w // width
    cell = down * w + across
    middle = torch.stack([_centre(row, down, h), _centre(column, across, w)], dim=1)
    distance = (torch.stack([row, column], dim=1) - middle).square().sum(1)
    return cell, distance


def _centre(place: Tensor, bin_of: Tensor, bins: int) -> Tensor:
    """[n]: the mean place of the bin that a token lies in."""
    total = torch.zeros(bins, device=place.device).index_add_(0, bin_of, place.float())
    count = torch.bincount(bin_of, minlength=bins)
    return (total / count)[bin_of]
