"""The quadratic form behind the closed forms, whole or of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vlmbench.prune.forms.norm import Norm


@dataclass(frozen=True, eq=False)
class Kernel:
    """K = (O^T O) o (V V^T) [h, h]: g^T K g = ||O diag(g) V||_F^2, at the cost of h^2 per token.

    V [h, c] are the columns of `inner` scaled by a norm's weight; a LayerNorm's mean, which is a projection
    of its input, is taken out of them here once instead of out of every token's result.

    Memory: h^2 numbers, or r h for rank r once its eigenpairs are computed, which takes h^2 and O(h^3) time
    (about a minute on one CPU thread for h = 4096).
    """

    outer: Tensor
    """O [d, h]."""
    inner: Tensor
    """[h, c]."""
    norm: Norm | None = None

    def __call__(self, g: Tensor, rank: int = 0) -> Tensor:
        """[N]: g^T K g for g [N, h]; with `rank` = r > 0 of K's r largest eigenpairs only, so never more."""
        if rank:
            return (g @ self._factor(rank).T).square().sum(-1)
        return (g @ self._full).mul_(g).sum(-1)

    @cached_property
    def trace(self) -> float:
        return float((self.outer.square().sum(0) @ self._v.square().sum(1)).detach())

    def kept(self, rank: int) -> float:
        """Trace of the part of K that rank `rank` keeps."""
        return float(self._factor(rank).detach().square().sum())

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
    def _full(self) -> Tensor:
        return self._matrix()

    def _factor(self, rank: int) -> Tensor:
        """C [r, h] with K ~ C^T C."""
        if rank not in self._factors:
            values, vectors = torch.linalg.eigh(self._matrix())
            values, vectors = values[-rank:].clamp(min=0), vectors[:, -rank:]
            self._factors[rank] = (vectors * values.sqrt()).T.contiguous()
        return self._factors[rank]

    @cached_property
    def _factors(self) -> dict[int, Tensor]:
        return {}


def residual(kernels: tuple[Kernel, ...], rank: int) -> float:
    """Share of the kernels' trace that rank `rank` leaves out, in [0, 1]; 0 for rank 0, which is all."""
    total = sum(kernel.trace for kernel in kernels)
    if rank == 0 or total == 0:
        return 0.0
    return max(0.0, 1 - sum(kernel.kept(rank) for kernel in kernels) / total)


def root(matrix: Tensor) -> Tensor:
    """R with R^T R = M^T M and at most as many rows as columns: ||M v|| = ||R v||, for less."""
    rows, columns = matrix.shape
    return matrix if rows <= columns else torch.linalg.qr(matrix, mode="r").R
