"""Linear projectors, bare or behind a norm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmbench.prune.forms.kernel import root
from vlmbench.prune.forms.norm import Norm, norm_inputs


@dataclass(frozen=True, eq=False)
class Linear:
    """z = W x + b, with a norm of x in front where there is one.

    Bare, every token has the same sensitivity, ||W||_F / sqrt(P c). Behind a norm it is that of `Mlp` with
    g = 1 and W2 = 1: little more than 1 / s, the inverse of the token's standard deviation or RMS.
    """

    weight: Tensor
    """[d, P c]."""
    bias: Tensor | None
    """[d]."""
    norm: Norm | None = None
    patches: int = 1
    """P; only a norm needs to know it."""

    def __post_init__(self) -> None:
        if self.norm is not None:
            self.norm.blocks(self.weight.shape[1], self.patches)

    @property
    def constant(self) -> bool:
        return self.norm is None

    def __call__(self, x: Tensor) -> Tensor:
        """[N, P, c] -> [N, d]."""
        return F.linear(norm_inputs(self.norm, x.to(self.weight.dtype)), self.weight, self._shift)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, rank: int = 0) -> Tensor:
        """S [N] for x [N, P, c]; there is no matrix for `rank` to approximate."""
        x = x.to(self.weight.dtype)
        inputs = self.weight.shape[1]
        if self.norm is None:
            return (self._squares[0] / inputs).sqrt().expand(len(x))
        standard, variance = self.norm.standardise(x)
        squared = torch.zeros_like(variance[:, 0])
        for p, r in enumerate(self._roots):
            along = (self.norm.scale(standard[:, p]) @ r.T).square().sum(-1)
            weight = (2 - standard[:, p].square().mean(-1)) / self.norm.width
            squared += (self._squares[p] - weight * along) / variance[:, p]
        return (squared.clamp(min=0) / inputs).sqrt()

    def residual(self, rank: int) -> float:
        """Nothing is left out."""
        return 0.0

    @cached_property
    def _shift(self) -> Tensor | None:
        return self.bias if self.norm is None else self.norm.shift(self.weight, self.bias)

    @property
    def _blocks(self) -> tuple[Tensor, ...]:
        return torch.split(self.weight, self.norm.width if self.norm else self.weight.shape[1], dim=1)

    @cached_property
    def _roots(self) -> tuple[Tensor, ...]:
        return tuple(root(block) for block in self._blocks)

    @cached_property
    def _squares(self) -> Tensor:
        """[B]: ||V_p||_F^2, for LayerNorm with each row's mean taken out."""
        blocks = self._blocks
        if self.norm is not None:
            blocks = tuple(self.norm.scale(block) for block in blocks)
            if self.norm.centred:
                blocks = tuple(block - block.mean(1, keepdim=True) for block in blocks)
        return torch.stack([block.square().sum() for block in blocks])
