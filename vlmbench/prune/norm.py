"""Norm: what is left of ZOO-Prune when sensitivity is replaced by the length of the feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.greedy import check_all_finite, greedy_many, of_tile
from vlmbench.prune.sensitivity import greedy_scores
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
        sizes = self.sizes(contexts)
        units = [(image, m) for image, own in enumerate(tiles) for m, _ in own]
        features = [of_tile(contexts[image].features, m) for image, m in units]
        scores = greedy_scores([of_tile(sizes[image], m) for image, m in units])
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(features, scores, shares))

    def sizes(self, contexts: Sequence[Context]) -> list[Tensor]:
        """[N] of each image, positive: what stands in for the sensitivity. Raises ItemError for what is not
        finite."""
        norms = [torch.linalg.vector_norm(ctx.features.float(), dim=-1) for ctx in contexts]
        check_all_finite(norms, "visual features")
        return norms
