"""FasterVLM: keeps the tokens that the vision encoder's class token attends to most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlmbench.prune.base import Batched, Context, top_k_many
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite, of_tile
from vlmbench.prune.tiles import of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class FasterVLM(Batched):
    """The k tokens with the largest encoder attention.

    Attention of the class token in the encoder layer in front of the projector; of all tokens where there is
    no class token. Each tile gets an equal share of the budget. Choosing at the encoder's output keeps the
    same projected tokens as choosing behind a projector that works token by token, so the stage is
    `projector`.

    Based on FasterVLM (https://arxiv.org/abs/2412.01818v1).

    Parameters: ratio, keep, positions (see Pruner). Reads attention [N] and grid [N, 3].
    """

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        attention = given_many(contexts, "attention", "fastervlm")
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        seen = [of_tile(a, m) for a, own in zip(attention, tiles, strict=True) for m, _ in own]
        return of_images(tiles, top_k_many(seen, [share for own in tiles for _, share in own]))
