"""LoFi: the tokens that carry most of the features' low-rank structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite, greedy_many, of_tile
from vlmbench.prune.rows import gram
from vlmbench.prune.ties import descending
from vlmbench.prune.tiles import of_images, tile_shares

_SMALL = 256  # up to this side of the Gram matrix all its eigenvectors cost a few milliseconds
_SPARE = 32  # directions that the iteration carries beside the wanted ones, for accuracy
_ZERO = {torch.float32: 1e-6, torch.float64: 1e-10}  # share of the largest eigenvalue that is rounding error
_TIE = 1e-5  # relative: leverage scores of float32 features are not better known


@dataclass(frozen=True, kw_only=True)
class LoFi(Batched):
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

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        tokens = [ctx.features for ctx in contexts]
        if self.space == "projector_in":
            given = given_many(contexts, "projector_in", "lofi", instead="lofi(space=features)")
            tokens = [each.flatten(1) for each in given]
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        parts = [of_tile(each, m) for each, own in zip(tokens, tiles, strict=True) for m, _ in own]
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(parts, [None] * len(parts), shares, self._choose))

    def _choose(self, tokens: Tensor, scores: Tensor | None, k: int) -> Tensor:
        """Indices [B, k] of the tokens [B, n, c] of B tiles."""
        images, n, _ = tokens.shape
        if k in (0, n):
            return torch.arange(k, device=tokens.device).repeat(images, 1)
        score = leverage(tokens, self.rank or k, self.iterations)
        return descending(score / score.mean(-1, keepdim=True).clamp(min=1e-12), _TIE)[:, :k]


def leverage(tokens: Tensor, rank: int, iterations: int = 0) -> Tensor:
    """[.., n] in [0, 1], for tokens [.., n, c]; zero everywhere for tokens that are all zero."""
    tokens = tokens.float()
    n, width = tokens.shape[-2:]
    side = min(n, width)
    rank = min(rank, side)
    exact = iterations == 0 or side <= _SMALL or 2 * rank > side
    tokens = tokens.double() if exact else tokens
    inner = _gram(tokens if n <= width else tokens.mT)
    values, vectors = torch.linalg.eigh(inner) if exact else _dominant(inner, rank + _SPARE, iterations)
    values, vectors = values.flip(-1)[..., None, :], vectors.flip(-1)
    counts = values > _ZERO[inner.dtype] * values[..., :1]
    counts &= values >= (1 - _TIE) * values[..., rank - 1 : rank]
    if n > width:
        vectors = tokens @ vectors / values.clamp(min=1e-30).sqrt()
    return (vectors.square() * counts).sum(-1).float()


def _gram(vectors: Tensor) -> Tensor:
    """[.., m, m] for vectors [.., m, d]."""
    if vectors.device.type != "cpu":
        return vectors @ vectors.mT
    if vectors.ndim == 2:
        return gram(vectors)
    return torch.stack([gram(each) for each in vectors])


def _dominant(matrix: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    """The largest `count` eigenvalues [.., count], ascending, of Gram matrices [.., m, m] and their vectors
    [.., m, count].

    Subspace iteration from a fixed start, so that the same image gives the same tokens. The last `_SPARE`
    directions are rough, the others as good as the singular values decay.
    """
    start = torch.randn(matrix.shape[-1], count, generator=torch.Generator().manual_seed(0))
    basis = start.to(matrix)
    for _ in range(iterations):
        basis = torch.linalg.qr(matrix @ basis).Q
    values, turn = torch.linalg.eigh(basis.mT @ (matrix @ basis))
    return values, basis @ turn
