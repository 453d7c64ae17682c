"""From a region to the crop: whole pixels, shape, transform there and back, and which of its tokens count."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.perturb.transforms import EPS, Affine
from vlmbench.prune.greedy import first_max
from vlmbench.roi.regions import extent

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.items import Box
    from vlmbench.roi.base import Region, Size

PixelBox = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are one past the last pixel."""


def pixel_box(box: Box, size: Size) -> PixelBox:
    """The whole pixels that `box` touches, on a picture of `size`, at least one in each direction."""
    left, right = _whole(box[0], box[2], size[0])
    top, bottom = _whole(box[1], box[3], size[1])
    return left, top, right, bottom


def enlarged(box: Box, size: Size, margin: float) -> Box:
    """`box` with `margin` times its width on the left and right, and its height above and below, as far as
    the picture goes."""
    wide, tall = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    left, right = max(0.0, box[0] - wide), min(float(size[0]), box[2] + wide)
    return left, max(0.0, box[1] - tall), right, min(float(size[1]), box[3] + tall)


def at_least(box: Box, size: Size, smallest: Size) -> Box:
    """`box`, grown to `smallest` pixels about its centre where it has fewer, and pushed onto the picture; a
    side of the picture that is shorter than that is taken whole."""
    left, right = _grown(box[0], box[2], smallest[0], size[0])
    top, bottom = _grown(box[1], box[3], smallest[1], size[1])
    return left, top, right, bottom


def with_aspect(box: Box, size: Size, frame: Size) -> Box:
    """`box`, grown in one direction to the aspect of `frame`, so that it fills that without being stretched;
    as far as the picture goes."""
    wide, tall, aspect = box[2] - box[0], box[3] - box[1], frame[0] / frame[1]
    left, right = _grown(box[0], box[2], tall * aspect, size[0])
    top, bottom = _grown(box[1], box[3], wide / aspect, size[1])
    return left, top, right, bottom


def fitted(crop: Size, frame: Size, stretch: bool = False) -> Size:
    """The size at which a crop is shown in `frame`: that itself where it is stretched, else the largest of
    the crop's aspect, at least one pixel in each direction."""
    if stretch:
        return frame
    scale = min(frame[0] / crop[0], frame[1] / crop[1])
    wide, tall = (max(1, math.floor(side * scale + 0.5)) for side in crop)
    return min(wide, frame[0]), min(tall, frame[1])


def to_crop(box: PixelBox, source: Size, shown: Size | None = None) -> Affine:
    """Where things of the picture stand in its crop, shown at the size `shown` (None: as it is). Its
    `inverse` maps what stands in the crop back to the picture."""
    left, top, right, bottom = box
    size = shown or (right - left, bottom - top)
    across, down = size[0] / (right - left), size[1] / (bottom - top)
    return Affine((across, 0.0, -left * across, 0.0, down, -top * down), source, size)


def cut(image: Image.Image, box: PixelBox, shown: Size | None = None) -> Image.Image:
    """The crop, resized (bicubic) to `shown` where that is given and another size."""
    crop = image.crop(box)
    if shown is None or shown == crop.size:
        return crop
    from PIL import Image

    return crop.resize(shown, Image.Resampling.BICUBIC)


def crop_mask(region: Region, cells: Tensor, size: tuple[float, float]) -> Tensor:
    """[n] bool: which tokens of the crop are the region.

    cells [n, 4]: what each token of the crop sees, in the crop's pixels, of which there are `size`; without
    area where it is padding. The region's mask is cut to the rectangle around it and stretched over the crop;
    a token counts where it exceeds 1/2 (bilinear) at its centre, and all that see the crop do where the
    region has no mask. The strongest counts where none exceeds 1/2.
    """
    seen = (cells[:, 2:] > cells[:, :2]).all(1)
    if region.mask is None:
        return seen
    rows, columns = extent(region.mask.any(1)), extent(region.mask.any(0))
    part = region.mask[rows[0] : rows[1], columns[0] : columns[1]].to(cells.device, torch.float64)
    centre = ((cells[:, :2] + cells[:, 2:]).double() / 2).nan_to_num()  # a token without a place sees nothing
    y0, y1, down = _between(centre[:, 1] / size[1], part.shape[0])
    x0, x1, across = _between(centre[:, 0] / size[0], part.shape[1])
    above = torch.lerp(part[y0, x0], part[y0, x1], across)
    below = torch.lerp(part[y1, x0], part[y1, x1], across)
    value = torch.where(seen, torch.lerp(above, below, down), 0.0)
    kept = value > 0.5
    if not bool(kept.any()) and bool(seen.any()):
        kept[first_max(value, EPS)] = True
    return kept & seen


def _between(place: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For places [n] in [0, 1] along `count` cells: the cell before, the cell behind, and the share of the
    way from the centre of the first to that of the second; beyond the outer centres the outer cell holds."""
    at = (place * count - 0.5).clamp(0, count - 1)
    before = at.floor().long()
    return before, (before + 1).clamp(max=count - 1), at - before


def _whole(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(max(0, math.floor(low + EPS)), length - 1)
    return start, max(start + 1, min(length, math.ceil(high - EPS)))


def _grown(low: float, high: float, least: float, length: int) -> tuple[float, float]:
    if high - low >= least:
        return low, high
    if least >= length:
        return 0.0, float(length)
    start = min(max(0.0, (low + high - least) / 2), length - least)
    return start, start + least
