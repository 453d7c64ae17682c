"""Padded rescaling: the picture shrinks and stands in the centre of its original canvas.

The size of the file and the number of visual tokens stay, while every object moves and shrinks.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.image.rescale import scaled_size
from vlmbench.perturb.pixels import as_array, on_canvas
from vlmbench.perturb.transforms import Transform, scaling, translation


@dataclass(frozen=True)
class ScalePad:
    """Parameters: factor (share of the width that remains, bicubic); colour of the border: black, white,
    mean, or edge, which repeats the outermost pixels."""

    factor: float = 1.0
    colour: str = "black"

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        size = scaled_size(image.size, self.factor)
        small = image.resize(size, Image.Resampling.BICUBIC)
        offset = ((image.width - size[0]) // 2, (image.height - size[1]) // 2)
        moved = scaling(image.size, size).then(translation(size, *offset, out_size=image.size))
        return on_canvas(small, offset, image.size, self.colour), moved

    def risks(self) -> frozenset[str]:
        if self.factor >= 1:
            return frozenset()
        return frozenset({"edge"}) if self.factor >= 0.75 else frozenset({"edge", "ocr"})
