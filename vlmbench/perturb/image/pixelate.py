"""Pixelation: the picture as a mosaic of evenly coloured blocks, each the mean of what it covers.

The shorter side keeps .6, .5, .4, .3, .25 of 224 blocks, ImageNet-C's factors, whatever the image's size; of
an image smaller than 224 px it keeps that share of its own pixels. Blocks end between pixels, so where the
side is no multiple of their number some are a pixel longer.

Based on Hendrycks and Dietterich (arXiv 1903.12261).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import samples
from vlmbench.perturb.transforms import Transform, identity

FACTOR = (0.0, 0.6, 0.5, 0.4, 0.3, 0.25)
"""Blocks along the shorter side, of 224, by severity; 0 keeps every pixel."""


@dataclass(frozen=True)
class Pixelate:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        columns, rows = samples(image.size, FACTOR[self.severity])
        lefts, tops = _starts(image.width, columns), _starts(image.height, rows)
        widths, heights = np.diff(lefts, append=image.width), np.diff(tops, append=image.height)
        sums = np.add.reduceat(np.add.reduceat(pixels, tops, axis=0, dtype=np.int64), lefts, axis=1)
        areas = (heights[:, None] * widths)[..., None]
        means = ((2 * sums + areas) // (2 * areas)).astype(np.uint8)
        return Image.fromarray(means.repeat(heights, axis=0).repeat(widths, axis=1)), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)


def _starts(length: int, blocks: int) -> NDArray[np.intp]:
    """The first pixel of each block of a side, in order."""
    return np.arange(blocks) * length // blocks
