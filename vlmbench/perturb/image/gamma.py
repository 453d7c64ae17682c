"""Gamma: channel values in [0, 1] are raised to a power near 1, which moves the mid-tones only.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import look_up
from vlmbench.perturb.risk import photometric_risks
from vlmbench.perturb.transforms import Transform, identity


@dataclass(frozen=True)
class Gamma:
    """Parameters: percent (signed; 5 is the exponent 1.05, which darkens)."""

    percent: float = 0.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        exponent = 1 + self.percent / 100

        def curve(value: int) -> float:
            # Rounded to 1e-9 of a grey level, so that the last bit of the platform's pow cannot show.
            return round(float(255 * (value / 255) ** exponent), 9)

        return look_up(image, curve), identity(image.size)

    def risks(self) -> frozenset[str]:
        return photometric_risks(self.percent)
