"""Shot noise: a short exposure, in which every grain counts only a few photons.

A channel value v in [0, 1] becomes Poisson(v c) / c, clipped to 1, with c = 60, 25, 12, 5, 3 photons at full
brightness, ImageNet-C's. The draw is the quantile at which each Poisson law is read and comes from the seed
alone, so severities differ by their law and not by their draw. The mean stays but for what is clipped, which
darkens bright places: of v = 1 by 5 % at severity 1 and 22 % at severity 5.

Based on Hendrycks and Dietterich (arXiv 1903.12261), grain scaled to the image's size (see `severity.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from vlmbench.perturb.pixels import Array, as_array
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import bits_per_pixel, to_bytes
from vlmbench.perturb.transforms import Transform, identity

PHOTONS = (0, 60, 25, 12, 5, 3)
"""Counted at full brightness, by severity; 0 stands for no noise."""

_LEVELS = 4096


@dataclass(frozen=True)
class ShotNoise:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        table = _quantiles(PHOTONS[self.severity]).ravel()
        drawn = bits_per_pixel(seed, image.size, 3) >> 4
        noisy = np.empty_like(pixels)
        for channel in range(3):
            place = pixels[..., channel].astype(np.int32) * _LEVELS + drawn[..., channel]
            noisy[..., channel] = table.take(place)
        return Image.fromarray(noisy), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)


@lru_cache(maxsize=6)
def _quantiles(photons: int) -> Array:
    """[256, _LEVELS]: the new value of each old one at the middle of equal shares of its Poisson law."""
    if not photons:
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], _LEVELS, axis=1)
    shares = (np.arange(_LEVELS) + 0.5) / _LEVELS
    counts = np.arange(photons + 10 * math.isqrt(photons) + 10)
    factorials = np.array([math.lgamma(count + 1) for count in counts])
    table = np.zeros((256, _LEVELS), dtype=np.uint8)
    for value in range(1, 256):
        mean = value * photons / 255
        law = np.exp(counts * math.log(mean) - mean - factorials)
        table[value] = to_bytes(np.searchsorted(np.cumsum(law), shares) * 255 / photons)
    return table
