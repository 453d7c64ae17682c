"""VisionZip: keeps what the vision encoder attends to, merges the rest into a few contextual tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner, Reduced, Stage, top_k
from vlmbench.prune.budget import split_budget
from vlmbench.prune.given import given
from vlmbench.prune.greedy import by_tile, check_finite, first_max


@dataclass(frozen=True, kw_only=True)
class VisionZip(Pruner):
    """Dominant tokens by encoder attention, contextual tokens merged from the others.

    Of k tokens round(5k / 32) are contextual. The dominant ones are the class token, where the encoder has
    one, and the most attended patches. Of the rest, evenly strided targets take in the others, each the one
    with the most similar key: target + mean(joined). Order: class token, dominant, contextual. Each tile gets
    an equal share of the budget and has its own class token.

    Based on VisionZip (https://arxiv.org/abs/2412.04467).

    Parameters: ratio, keep, positions (see Pruner). Reads projector_in [N, P, c], attention [N], keys
    [N, d_k] and extra [E, P, c], of which each tile's first is its class token.
    """

    stage: ClassVar[Stage] = "encoder"
    merges: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in", "attention", "keys"})

    def reduce(self, ctx: Context, k: int) -> Reduced:
        patches = given(ctx, "projector_in", "visionzip")
        attention = given(ctx, "attention", "visionzip")
        keys = torch.nn.functional.normalize(given(ctx, "keys", "visionzip").float(), dim=-1)
        check_finite(ctx.features, "visual features")
        everything = patches if ctx.extra is None else torch.cat([patches, ctx.extra])
        check_finite(everything, "outputs of the vision encoder")
        tiles = by_tile(ctx.grid, patches.device)
        extras = (len(everything) - ctx.n) // ctx.tiles
        sources, positions, rows = [], [], []
        for members, share in zip(tiles, split_budget(k, [len(m) for m in tiles]), strict=True):
            class_token = ctx.n + int(ctx.grid[members[0].to(ctx.grid.device), 0]) * extras
            source, position, weights = _zip(attention[members], keys[members], share, extras > 0)
            where = torch.cat([members, members.new_tensor([class_token] if extras else [])])
            row = weights.new_zeros(share, len(everything))
            row[:, where] = weights
            sources.append(torch.where(source < 0, -1, members[source]))
            positions.append(members[position])
            rows.append(row)
        weights = torch.cat(rows)
        features = weights @ everything.flatten(1).float()
        return Reduced(
            features=features.to(patches.dtype).view(-1, *patches.shape[1:]),
            source=torch.cat(sources),
            weights=weights,
            position_from=torch.cat(positions),
        )


def contextual_count(k: int) -> int:
    """Of k tokens: 30 of 192, 20 of 128 and 10 of 64, as in the paper."""
    return math.floor(5 * k / 32 + 0.5)


def _zip(attention: Tensor, keys: Tensor, k: int, has_class: bool) -> tuple[Tensor, Tensor, Tensor]:
    """source [k], position_from [k] and weights [k, n (+ 1 for the class token)] of one tile."""
    n = len(attention)
    weights = attention.new_zeros(k, n + has_class, dtype=torch.float32)
    if k == 0:
        none = torch.empty(0, dtype=torch.long, device=attention.device)
        return none, none, weights
    contextual = contextual_count(k)
    dominant = top_k(attention, k - contextual - has_class)
    left = torch.ones(n, dtype=torch.bool, device=attention.device)
    left[dominant] = False
    rest = left.nonzero()[:, 0]
    step = max(1, len(rest) // max(1, contextual))
    is_target = torch.zeros_like(left)
    is_target[rest[::step][:contextual]] = True
    targets, others = is_target.nonzero()[:, 0], (left & ~is_target).nonzero()[:, 0]

    own = torch.cat([dominant, targets])
    row = torch.arange(has_class, k, device=own.device)
    weights[row, own] = 1
    if contextual and len(others):
        joins = first_max(keys[others] @ keys[targets].T)
        size = torch.bincount(joins, minlength=contextual)
        weights[k - contextual + joins, others] = (1 / size)[joins]
    source = torch.where((weights[has_class:] > 0).sum(1) == 1, own, -1)
    if not has_class:
        return source, own, weights
    weights[0, n] = 1
    unused = torch.ones_like(left)
    unused[own] = False
    return torch.cat([own.new_tensor([-1]), source]), torch.cat([unused.nonzero()[0], own]), weights
