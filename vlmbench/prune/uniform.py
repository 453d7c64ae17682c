"""Uniform: an even grid of tokens, whatever the image shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.budget import split_budget
from vlmbench.prune.greedy import by_tile, check_all_finite


@dataclass(frozen=True, kw_only=True)
class Uniform(Batched):
    """Tokens evenly spaced over the 2-D grid.

    About sqrt(k H / W) evenly spaced rows share the k tokens as equally as possible; each spaces its own
    evenly over the columns. Exactly k for every k. Each tile gets an equal share of the budget; a tile that
    is no full rectangle is sampled evenly in raster order.

    Control.

    Parameters: ratio, keep, positions (see Pruner). Reads grid [N, 3].
    """

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        pairs = zip(contexts, ks, strict=True)
        return [_even_over(ctx.grid, k).to(ctx.features.device) for ctx, k in pairs]


def _even_over(grid: Tensor, k: int) -> Tensor:
    """Indices [k], ascending, into the tokens of one image; grid [N, 3]."""
    tiles = by_tile(grid)
    shares = split_budget(k, [len(members) for members in tiles])
    chosen = [
        members[_spread(grid[members, 1:], share)] for members, share in zip(tiles, shares, strict=True)
    ]
    return torch.cat(chosen).sort().values


def _spread(places: Tensor, k: int) -> Tensor:
    """Indices [k] into one tile's tokens; places [n, 2]: row, column."""
    n = len(places)
    rows, row = torch.unique(places[:, 0], return_inverse=True)
    columns, column = torch.unique(places[:, 1], return_inverse=True)
    height, width = len(rows), len(columns)
    if k == 0 or height * width != n:
        return torch.tensor(_even(k, n), dtype=torch.long, device=places.device)
    used = min(max(round(math.sqrt(k * height / width)), math.ceil(k / width), 1), height, k)
    cells = [
        r * width + c
        for i, r in enumerate(_even(used, height))
        for c in _even((i + 1) * k // used - i * k // used, width)
    ]
    at = torch.empty(n, dtype=torch.long, device=places.device)
    at[row * width + column] = torch.arange(n, device=places.device)
    return at[torch.tensor(cells, device=places.device)]


def _even(count: int, length: int) -> list[int]:
    """`count` <= `length` distinct places of 0..length-1: the centres of equal pieces."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]
