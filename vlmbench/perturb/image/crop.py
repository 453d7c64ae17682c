"""Cropping: a few pixels are cut off on all sides.

The model's resize then enlarges the rest a little and moves every object against the patch grid. The number
of visual tokens may change.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.errors import NotApplicableError
from vlmbench.perturb.pixels import on_canvas
from vlmbench.perturb.risk import strip_risks
from vlmbench.perturb.transforms import Transform, translation


@dataclass(frozen=True)
class Crop:
    """Parameters: n (pixels of the source cut off on each side)."""

    n: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        size = (image.width - 2 * self.n, image.height - 2 * self.n)
        if min(size) < 1:
            raise NotApplicableError(
                f"crop of {self.n} px on all sides leaves nothing of a {image.width}x{image.height} image"
            )
        cropped = on_canvas(image, (-self.n, -self.n), size, "black")
        return cropped, translation(image.size, -self.n, -self.n, out_size=size)

    def risks(self) -> frozenset[str]:
        return strip_risks(self.n)
