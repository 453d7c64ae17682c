"""Defocus: every point becomes a disc, as through a lens that is focused on something else.

Radii of 3, 4, 6, 8, 10 pixels of a 224 px image, ImageNet-C's; the disc's rim is smoothed by the share of a
pixel that it covers instead of by a second small blur.

Based on Hendrycks and Dietterich (arXiv 1903.12261), scaled to the image's size (see `severity.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmbench.perturb.convolve import Kernel, convolved
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import scale
from vlmbench.perturb.transforms import Transform, identity

RADIUS = (0, 3, 4, 6, 8, 10)
"""Pixels of a 224 px image, by severity."""


@dataclass(frozen=True)
class DefocusBlur:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        radius = RADIUS[self.severity] * scale(image.size)
        return convolved(image, disc(radius)), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)


def disc(radius: float) -> Kernel:
    """A disc of `radius` pixels with a rim of one pixel, of total mass 1; radius 0 is the point itself."""
    reach = math.ceil(radius)
    offsets = np.arange(-reach, reach + 1)
    mass = np.clip(radius + 0.5 - np.hypot(offsets[:, None], offsets), 0.0, 1.0)
    return np.asarray(mass / mass.sum())
