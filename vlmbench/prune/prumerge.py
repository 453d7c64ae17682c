"""PruMerge: keeps what the vision encoder's class token attends to, and folds what is dropped into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner, Reduced, Stage, top_k
from vlmbench.prune.budget import split_budget
from vlmbench.prune.given import given
from vlmbench.prune.greedy import TIE, by_tile, check_finite

NEAREST = 32
"""Neighbours that a kept token takes in."""


@dataclass(frozen=True, kw_only=True)
class PruMerge(Pruner):
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

    def reduce(self, ctx: Context, k: int) -> Reduced:
        patches = given(ctx, "projector_in", self.name)
        attention = given(ctx, "last_attention", self.name).float()
        keys = given(ctx, "last_keys", self.name).float()
        check_finite(ctx.features, "visual features")
        width = ctx.n + (0 if ctx.extra is None else len(ctx.extra))
        tiles = by_tile(ctx.grid, patches.device)
        positions, rows = [], []
        for members, share in zip(tiles, split_budget(k, [len(m) for m in tiles]), strict=True):
            if share == 0:
                continue
            kept = self._kept(attention[members], share)
            own_keys = keys if len(tiles) == 1 else keys[members]
            place, weights = _merge(attention[members], own_keys, kept, self.neighbours == "all")
            positions.append(members[place])
            row = weights.new_zeros(len(weights), width)
            row[:, members] = weights
            rows.append(row)
        weights, position_from = torch.cat(rows), torch.cat(positions)
        features = weights[:, : ctx.n] @ patches.flatten(1).float()
        own = weights.gather(1, position_from[:, None])[:, 0]
        unmerged = (weights.count_nonzero(1) == 1) & (own == 1)
        return Reduced(
            features=features.to(patches.dtype).view(-1, *patches.shape[1:]),
            source=torch.where(unmerged, position_from, -1),
            weights=weights,
            position_from=position_from,
        )

    def _kept(self, attention: Tensor, share: int) -> Tensor:
        """Indices, ascending, of the tokens of one tile that are kept, less than `share`; attention [n]."""
        n, count, group = len(attention), share - 1, 1 + self.strides
        if self.count == "adaptive":
            count = min(count, group * outliers(attention))
        strided = count * self.strides // group
        score = attention.clone()
        score[torch.arange(strided, device=score.device) * n // max(1, strided)] = torch.inf
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


def _merge(attention: Tensor, keys: Tensor, kept: Tensor, from_all: bool) -> tuple[Tensor, Tensor]:
    """position_from [k] and weights [k, n] of one tile; keys [n, d_v]."""
    n = len(attention)
    if len(kept) >= n - 1:
        return torch.arange(n, device=kept.device), torch.eye(n, device=kept.device)
    row = torch.arange(len(kept), device=kept.device)
    dropped = torch.ones(n, dtype=torch.bool, device=kept.device)
    dropped[kept] = False
    norm = torch.linalg.vector_norm(keys, dim=1).clamp(min=1e-12)
    likeness = keys[kept] @ keys.T / norm / norm[kept, None]
    if from_all:
        likeness[row, kept] = -torch.inf
    else:
        likeness[:, ~dropped] = -torch.inf
    count = min(NEAREST, n - 1 if from_all else n - len(kept))
    weights = attention.new_zeros(len(kept) + 1, n)
    weights[:-1] = attention * _largest(likeness, count)
    weights[row, kept] = 1
    weights[-1] = attention * dropped
    last = dropped.nonzero()[-1]  # the last place that is free: the token stands behind the others
    return torch.cat([kept, last]), weights


def _largest(values: Tensor, count: int) -> Tensor:
    """[k, n] bool: the `count` largest of each row; of those within TIE of the last the lowest indices."""
    if not len(values):
        return values > 0
    bound = values.topk(count, dim=1).values[:, -1:]
    above = values > bound + TIE
    tied = (values >= bound - TIE) & ~above
    return above | (tied & (tied.cumsum(1) <= count - above.sum(1, keepdim=True)))
