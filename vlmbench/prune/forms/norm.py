"""The norm in front of a projector's first matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm or RMS norm over `width` inputs: each patch's c, or all P c after the concatenation."""

    kind: str
    """`layer` or `rms`."""
    weight: Tensor | None
    """[width], None for ones."""
    bias: Tensor | None
    """[width]."""
    eps: float
    width: int

    def __post_init__(self) -> None:
        if self.kind not in ("layer", "rms"):
            raise ValueError(f"norm must be 'layer' or 'rms': got {self.kind!r}")

    @property
    def centred(self) -> bool:
        return self.kind == "layer"

    def blocks(self, inputs: int, patches: int) -> int:
        """Into how many separately normed blocks `inputs` = P c falls. Raises ValueError if into neither."""
        if self.width not in (inputs, inputs // patches) or inputs % patches:
            raise ValueError(
                f"norm of width {self.width} fits neither one of {patches} patches nor all {inputs} inputs"
            )
        return inputs // self.width

    def standardise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """xh [N, B, width] = (x - mean) / s, before weight and bias, and s^2 [N, B]; x [N, P, c]."""
        x = x.reshape(len(x), -1, self.width)
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        variance = x.square().mean(-1) + self.eps
        return x * torch.rsqrt(variance)[..., None], variance

    def scale(self, values: Tensor) -> Tensor:
        """values [.., width] times the norm's weight."""
        return values if self.weight is None else values * self.weight

    def shift(self, matrix: Tensor, bias: Tensor | None) -> Tensor | None:
        """[h]: what the norm's bias adds behind `matrix` [h, inputs], plus that matrix' own bias [h]."""
        if self.bias is None:
            return bias
        added = matrix @ self.bias.repeat(matrix.shape[1] // self.width)
        return added if bias is None else added + bias


def norm_inputs(norm: Norm | None, x: Tensor) -> Tensor:
    """[N, P c]: x [N, P, c] standardised and scaled, the norm's bias left to `Norm.shift`."""
    return x.flatten(1) if norm is None else norm.scale(norm.standardise(x)[0]).flatten(1)
