"""The quadratic form behind the closed forms, whole or of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vlmbench.prune.forms.norm import Norm

_BLOCK = 128  # hidden units; a CPU multiplies narrower matrices more slowly


@dataclass(frozen=True, eq=False)
class Kernel:
    """K = (O^T O) o (V V^T) [h, h]: g^T K g = ||O diag(g) V||_F^2, at the cost of h^2 per token, on a CPU of
    little more than half of it.

    V [h, c] are the columns of `inner` scaled by a norm's weight; a LayerNorm's mean, which is a projection
    of its input, is taken out of them here once instead of out of every token's result.

    Rank r: K ~ C^T C + diag(K - C^T C), with C [r, h] of the r largest eigenpairs. A trained projector's
    spectrum falls slowly and much of K is diagonal, so without the diagonal little is left of the ranking.

    Memory: h^2 numbers, or (r + 1) h for rank r once its eigenpairs are computed, which takes a few times h^2
    and O(h^3) time (about a minute on one CPU thread for h = 4096).
    """

    outer: Tensor
    """O [d, h]."""
    inner: Tensor
    """[h, c]."""
    norm: Norm | None = None

    def __call__(self, g: Tensor, rank: int = 0) -> Tensor:
        """[N]: g^T K g for g [N, h]; in rank `rank` where that is not 0."""
        if rank:
            factor, rest = self._factor(rank)
            return (g @ factor.T).square().sum(-1) + g.square() @ rest
        upper = self._upper
        if g.device.type != "cpu":  # one large product keeps a GPU busier than several of half the work
            return (g @ upper).mul_(g).sum(-1)
        found = torch.zeros_like(g[:, 0])
        width = max(_BLOCK, -(-len(upper) // 8))
        for a in range(0, len(upper), width):
            b = a + width
            found += torch.mm(g[:, :b], upper[:b, a:b]).mul_(g[:, a:b]).sum(-1)
        return found

    @cached_property
    def trace(self) -> float:
        return float((self.outer.square().sum(0) @ self._v.square().sum(1)).detach())

    def kept(self, rank: int) -> float:
        """Trace of C^T C for rank `rank`."""
        return float(self._factor(rank)[0].detach().square().sum())

    @property
    def _v(self) -> Tensor:
        if self.norm is None:
            return self.inner
        v = self.norm.scale(self.inner)
        return v - v.mean(1, keepdim=True) if self.norm.centred else v

    def _matrix(self) -> Tensor:
        v = self._v
        return (self.outer.T @ self.outer).mul_(v @ v.T)

    @cached_property
    def _upper(self) -> Tensor:
        """U with g^T U g = g^T K g and zeros below its diagonal: K is symmetric."""
        matrix = self._matrix()
        return matrix.triu_().add_(matrix.triu(1))

    def _factor(self, rank: int) -> tuple[Tensor, Tensor]:
        """C [r, h] and the diagonal [h] of K - C^T C."""
        if rank not in self._factors:
            matrix = self._matrix()
            values, vectors = torch.linalg.eigh(matrix)
            values, vectors = values[-rank:].clamp(min=0), vectors[:, -rank:]
            factor = (vectors * values.sqrt()).T.contiguous()
            self._factors[rank] = factor, (matrix.diagonal() - factor.square().sum(0)).clamp(min=0)
        return self._factors[rank]

    @cached_property
    def _factors(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


def residual(kernels: tuple[Kernel, ...], rank: int) -> float:
    """Share of the kernels' trace outside C^T C, in [0, 1]; 0 for rank 0, which is all of K."""
    total = sum(kernel.trace for kernel in kernels)
    if rank == 0 or total == 0:
        return 0.0
    return max(0.0, 1 - sum(kernel.kept(rank) for kernel in kernels) / total)


def root(matrix: Tensor) -> Tensor:
    """R with R^T R = M^T M and at most as many rows as columns: ||M v|| = ||R v||, for less."""
    rows, columns = matrix.shape
    return matrix if rows <= columns else torch.linalg.qr(matrix, mode="r").R
