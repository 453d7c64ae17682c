"""PaliGemma and Gemma 3: one square of patches per image, or per crop where Gemma's processor crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.models.families.base import (
    Family,
    Layout,
    Picture,
    bias,
    blocks,
    raster,
    same_units,
    square,
    weight,
)

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


class PaliGemma(Family):
    """A linear map of single patches."""

    name = "paligemma"

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.multi_modal_projector
        return found

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        images, size = pooled.shape[:2]
        side = square(size, self.name)
        grid = raster(side, side, pooled.device)
        pictures = tuple(
            Picture(grid, slice(i * size, (i + 1) * size), slice(i, i + 1)) for i in range(images)
        )
        block = blocks(side * (pool := self._pool(model)), side * pool, pool, pooled.device)
        if pool == 1:
            return Layout(pictures, same_units(images * size, size))
        start = torch.arange(images, device=pooled.device)[:, None, None] * block.numel()
        return Layout(
            pictures, same_units(images * block.numel(), block.numel()), (start + block).flatten(0, 1)
        )

    def form(self, model: Any) -> Form | None:
        from vlmbench.prune.forms import Linear

        layer: Any = model.base_model.multi_modal_projector.linear
        return Linear(weight(layer.weight), bias(layer))

    def project(self, model: Any, x: Tensor) -> Tensor:
        projected: Tensor = self.receiver(model)(x[:, 0])
        return projected

    def _pool(self, model: Any) -> int:
        """Patches along one side of a visual token."""
        return 1


class Gemma3(PaliGemma):
    """Average of a block of patches, RMS norm, linear map: X is the average, with P = 1."""

    name = "gemma3"

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.multi_modal_projector.mm_soft_emb_norm
        return found

    def form(self, model: Any) -> Form | None:
        from vlmbench.prune.forms import Linear, Norm

        part: Any = model.base_model.multi_modal_projector
        norm = part.mm_soft_emb_norm
        # Gemma stores the scale's distance from one
        scale = 1 + weight(norm.weight)
        return Linear(
            weight(part.mm_input_projection_weight).T.contiguous(),
            None,
            norm=Norm("rms", scale, None, norm.eps, scale.shape[0]),
        )

    def project(self, model: Any, x: Tensor) -> Tensor:
        part: Any = model.base_model.multi_modal_projector
        projected: Tensor = part.mm_soft_emb_norm(x[:, 0]) @ part.mm_input_projection_weight
        return projected.to(x.dtype)

    def _pool(self, model: Any) -> int:
        return int(model.base_model.multi_modal_projector.kernel_size)
