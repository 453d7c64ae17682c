"""From pixels of the source image to pixels of the model's input, as far as a processor tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class NativeResolution:
    """How a model that sees images in their own shape sees one."""

    size: Size
    """Width and height in pixels that enter the encoder."""
    tokens: int
    """Visual tokens that they make."""

    @property
    def snap(self) -> int:
        """Pixels along the side of one token: sizes are multiples of it."""
        return max(1, round(math.sqrt(self.size[0] * self.size[1] / max(1, self.tokens))))


def input_sizes(vision: Mapping[str, Tensor], config: Any) -> tuple[Size, ...]:
    """(width, height) of each picture that the vision encoder receives, tiles one by one, in pixels."""
    pixels = vision.get("pixel_values")
    if pixels is None:
        return ()
    grid = vision.get("image_grid_thw")
    if grid is not None:
        patch = int(config.vision_config.patch_size)
        return tuple((int(w) * patch, int(h) * patch) for _, h, w in grid.tolist())
    if keeps_shape(vision):
        return tuple((int(w), int(h)) for h, w in vision["image_sizes"].tolist())
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    # images cut into fewer tiles than their neighbours are filled up with zeros, which the models drop
    count = int(tiles.flatten(1).any(dim=1).sum()) if pixels.ndim > 4 else len(tiles)
    return ((int(pixels.shape[-1]), int(pixels.shape[-2])),) * count


def keeps_shape(vision: Mapping[str, Tensor]) -> bool:
    """Whether each image enters the encoder whole and in its own shape: Qwen's grids, Pixtral's sizes."""
    if "image_grid_thw" in vision:
        return True
    # tiling families also tell `image_sizes`, those of the source; their pixels have a dimension for tiles
    return "image_sizes" in vision and vision["pixel_values"].ndim == 4


def resized_size(image_processor: Any, source: Size, inputs: tuple[Size, ...], whole: bool) -> Size | None:
    """The size to which one source image is resized before any crop; None where it is cut into tiles.

    `inputs` are the sizes that entered the encoder; `whole` says that they are the resized image itself.
    """
    if len(inputs) != 1:
        return None
    size = dict(getattr(image_processor, "size", None) or {})
    width, height = source
    if whole:
        return inputs[0]
    if size.get("height") and size.get("width"):
        return int(size["width"]), int(size["height"])
    if size.get("shortest_edge"):
        short, long = sorted(source)
        edge = int(size["shortest_edge"])
        other = int(edge * long / short)  # torch and Pillow processors both truncate here
        return (edge, other) if width <= height else (other, edge)
    return None


def pixels_per_patch(source: Size, resized: Size, patch: int) -> int | None:
    """Source pixels that one patch of the model covers, where that is a whole number in both directions."""
    steps = {source[0] * patch / resized[0], source[1] * patch / resized[1]}
    step = steps.pop()
    return int(step) if not steps and step.is_integer() else None
