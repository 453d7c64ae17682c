"""Contrast: every channel value moves away from the image's mean grey, or towards it.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import look_up, mean_grey
from vlmbench.perturb.risk import photometric_risks
from vlmbench.perturb.transforms import Transform, identity


@dataclass(frozen=True)
class Contrast:
    """Parameters: percent (signed; 5 makes distances from the mean grey 1.05 times as large)."""

    percent: float = 0.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        grey, gain = mean_grey(image), 100 + self.percent
        return look_up(image, lambda value: grey + (value - grey) * gain / 100), identity(image.size)

    def risks(self) -> frozenset[str]:
        return photometric_risks(self.percent)
