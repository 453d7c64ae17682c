"""An image's budget on its tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vlmbench.prune.base import Context
from vlmbench.prune.budget import split_budget
from vlmbench.prune.greedy import by_tile

Share = tuple[Tensor, int]
"""The tokens of a tile, ascending, and how many of them it keeps."""


def tile_shares(ctx: Context, k: int) -> list[Share]:
    """Equal shares of k."""
    tiles = by_tile(ctx.grid, ctx.features.device)
    return list(zip(tiles, split_budget(k, [len(members) for members in tiles]), strict=True))


def of_images(tiles: Sequence[Sequence[Share]], chosen: Iterable[Tensor]) -> list[Tensor]:
    """Per image the chosen tokens, ascending, from the choices within its tiles, in their order."""
    found = iter(chosen)
    return [torch.cat([members[next(found)] for members, _ in own]).sort().values for own in tiles]
