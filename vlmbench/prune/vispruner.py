"""VisPruner: the tokens the vision encoder attends to most, and of the others those that repeat none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import TIE, check_all_finite, greedy_many, of_tile, unit_length
from vlmbench.prune.rows import gram
from vlmbench.prune.tiles import of_images, tile_shares

_AT_ONCE = 8
"""Tokens dropped in a round."""

_SAME = np.float32(1 - TIE)
"""Cosines above belong to duplicates: equally similar, whatever their last digit says."""


@dataclass(frozen=True, kw_only=True)
class VisPruner(Batched):
    """Important tokens by encoder attention, diverse ones by pruning near-duplicates.

    int(k r) tokens are kept for their attention. The others stand in the order of their attention and lose,
    in rounds, the (at most 8) tokens at even places that are most similar to a token at an odd place, by
    cosine of the encoder's outputs; of equally similar ones the first. What is left of the even places, from
    similar to dissimilar, and the odd ones behind them are the next round's order. Each tile gets an equal
    share of the budget. Choosing at the encoder's output keeps the same projected tokens as choosing behind
    the projector, so the stage is `projector`.

    Based on VisPruner (https://arxiv.org/abs/2412.01818v2, ICCV 2025).

    Parameters: ratio, keep, positions (see Pruner); r. Reads attention [N], projector_in [N, P, c] and
    grid [N, 3].
    """

    r: float = 0.5
    """Share of the kept tokens that are chosen by attention."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention", "projector_in"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        attention = given_many(contexts, "attention", "vispruner")
        x = given_many(contexts, "projector_in", "vispruner", instead="fastervlm")
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        units = [(image, m) for image, own in enumerate(tiles) for m, _ in own]
        xs = [of_tile(x[image].flatten(1), m) for image, m in units]
        attentions = [of_tile(attention[image], m) for image, m in units]
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(xs, attentions, shares, self._choose))

    def _choose(self, x: Tensor, attention: Tensor | None, k: int) -> Tensor:
        """Indices [B, k], in no order, of the tokens kept of B tiles; x [B, n, c], attention [B, n]."""
        assert attention is not None
        important = int(k * self.r)
        order = attention.argsort(dim=1, descending=True, stable=True)
        if important == k or k == attention.shape[1]:
            return order[:, :k]
        rest = order[:, important:]
        unit = unit_length(torch.stack([tile[row] for tile, row in zip(x, rest, strict=True)]))
        left = _distinct_on_cpu if unit.device.type == "cpu" else _distinct
        return torch.cat([order[:, :important], rest.gather(1, left(unit, k - important))], dim=1)


def _distinct_on_cpu(unit: Tensor, count: int) -> Tensor:
    """As `_distinct`, tile by tile in NumPy: an operation on few numbers takes a microsecond there and five
    in torch."""
    left = []
    for vectors in unit:
        cosine = gram(vectors).numpy()
        here = at = np.arange(len(vectors))
        while len(at) > count:
            if 2 * len(at) <= len(cosine):
                cosine, here, at = cosine[at][:, at], here[at], np.arange(len(at))
            even, odd = at[::2], at[1::2]
            nearest = np.minimum(cosine[odd].max(0)[even], _SAME)
            drop = min(_AT_ONCE, len(at) - count, len(even))
            at = np.concatenate([even[np.argsort(-nearest, kind="stable")[drop:]], odd])
        left.append(here[at])
    return torch.from_numpy(np.stack(left))


def _distinct(unit: Tensor, count: int) -> Tensor:
    """Indices [B, count] of what the rounds leave of n tokens; unit [B, n, c] in their first order."""
    images, n, _ = unit.shape
    cosine = unit @ unit.mT
    here = at = torch.arange(n, device=unit.device).expand(images, n)
    while (left := at.shape[1]) > count:
        if 2 * left <= cosine.shape[1]:  # drop what is idle: the rows read below get shorter
            cosine = _rows(cosine, at).gather(2, at[:, None].expand(-1, left, -1))
            here, at = here.gather(1, at), torch.arange(left, device=unit.device).expand(images, left)
        even, odd = at[:, ::2], at[:, 1::2]
        # whole rows of the odd places, though half of their columns are not wanted: contiguous memory is
        # several times faster than picking columns
        nearest = _rows(cosine, odd).amax(1).gather(1, even).clamp(max=float(_SAME))
        drop = min(_AT_ONCE, left - count, even.shape[1])
        kept = nearest.argsort(dim=1, descending=True, stable=True)[:, drop:]
        at = torch.cat([even.gather(1, kept), odd], dim=1)
    return here.gather(1, at)


def _rows(matrix: Tensor, at: Tensor) -> Tensor:
    """[B, r, n]: rows `at` [B, r] of each matrix [B, n, n]."""
    images, n, _ = matrix.shape
    offset = torch.arange(images, device=at.device)[:, None] * n
    return matrix.flatten(0, 1).index_select(0, (at + offset).flatten()).view(images, -1, n)
