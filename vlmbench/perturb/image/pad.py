"""Padding: a border of a few pixels on all sides; nothing of the picture is lost.

The model's resize then shrinks the picture a little and moves every object against the patch grid. The
number of visual tokens may change.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import on_canvas
from vlmbench.perturb.transforms import Transform, translation


@dataclass(frozen=True)
class Pad:
    """Parameters: n (pixels of the source on each side); colour of the border: black, white, mean, or edge,
    which repeats the outermost pixels."""

    n: int = 0
    colour: str = "black"

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        size = (image.width + 2 * self.n, image.height + 2 * self.n)
        padded = on_canvas(image, (self.n, self.n), size, self.colour)
        return padded, translation(image.size, self.n, self.n, out_size=size)

    def risks(self) -> frozenset[str]:
        return frozenset({"edge"}) if self.n else frozenset()
