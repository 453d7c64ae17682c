"""From pixels of the source image to pixels of the model's input, as far as a processor tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Size = tuple[int, int]


def input_sizes(vision: Mapping[str, Tensor], config: Any) -> tuple[Size, ...]:
    """(width, height) of each picture that the vision encoder receives, tiles one by one, in pixels."""
    pixels = vision.get("pixel_values")
    if pixels is None:
        return ()
    grid = vision.get("image_grid_thw")
    if grid is not None:
        patch = int(config.vision_config.patch_size)
        return tuple((int(w) * patch, int(h) * patch) for _, h, w in grid.tolist())
    tiles = 1
    for count in pixels.shape[:-3]:
        tiles *= count
    return ((int(pixels.shape[-1]), int(pixels.shape[-2])),) * tiles


def resized_size(image_processor: Any, source: Size, inputs: tuple[Size, ...], grid: bool) -> Size | None:
    """The size to which one source image is resized before any crop; None where it is cut into tiles.

    `inputs` are the sizes that entered the encoder; `grid` says that they are the resized image itself.
    """
    if len(inputs) != 1:
        return None
    size = dict(getattr(image_processor, "size", None) or {})
    width, height = source
    if grid:
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
