"""HiPrune: what the middle of the vision encoder looks at, its neighbours, and what its end looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.alike import alike
from vlmbench.prune.base import Batched, Context, top_k
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite, of_tile
from vlmbench.prune.tiles import of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class HiPrune(Batched):
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

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        attention = given_many(contexts, "received_attention", "hiprune")
        middle = given_many(contexts, "middle_attention", "hiprune", instead="fastervlm")
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        places = [ctx.grid[:, 1:].to(each.device) for ctx, each in zip(contexts, attention, strict=True)]
        units = [(image, m, share) for image, own in enumerate(tiles) for m, share in own]
        chosen: dict[int, Tensor] = {}
        for group in alike((len(m), share) for _, m, share in units):
            own = [units[unit] for unit in group]
            end, centre, place = (
                torch.stack([of_tile(values[image], m) for image, m, _ in own])
                for values in (attention, middle, places)
            )
            chosen |= zip(group, _select(end, centre, place, own[0][2], self.a), strict=True)
        return of_images(tiles, [chosen[unit] for unit in range(len(units))])


def _select(attention: Tensor, middle: Tensor, places: Tensor, k: int, a: float) -> Tensor:
    """Indices [B, k] of B tiles' tokens; attention and middle [B, n], places [B, n, 2]: row, column."""
    anchors = top_k(middle, round(k * a / 5))
    to = places.gather(1, anchors[..., None].expand(-1, -1, 2))
    steps = (places[:, :, None] - to[:, None]).abs().sum(3)
    near = (steps <= 1).any(2)
    is_anchor = (steps == 0).any(2)
    # in the order of preference: anchors, buffers by the middle, the others by the end
    order = torch.where(near, middle, attention).argsort(dim=1, descending=True, stable=True)
    rank = (is_anchor.int() + near.int()).gather(1, order)
    return order.gather(1, rank.argsort(dim=1, descending=True, stable=True)[:, :k])
