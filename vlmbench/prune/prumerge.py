"""PruMerge: keeps what the vision encoder's class token attends to, and folds what is dropped into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.alike import alike
from vlmbench.prune.base import Batched, Context, Reduced, Stage, top_k
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import TIE, check_all_finite, of_tile
from vlmbench.prune.tiles import tile_shares

NEAREST = 32
"""Neighbours that a kept token takes in."""


@dataclass(frozen=True, kw_only=True)
class PruMerge(Batched):
    """The most attended tokens, each with its neighbours added, and one token for what was dropped.

    Attention a is that of the encoder's last layer with its heads joined into one; where there is no class
    token, the attention that a token receives. k - 1 tokens are kept. To each is added the sum of a_j x_j
    over its 32 neighbours, the tokens with the most similar keys. The k-th token, behind the others, is the
    sum of a_j x_j over all dropped tokens. Sums are not divided by the attention in them. Where nothing would
    be dropped, nothing is merged. Each tile gets an equal share of the budget and is an image of its own.

    Based on PruMerge (https://arxiv.org/abs/2403.15388).

    Parameters: ratio, keep, positions (see Pruner); count, `adaptive` to keep only tokens whose attention is
    above Q3 + 1.5 (Q3 - Q1), at most k - 1 of them; neighbours, taken from the `dropped` tokens as the paper
    says, or from `all` others as its code does. Reads projector_in [N, P, c], last_attention [N], last_keys
    [N, d_v]; extra [E, P, c] is not used.
    """

    stage: ClassVar[Stage] = "encoder"
    merges: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True
    name: ClassVar[str] = "prumerge"
    strides: ClassVar[int] = 0
    """Tokens kept for their place, for each that is kept for its attention."""

    count: str = "budget"
    neighbours: str = "dropped"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in", "last_attention", "last_keys"})

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        patches = given_many(contexts, "projector_in", self.name)
        attention = [each.float() for each in given_many(contexts, "last_attention", self.name)]
        keys = [each.float() for each in given_many(contexts, "last_keys", self.name)]
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        both = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        tiles = [[members for members, share in own if share] for own in both]
        shares = [share for own in both for _, share in own if share]
        units = [(image, members) for image, own in enumerate(tiles) for members in own]
        seen = [of_tile(attention[image], members) for image, members in units]
        counts = [self._count(each, share) for each, share in zip(seen, shares, strict=True)]
        merged: dict[int, tuple[Tensor, Tensor]] = {}
        for group in alike((len(each), count) for each, count in zip(seen, counts, strict=True)):
            own = torch.stack([seen[unit] for unit in group])
            own_keys = torch.stack([of_tile(keys[image], m) for image, m in (units[unit] for unit in group)])
            kept = self._kept(own, counts[group[0]])
            made = _merge(own, own_keys, kept, self.neighbours == "all")
            merged |= zip(group, zip(*made, strict=True), strict=True)
        parts = iter(merged[unit] for unit in range(len(units)))
        return [
            _joined(ctx, patch, own, [next(parts) for _ in own])
            for ctx, patch, own in zip(contexts, patches, tiles, strict=True)
        ]

    def _count(self, attention: Tensor, share: int) -> int:
        """How many tokens of a tile, less than `share`, are kept; attention [n]."""
        if self.count == "adaptive":
            return min(share - 1, (1 + self.strides) * outliers(attention))
        return share - 1

    def _kept(self, attention: Tensor, count: int) -> Tensor:
        """Indices [B, count], ascending, of the tokens of B tiles that are kept; attention [B, n]."""
        n, strided = attention.shape[1], count * self.strides // (1 + self.strides)
        score = attention.clone()
        score[:, torch.arange(strided, device=score.device) * n // max(1, strided)] = torch.inf
        return top_k(score, count)


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge with tokens on an even grid of the raster beside the most attended ones.

    Of the k - 1 tokens kept, three quarters, rounded down, are those at i n / s, i = 0 .. s - 1, in raster
    order; the rest are the most attended of the others. With `count=adaptive` there are three of them for
    each token of outlying attention, all together at most k - 1.

    Based on PruMerge+ (https://arxiv.org/abs/2403.15388).

    Parameters: as PruMerge.
    """

    name: ClassVar[str] = "prumerge+"
    strides: ClassVar[int] = 3


def outliers(attention: Tensor) -> int:
    """How many of attention [n] exceed Q3 + 1.5 (Q3 - Q1); quartiles interpolate linearly."""
    values = attention.double()
    low, high = values.quantile(values.new_tensor([0.25, 0.75])).unbind()
    return int((values > high + 1.5 * (high - low)).sum())


def _joined(
    ctx: Context, patches: Tensor, tiles: Sequence[Tensor], merged: Sequence[tuple[Tensor, Tensor]]
) -> Reduced:
    """An image of its tiles' tokens, positions and weights."""
    width = ctx.n + (0 if ctx.extra is None else len(ctx.extra))
    rows = []
    for members, (_, weights) in zip(tiles, merged, strict=True):
        rows.append(weights.new_zeros(len(weights), width).index_copy_(1, members, weights))
    weights = torch.cat(rows)
    position_from = torch.cat([members[place] for members, (place, _) in zip(tiles, merged, strict=True)])
    features = weights[:, : ctx.n] @ patches.flatten(1).float()
    own = weights.gather(1, position_from[:, None])[:, 0]
    unmerged = (weights.count_nonzero(1) == 1) & (own == 1)
    return Reduced(
        features=features.to(patches.dtype).view(-1, *patches.shape[1:]),
        source=torch.where(unmerged, position_from, -1),
        weights=weights,
        position_from=position_from,
    )


def _merge(attention: Tensor, keys: Tensor, kept: Tensor, from_all: bool) -> tuple[Tensor, Tensor]:
    """position_from [B, k] and weights [B, k, n] of B tiles; keys [B, n, d_v], kept [B, k - 1]."""
    tiles, n = attention.shape
    count, device = kept.shape[1], kept.device
    if count >= n - 1:
        return torch.arange(n, device=device).expand(tiles, n), torch.eye(n, device=device).expand(
            tiles, n, n
        )
    dropped = torch.ones(tiles, n, dtype=torch.bool, device=device).scatter_(1, kept, False)
    norm = torch.linalg.vector_norm(keys, dim=2).clamp(min=1e-12)
    own_keys = keys.gather(1, kept[..., None].expand(-1, -1, keys.shape[2]))
    likeness = own_keys @ keys.mT / norm[:, None] / norm.gather(1, kept)[..., None]
    if from_all:
        likeness.scatter_(2, kept[..., None], -torch.inf)
    else:
        likeness.masked_fill_(~dropped[:, None], -torch.inf)
    weights = attention.new_zeros(tiles, count + 1, n)
    weights[:, :-1] = attention[:, None] * _largest(likeness, min(NEAREST, n - 1 if from_all else n - count))
    weights[:, :-1].scatter_(2, kept[..., None], 1)
    weights[:, -1] = attention * dropped
    # the last place that is free: the token stands behind the others
    last = torch.where(dropped, torch.arange(n, device=device), -1).amax(1, keepdim=True)
    return torch.cat([kept, last], dim=1), weights


def _largest(values: Tensor, count: int) -> Tensor:
    """[.., k, n] bool: the `count` largest of each row; of those tied with the last the lowest indices."""
    if not values.shape[-2]:
        return values > 0
    bound = values.topk(count).values[..., -1:]
    above = values > bound + TIE
    tied = (values >= bound - TIE) & ~above
    return above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= count - above.sum(-1, keepdim=True)))
