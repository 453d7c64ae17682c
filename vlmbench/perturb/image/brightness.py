"""Brightness: every channel value is multiplied, as by a slightly longer exposure.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import look_up
from vlmbench.perturb.risk import photometric_risks
from vlmbench.perturb.transforms import Transform, identity


@dataclass(frozen=True)
class Brightness:
    """Parameters: percent (signed; 5 multiplies by 1.05)."""

    percent: float = 0.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        gain = 100 + self.percent
        return look_up(image, lambda value: value * gain / 100), identity(image.size)

    def risks(self) -> frozenset[str]:
        return photometric_risks(self.percent)
