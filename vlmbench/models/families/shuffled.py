"""InternVL, Idefics 3 and SmolVLM: tiles of one size, patches of a block stacked by a pixel shuffle.

Neither tells which tiles are of which image, so all images of a request are ONE, its tiles numbered through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.models.families.base import (
    Family,
    Layout,
    Picture,
    behind_hidden_state,
    bias,
    feature_layer,
    mlp,
    norm,
    raster,
    same_units,
    square,
    weight,
)

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


class _Shuffled(Family):
    def _tiled(self, counts: Sequence[int], size: int, members: Tensor) -> Layout:
        """`size` tokens per tile, made of the patches `members` [size, S] of a tile."""
        side, per = square(size, self.name, "visual tokens per tile"), members.numel()
        pictures, first = [], 0
        for count in counts:
            n = count // size
            if n:
                grid = torch.cat([raster(side, side, members.device, tile) for tile in range(n)])
                pictures.append(
                    Picture(grid, slice(first * size, (first + n) * size), slice(first, first + n))
                )
            first += n
        start = torch.arange(first, device=members.device)[:, None, None] * per
        return Layout(tuple(pictures), same_units(first * per, per), (start + members).flatten(0, 1))


class InternVL(_Shuffled):
    """LayerNorm over the shuffled patches, Linear, GELU, Linear: X has P = 1, as wide as four patches."""

    name = "internvl"

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.multi_modal_projector
        return found

    def depth(self, model: Any, layers: int) -> int:
        return behind_hidden_state(feature_layer(model, self.name), layers)

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        size = pooled.shape[-2]
        ratio = model.config.downsample_ratio
        side = round(size**0.5 / ratio)
        # float64 holds every index exactly
        index = torch.arange(side * side, dtype=torch.float64, device=pooled.device).view(1, side, side, 1)
        members = model.base_model.pixel_shuffle(index, scale_factor=ratio).reshape(size, -1).long()
        return self._tiled(counts, size, members)

    def form(self, model: Any) -> Form | None:
        part: Any = self.receiver(model)
        return mlp(part.linear_1, part.act, part.linear_2, norm(part.layer_norm))

    def project(self, model: Any, x: Tensor) -> Tensor:
        projected: Tensor = self.receiver(model)(x[:, 0])
        return projected


class Idefics(_Shuffled):
    """A linear map of 2 x 2 (or more) patches. Patches that only pad an image attend to nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tower(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.vision_model
        return found

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.connector
        return found

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        connector = model.base_model.connector
        config = model.config.vision_config
        per = (vision["pixel_values"].shape[-1] // config.patch_size) ** 2
        index = torch.arange(per, dtype=torch.float64, device=pooled[0].device).view(1, per, 1)
        members = connector.pixel_shuffle(index, connector.scale_factor)[0].long()
        return self._tiled(counts, members.shape[0], members)

    def form(self, model: Any) -> Form | None:
        from vlmbench.prune.forms import Linear

        part: Any = self.receiver(model)
        layer = part.modality_projection.proj
        return Linear(weight(layer.weight), bias(layer), patches=part.scale_factor**2)

    def project(self, model: Any, x: Tensor) -> Tensor:
        projected: Tensor = model.base_model.connector.modality_projection(x.flatten(1))
        return projected
