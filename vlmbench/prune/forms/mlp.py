"""Two-layer and gated projectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmbench.prune.forms.activations import Activation, activate, check, slope
from vlmbench.prune.forms.kernel import Kernel, residual, root
from vlmbench.prune.forms.norm import Norm, norm_inputs


@dataclass(frozen=True, eq=False)
class Mlp:
    """z = W2 act(W1 x + b1) + b2, with a norm of x in front where there is one.

    Without a norm J = W2 diag(g) W1, g = act'(W1 x + b1), and ||J||_F^2 = g^T K g, K = (W2^T W2) o (W1 W1^T).

    With one, per block p of width c (each patch, or all P c at once): s = sqrt(var + eps),
    xh = (x - mean) / s (RMS norm: without the mean), a = mean(xh^2), V = W1[:, p] diag(w), for LayerNorm
    minus each row's mean:

        ||J||_F^2 = sum_p s_p^-2 [ g^T K_p g - (2 - a_p)/c ||W2 (g o V_p xh_p)||^2 ]

    Cost per token beside W1 x: h^2 per block, and h d per block with a norm.
    """

    weight1: Tensor
    """[h, P c]."""
    bias1: Tensor | None
    """[h]."""
    activation: Activation
    weight2: Tensor
    """[d, h]."""
    bias2: Tensor | None
    """[d]."""
    norm: Norm | None = None
    patches: int = 1
    """P; only a norm needs to know it."""

    constant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.activation)
        if self.norm is not None:
            self.norm.blocks(self.weight1.shape[1], self.patches)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, P, c] -> [N, d]."""
        hidden = F.linear(norm_inputs(self.norm, x.to(self.weight1.dtype)), self.weight1, self._shift)
        return F.linear(activate(self.activation, hidden), self.weight2, self.bias2)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, rank: int = 0) -> Tensor:
        """S [N] for x [N, P, c].

        `rank` = r > 0 replaces each K by its r largest eigenpairs and the diagonal of the rest, h (r + 1)
        instead of h^2 numbers and operations (see `residual`). The term behind a norm is never approximated.
        """
        x = x.to(self.weight1.dtype)
        inputs = self.weight1.shape[1]
        if self.norm is None:
            hidden = F.linear(x.flatten(1), self.weight1, self.bias1)
            squared = self._kernels[0](slope(self.activation, hidden), rank)
            return (squared.clamp(min=0) / inputs).sqrt()

        standard, variance = self.norm.standardise(x)
        shares = [F.linear(self.norm.scale(standard[:, p]), self._block(p)) for p in range(standard.shape[1])]
        hidden = torch.stack(shares).sum(0)
        g = slope(self.activation, hidden if self._shift is None else hidden + self._shift)
        squared = torch.zeros_like(variance[:, 0])
        for p, share in enumerate(shares):
            along = (share.mul_(g) @ self._root.T).square().sum(-1)
            weight = (2 - standard[:, p].square().mean(-1)) / self.norm.width
            squared += (self._kernels[p](g, rank) - weight * along) / variance[:, p]
        return (squared.clamp(min=0) / inputs).sqrt()

    def residual(self, rank: int) -> float:
        """Share of the trace of all K outside their r largest eigenpairs.

        Without a norm ||J||_F^2 errs by at most that trace x ||g||^2, behind one that / min s^2.
        """
        return residual(self._kernels, rank)

    def _block(self, p: int) -> Tensor:
        assert self.norm is not None
        return self.weight1[:, p * self.norm.width : (p + 1) * self.norm.width]

    @cached_property
    def _shift(self) -> Tensor | None:
        return self.bias1 if self.norm is None else self.norm.shift(self.weight1, self.bias1)

    @cached_property
    def _root(self) -> Tensor:
        return root(self.weight2)

    @cached_property
    def _kernels(self) -> tuple[Kernel, ...]:
        if self.norm is None:
            return (Kernel(self.weight2, self.weight1),)
        blocks = self.norm.blocks(self.weight1.shape[1], self.patches)
        return tuple(Kernel(self.weight2, self._block(p), self.norm) for p in range(blocks))


@dataclass(frozen=True, eq=False)
class GatedMlp:
    """z = Wd (act(Wg x + bg) o (Wu x + bu)) + bd.

    With p = act'(Wg x + bg) o (Wu x + bu) and r = act(Wg x + bg), J = Wd (diag(p) Wg + diag(r) Wu): that of a
    two-layer projector with 2 h hidden units, g = [p; r], W1 = [Wg; Wu] and W2 = [Wd, Wd].

    Cost per token: 4 h^2; memory 4 h^2 numbers, 2 h r for rank r.
    """

    gate: Tensor
    """Wg [h, P c]."""
    up: Tensor
    """Wu [h, P c]."""
    down: Tensor
    """Wd [d, h]."""
    activation: Activation
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    constant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.activation)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, P, c] -> [N, d]."""
        gate, up = self._hidden(x)
        return F.linear(activate(self.activation, gate) * up, self.down, self.down_bias)

    @torch.no_grad()
    def sensitivity(self, x: Tensor, rank: int = 0) -> Tensor:
        """S [N] for x [N, P, c]; `rank` as in `Mlp`."""
        gate, up = self._hidden(x)
        g = torch.cat([slope(self.activation, gate) * up, activate(self.activation, gate)], dim=-1)
        return (self._kernel(g, rank).clamp(min=0) / self.gate.shape[1]).sqrt()

    def residual(self, rank: int) -> float:
        """Share of the trace of K outside its r largest eigenpairs."""
        return residual((self._kernel,), rank)

    def _hidden(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.to(self.gate.dtype).flatten(1)
        return F.linear(flat, self.gate, self.gate_bias), F.linear(flat, self.up, self.up_bias)

    @cached_property
    def _kernel(self) -> Kernel:
        return Kernel(torch.cat([self.down, self.down], dim=1), torch.cat([self.gate, self.up]))
