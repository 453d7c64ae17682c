"""LLaVA: one square of patches per image; LLaVA-NeXT and -OneVision: tiles, packed with newline tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.families.base import (
    Family,
    Layout,
    Picture,
    behind_hidden_state,
    feature_layer,
    mlp,
    raster,
    same_units,
    square,
)

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


class Llava(Family):
    """Linear, activation, Linear on single patches; the tower may be CLIP or SigLIP."""

    name = "llava"

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.multi_modal_projector
        return found

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        size, device = pooled[0].shape[0], pooled[0].device
        self._refuse_class_tokens_as_features(model)
        side = square(size, self.name)
        grid = raster(side, side, device)
        pictures = tuple(
            Picture(grid, slice(i * size, (i + 1) * size), slice(i, i + 1)) for i in range(len(pooled))
        )
        return Layout(pictures, same_units(len(pooled) * size, size))

    def depth(self, model: Any, layers: int) -> int:
        return behind_hidden_state(feature_layer(model, self.name), layers)

    def extra(self, model: Any, output: Any) -> Tensor | None:
        if not self.class_tokens(model):
            return None
        layers = model.config.vision_feature_layer
        states = [output.hidden_states[i] for i in ([layers] if isinstance(layers, int) else layers)]
        return torch.cat([state[:, :1] for state in states], dim=-1)

    def form(self, model: Any) -> Form | None:
        part: Any = self.receiver(model)
        return mlp(part.linear_1, part.act, part.linear_2)

    def project(self, model: Any, x: Tensor) -> Tensor:
        projected: Tensor = self.receiver(model)(x.transpose(0, 1))[0]
        return projected

    def _refuse_class_tokens_as_features(self, model: Any) -> None:
        strategy = model.config.vision_feature_select_strategy
        if strategy != "default" and self.class_tokens(model):
            raise UsageError(
                f"{self.name}: pruning cannot place the class token in the image; set "
                f"vision_feature_select_strategy to 'default' (it is {strategy!r})"
            )


class LlavaNext(Llava):
    """The image in one tile, then cut into tiles, cropped to the image, a newline token after each row.

    OneVision also shrinks the cropped canvas where tiles are many. Its tokens are then blends of up to four
    projector outputs; each is given the place and the encoder outputs of the nearest one.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        self._refuse_class_tokens_as_features(model)
        config, device = model.config.vision_config, pooled[0].device
        side: int = config.image_size // config.patch_size
        # the model's own functions read them one by one
        sizes = vision["image_sizes"].cpu()
        tiles = self._tiles(model, sizes, vision.get("batch_num_images"))
        tags = [self._canvas(model, sizes[i], n, side, device) for i, n in enumerate(tiles)]
        packed = self._pack(model, tags, sizes)
        pictures, first = [], 0
        for i, (n, coordinates) in enumerate(zip(tiles, packed, strict=True)):
            wide = self._shape(model, sizes[i])[1]
            base = raster(side, side, device)
            rest = _nearest(coordinates[side * side :], side, wide, n)
            grid = torch.cat((base, rest))
            index = (first + grid[:, 0]) * side * side + grid[:, 1] * side + grid[:, 2]
            source = torch.where(grid[:, 1] < 0, -1, index)
            pictures.append(Picture(grid, source, slice(first, first + n)))
            first += n
        return Layout(tuple(pictures), same_units(first * side * side, side * side))

    def _tiles(self, model: Any, sizes: Tensor, groups: Tensor | None) -> list[int]:
        """Tiles of each image, the overview included, as `get_image_features` counts them."""
        config = model.config
        # OneVision does not cut the images of a request that has several
        alone = [True] * len(sizes) if groups is None else [n == 1 for n in groups.tolist() for _ in range(n)]
        count = _own(model, "image_size_to_num_patches")
        return [
            int(count(size, config.image_grid_pinpoints, config.vision_config.image_size)) if cut else 1
            for size, cut in zip(sizes, alone, strict=True)
        ]

    def _shape(self, model: Any, size: Tensor) -> tuple[int, int]:
        config = model.config
        high, wide = _own(model, "get_anyres_image_grid_shape")(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        return int(high), int(wide)

    def _canvas(self, model: Any, size: Tensor, tiles: int, side: int, device: torch.device) -> Tensor:
        """[tiles, side^2, 2] float32: row and column on the canvas of all tiles but the first."""
        place = raster(side, side, device)[:, 1:].float()
        wide = self._shape(model, size)[1]
        tile = torch.arange(tiles, device=device) - 1
        corner = torch.stack((tile // wide, tile % wide), dim=1) * side
        return place + corner[:, None]

    def _pack(self, model: Any, tags: list[Tensor], sizes: Tensor) -> list[Tensor]:
        """[n, 2] per image: the tags where the model itself puts features, NaN where it puts newlines."""
        options = {"image_newline": torch.full((2,), torch.nan, device=tags[0].device)}
        if self.name == "llava_onevision":
            options["vision_aspect_ratio"] = model.config.vision_aspect_ratio
        else:
            options["vision_feature_select_strategy"] = model.config.vision_feature_select_strategy
        packed: list[Tensor] = model.base_model.pack_image_features(tags, sizes, **options)[0]
        return packed


def _nearest(coordinates: Tensor, side: int, wide: int, tiles: int) -> Tensor:
    """[n, 3]: tile, row and column of canvas coordinates [n, 2]; NaN becomes -1, -1, -1."""
    newline = coordinates.isnan().any(1, keepdim=True)
    # half a patch above and below: floor, so that neighbours stay distinct
    rows, columns = (coordinates.nan_to_num(0.0) + 0.5).floor().long().unbind(1)
    tile = 1 + (rows // side) * wide + columns // side
    grid = torch.stack((tile.clamp(max=max(tiles - 1, 0)), rows % side, columns % side), dim=1)
    return torch.where(newline, -1, grid)


def _own(model: Any, name: str) -> Any:
    """A function of the model's own modelling file."""
    return getattr(sys.modules[type(model.base_model).__module__], name)
