"""Pixtral in LLaVA, and Mistral 3: images of any size, packed into one sequence of the tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.models.families.base import Layout, Picture, blocks, mlp, norm, raster, weight
from vlmbench.models.families.llava import Llava

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


class Pixtral(Llava):
    """Linear, activation, Linear on single patches; row breaks are text tokens."""

    name = "pixtral"

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        device = pooled[0].device
        shapes = self._shapes(model, vision)
        side = self._side(model)
        pictures, members, token, patch = [], [], 0, 0
        for i, (high, wide) in enumerate(shapes):
            grid = raster(high // side, wide // side, device)
            pictures.append(Picture(grid, slice(token, token + len(grid)), slice(i, i + 1)))
            members.append(patch + blocks(high, wide, side, device))
            token, patch = token + len(grid), patch + high * wide
        units = tuple(high * wide for high, wide in shapes)
        return Layout(tuple(pictures), units, torch.cat(members) if side > 1 else None)

    def class_tokens(self, model: Any) -> int:
        return 0

    def _shapes(self, model: Any, vision: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """Rows and columns of patches per image."""
        patch = model.config.vision_config.patch_size
        return [(int(high) // patch, int(wide) // patch) for high, wide in vision["image_sizes"].tolist()]

    def _side(self, model: Any) -> int:
        """Patches along one side of a visual token."""
        return 1


class Mistral3(Pixtral):
    """RMS norm per patch, a linear merger of 2 x 2 patches, then Linear, activation, Linear."""

    name = "mistral3"

    def _side(self, model: Any) -> int:
        return int(model.config.spatial_merge_size)

    def form(self, model: Any) -> Form | None:
        part: Any = self.receiver(model)
        merge = weight(part.patch_merger.merging_layer.weight)
        c, p = merge.shape[0], self._side(model) ** 2
        # unfold lays out a block channel by channel, X patch by patch
        merge = merge.view(c, c, p).transpose(1, 2).reshape(c, p * c)
        return mlp(part.linear_1, part.act, part.linear_2, norm(part.norm), merge)

    def project(self, model: Any, x: Tensor) -> Tensor:
        side = self._side(model)
        k, _, c = x.shape
        # one image, a single row of blocks
        strip = x.view(k, side, side, c).transpose(0, 1).reshape(-1, c)
        size = model.config.vision_config.patch_size * side
        projected: Tensor = self.receiver(model)(strip, [(size, size * k)])
        return projected.view(k, -1)
