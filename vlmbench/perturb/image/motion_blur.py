"""Motion blur: every point becomes a straight line, as when the camera moves during the exposure.

ImageNet-C trails a half-Gaussian of deviation 3, 5, 8, 12, 15 pixels (of 224) behind every point. Here the
line is even and reaches as far to both sides, so that objects stay where they are; its length has the same
spread, which is sqrt(12 (1 - 2 / pi)) = 2.09 times that deviation. Its direction is drawn within 45 degrees
of the horizontal and is the same at every severity.

Based on Hendrycks and Dietterich (arXiv 1903.12261), scaled to the image's size (see `severity.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmbench.perturb.convolve import Kernel, convolved
from vlmbench.perturb.pixels import random_bits
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import scale
from vlmbench.perturb.transforms import Transform, identity

LENGTH = (0.0, 6.3, 10.4, 16.7, 25.1, 31.3)
"""Pixels of a 224 px image, by severity."""

_SAMPLES = 8  # per pixel of the line


@dataclass(frozen=True)
class MotionBlur:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        length = LENGTH[self.severity] * scale(image.size)
        return convolved(image, line(length, angle(seed))), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)


def angle(seed: int) -> float:
    """Degrees anticlockwise from the horizontal, evenly drawn from [-45, 45)."""
    return int(random_bits(seed, 1)[0]) * 90 / 65536 - 45


def line(length: float, degrees: float) -> Kernel:
    """A line of `length` pixels through the middle, of even density and total mass 1."""
    count = max(2 * math.ceil(length * _SAMPLES / 2), 1)
    along = ((np.arange(count) + 0.5) / count - 0.5) * length
    x, y = along * math.cos(math.radians(degrees)), -along * math.sin(math.radians(degrees))
    q, r = math.ceil(np.abs(x).max()), math.ceil(np.abs(y).max())
    mass = np.zeros((2 * r + 2, 2 * q + 2))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = x - column, y - row
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):  # shared out among the four nearest pixels
        share = (down if dy else 1 - down) * (right if dx else 1 - right)
        np.add.at(mass, (row + r + dy, column + q + dx), share / count)
    return mass[: 2 * r + 1, : 2 * q + 1]
