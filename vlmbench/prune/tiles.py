"""An image's budget on its tiles."""

from __future__ import annotations

from torch import Tensor

from vlmbench.prune.base import Context
from vlmbench.prune.budget import split_budget
from vlmbench.prune.greedy import by_tile


def tile_shares(ctx: Context, k: int) -> list[tuple[Tensor, int]]:
    """Of each tile the indices of its tokens, ascending, and how many of them it keeps: equal shares of k."""
    tiles = by_tile(ctx.grid, ctx.features.device)
    return list(zip(tiles, split_budget(k, [len(members) for members in tiles]), strict=True))
