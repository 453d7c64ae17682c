"""Glass blur: the picture as through frosted glass; every grain shows a random place nearby.

A light Gaussian blur, then every grain looks up another place at most `REACH` away along each axis, then the
same blur again. ImageNet-C swaps neighbouring pixels one after the other in up to three rounds; here all
grains look at once, and the reach is its largest step times the square root of its rounds, which gives the
same spread. The draw comes from the seed alone, so that severities differ by how far each grain looks.

Based on Hendrycks and Dietterich (arXiv 1903.12261), scaled to the image's size (see `severity.py`).
VLM-RobustBench (arXiv 2603.06148) finds it the most harmful of the mild ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import bits_per_pixel, centred, scale
from vlmbench.perturb.transforms import Transform, identity

SIGMA = (0.0, 0.7, 0.9, 1.0, 1.1, 1.5)
"""Deviation of either blur in pixels of a 224 px image, by severity."""

REACH = (0.0, 2**0.5, 2.0, 12**0.5, 18**0.5, 32**0.5)
"""Largest step in pixels of a 224 px image, by severity."""


@dataclass(frozen=True)
class GlassBlur:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        s = scale(image.size)
        blur = ImageFilter.GaussianBlur(SIGMA[self.severity] * s)
        pixels = as_array(image.filter(blur))
        steps = np.rint(centred(bits_per_pixel(seed, image.size, 2)) * np.float32(REACH[self.severity] * s))
        rows = np.clip(np.arange(image.height)[:, None] + steps[..., 1].astype(np.int32), 0, image.height - 1)
        columns = np.clip(np.arange(image.width) + steps[..., 0].astype(np.int32), 0, image.width - 1)
        return Image.fromarray(pixels[rows, columns]).filter(blur), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)
