"""Norm: what is left of ZOO-Prune when sensitivity is replaced by the length of the feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.greedy import check_finite, greedy_many, of_tile
from vlmbench.prune.sensitivity import is_constant, normalise
from vlmbench.prune.tiles import of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class Norm(Batched):
    """Norm of the projected features x diversity.

    The greedy choice of ZOO-Prune with ||Z_i||, scaled to [0, 1] per tile, in place of the sensitivity: the
    ablation that asks whether sensitivity is more than norm. Each tile gets an equal share of the budget.
    Where the norms of a tile are the same within a thousandth, they are noise: all scores are one and the
    choice is DivPrune's.

    Based on ZOO-Prune's selection (https://arxiv.org/abs/2509.24837); the score is this project's control.

    Parameters: ratio, keep, positions (see Pruner). Reads features [N, d].
    """

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        features, scores = [], []
        for ctx, own in zip(contexts, tiles, strict=True):
            size = self.size(ctx)
            features += [of_tile(ctx.features, m) for m, _ in own]
            scores += [None if is_constant(size[m]) else normalise(size[m]) for m, _ in own]
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(features, scores, shares))

    def size(self, ctx: Context) -> Tensor:
        """[N], positive: what stands in for the sensitivity. Raises ItemError where it is not finite."""
        norm: Tensor = torch.linalg.vector_norm(ctx.features.float(), dim=-1)
        check_finite(norm, "visual features")
        return norm
