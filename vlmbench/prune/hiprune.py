"""HiPrune: what the middle of the vision encoder looks at, its neighbours, and what its end looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner, top_k
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.tiles import tile_shares


@dataclass(frozen=True, kw_only=True)
class HiPrune(Pruner):
    """Anchors, buffers and registers by encoder attention at two depths.

    round(k a / 5) anchors are the tokens most attended in the middle of the encoder, buffers the up to four
    neighbours of each on the grid, and the rest of the budget goes to the tokens most attended in the layer
    in front of the projector. Where anchors and buffers exceed the budget, the buffers least attended in the
    middle give way. Attention is the mean over all rows, the class token's among them. Each tile gets an
    equal share of the budget and has its own anchors. Choosing at the encoder's output keeps the same
    projected tokens as choosing behind a projector that works token by token, so the stage is `projector`.

    Based on HiPrune (https://arxiv.org/abs/2508.00553).

    Parameters: ratio, keep, positions (see Pruner); a. Reads received_attention [N], middle_attention [N] and
    grid [N, 3].
    """

    a: float = 0.1
    """Share of the kept tokens that are anchors or buffers."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"received_attention", "middle_attention"})

    def select(self, ctx: Context, k: int) -> Tensor:
        attention = given(ctx, "received_attention", "hiprune")
        middle = given(ctx, "middle_attention", "hiprune", instead="fastervlm")
        check_finite(ctx.features, "visual features")
        grid = ctx.grid.to(attention.device)
        kept = [
            members[_select(attention[members], middle[members], grid[members, 1:], share, self.a)]
            for members, share in tile_shares(ctx, k)
        ]
        return torch.cat(kept).sort().values


def _select(attention: Tensor, middle: Tensor, places: Tensor, k: int, a: float) -> Tensor:
    """Indices [k] of one tile's tokens; places [n, 2]: row, column."""
    anchors = top_k(middle, round(k * a / 5))
    steps = (places[:, None] - places[anchors][None]).abs().sum(2)
    near = (steps <= 1).any(1)
    is_anchor = (steps == 0).any(1)
    # in the order of preference: anchors, buffers by the middle, the others by the end
    order = torch.where(near, middle, attention).argsort(descending=True, stable=True)
    return order[(is_anchor.int() + near.int())[order].argsort(descending=True, stable=True)][:k]
