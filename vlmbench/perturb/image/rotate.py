"""Rotation by a few degrees about the centre, on an unchanged canvas, bicubic.

The corners that are laid bare get the image's mean colour; `inner_crop` instead keeps the largest upright
rectangle of the same shape that has none.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from vlmbench.errors import NotApplicableError
from vlmbench.perturb.pixels import as_array, mean_colour
from vlmbench.perturb.transforms import Affine, Size, Transform


@dataclass(frozen=True)
class Rotate:
    """Parameters: deg (degrees, positive = anticlockwise); inner_crop (cut off the bare corners)."""

    deg: float = 0.0
    inner_crop: bool = False

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        moved = self._transform(image.size)
        # Not Image.rotate: it copies at 0 and transposes at right angles; every angle must go the same way.
        rotated = image.transform(
            moved.out_size,
            Image.Transform.AFFINE,
            moved.inverse().matrix,
            resample=Image.Resampling.BICUBIC,
            fillcolor=mean_colour(image),
        )
        return rotated, moved

    def _transform(self, size: Size) -> Affine:
        width, height = size
        # Rounded, so that the last bit of the platform's cosine cannot show.
        cos, sin = (round(f(math.radians(self.deg)), 15) for f in (math.cos, math.sin))
        out_size = size
        if self.inner_crop:
            c, s = abs(cos), abs(sin)
            share = min(width / (width * c + height * s), height / (width * s + height * c))
            out_size = int(width * share + 1e-9), int(height * share + 1e-9)
            if min(out_size) < 1:
                raise NotApplicableError(
                    f"rotate by {self.deg:g} with inner_crop leaves nothing of a {width}x{height} image"
                )
        cx, cy = width / 2, height / 2
        x_shift = out_size[0] / 2 - (cos * cx + sin * cy)
        y_shift = out_size[1] / 2 - (-sin * cx + cos * cy)
        return Affine((cos, sin, x_shift, -sin, cos, y_shift), size, out_size)

    def risks(self) -> frozenset[str]:
        if self.deg == 0:
            return frozenset()
        mild = frozenset({"edge", "orientation"})
        if abs(self.deg) <= 2:
            return mild
        return mild | {"count"} if abs(self.deg) <= 5 else mild | {"count", "location", "ocr"}
