"""Rescaling: resized by a factor and back, bicubic, so that only fine detail changes.

Every pipeline that stores thumbnails or screenshots does this to its pictures.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.transforms import Size, Transform, identity


@dataclass(frozen=True)
class Rescale:
    """Parameters: factor (new width over old width, before the way back)."""

    factor: float = 1.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        resample = Image.Resampling.BICUBIC
        between = image.resize(scaled_size(image.size, self.factor), resample)
        return between.resize(image.size, resample), identity(image.size)

    def risks(self) -> frozenset[str]:
        return frozenset({"ocr"}) if self.factor < 0.75 else frozenset()


def scaled_size(size: Size, factor: float) -> Size:
    """`size` times `factor`, rounded half up, at least one pixel."""
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)
