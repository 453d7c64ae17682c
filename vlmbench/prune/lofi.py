"""LoFi: the tokens that carry most of the features' low-rank structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.rows import gram
from vlmbench.prune.ties import descending
from vlmbench.prune.tiles import tile_shares

_SMALL = 256  # up to this side of the Gram matrix all its eigenvectors cost a few milliseconds
_SPARE = 32  # directions that the iteration carries beside the wanted ones, for accuracy
_ZERO = {torch.float32: 1e-6, torch.float64: 1e-10}  # share of the largest eigenvalue that is rounding error
_TIE = 1e-5  # relative: leverage scores of float32 features are not better known


@dataclass(frozen=True, kw_only=True)
class LoFi(Pruner):
    """Leverage scores of a low-rank approximation.

    With the singular value decomposition U S V^T of one tile's tokens [n, c], not centred, token i scores
    sum_{j <= rank} U_ij^2: how much the dominant directions depend on it. The k largest scores stay.
    Directions whose singular values tie with the last one count too, those of zero never. Each tile gets an
    equal share of the budget and a decomposition of its own. Choosing at the encoder's output keeps the same
    projected tokens as choosing behind the projector, so the stage is `projector`.

    After LoFi (https://arxiv.org/abs/2503.06794). The default rank, one direction for each token kept, is
    this project's.

    Parameters: ratio, keep, positions (see Pruner); space, rank, iterations. Reads projector_in [N, P, c] or
    features [N, d], and grid [N, 3].
    """

    space: str = "projector_in"
    """Whose tokens are decomposed: `projector_in`, the vision encoder's, or `features`, the projector's."""
    rank: int = 0
    """Directions that count; 0 for as many as tokens are kept."""
    iterations: int = 3
    """Rounds of the subspace iteration that stands in for the decomposition of more than 256 tokens (and
    widths) where at most half of the directions are asked for; close to it where singular values fall like
    1/j or faster. 0 for the decomposition itself."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in"} if self.space == "projector_in" else ())

    def select(self, ctx: Context, k: int) -> Tensor:
        check_finite(ctx.features, "visual features")
        tokens = ctx.features
        if self.space == "projector_in":
            tokens = given(ctx, "projector_in", "lofi", instead="lofi(space=features)").flatten(1)
        kept = [
            members[_select(tokens[members], share, self.rank or share, self.iterations)]
            for members, share in tile_shares(ctx, k)
        ]
        return torch.cat(kept).sort().values


def _select(tokens: Tensor, k: int, rank: int, iterations: int) -> Tensor:
    if k in (0, len(tokens)):
        return torch.arange(k, device=tokens.device)
    score = leverage(tokens, rank, iterations)
    return descending(score / score.mean().clamp(min=1e-12), _TIE)[:k]


def leverage(tokens: Tensor, rank: int, iterations: int = 0) -> Tensor:
    """[n] in [0, 1], for tokens [n, c]; zero everywhere for tokens that are all zero."""
    tokens = tokens.float()
    n, width = tokens.shape
    side = min(n, width)
    rank = min(rank, side)
    exact = iterations == 0 or side <= _SMALL or 2 * rank > side
    tokens = tokens.double() if exact else tokens
    inner = gram(tokens if n <= width else tokens.T)
    values, vectors = torch.linalg.eigh(inner) if exact else _dominant(inner, rank + _SPARE, iterations)
    values, vectors = values.flip(0), vectors.flip(1)
    counts = (values > _ZERO[inner.dtype] * values[0]) & (values >= (1 - _TIE) * values[rank - 1])
    if n > width:
        vectors = tokens @ vectors / values.clamp(min=1e-30).sqrt()
    return (vectors.square() * counts).sum(1).float()


def _dominant(matrix: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    """The largest `count` eigenvalues, ascending, of a Gram matrix [m, m] and their vectors [m, count].

    Subspace iteration from a fixed start, so that the same image gives the same tokens. The last `_SPARE`
    directions are rough, the others as good as the singular values decay.
    """
    start = torch.randn(len(matrix), count, generator=torch.Generator().manual_seed(0))
    basis = start.to(matrix)
    for _ in range(iterations):
        basis = torch.linalg.qr(matrix @ basis).Q
    values, turn = torch.linalg.eigh(basis.T @ (matrix @ basis))
    return values, basis @ turn
