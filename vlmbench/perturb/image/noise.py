"""Gaussian sensor noise, drawn anew for every channel of every pixel.

The draw comes from the seed alone, so two strengths differ by their scale and not by their draw.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from PIL import Image

from vlmbench.perturb.pixels import as_array, random_bits
from vlmbench.perturb.transforms import Transform, identity

_LEVELS = 4096


@dataclass(frozen=True)
class Noise:
    """Parameters: sigma (standard deviation, in grey levels of 255)."""

    sigma: float = 0.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        # Grey levels are integers, so the noise may be rounded before it is added: one small table.
        steps = np.floor(self.sigma * np.asarray(_normal()) + 0.5).astype(np.int16)
        noise = steps[random_bits(seed, pixels.size) >> 4].reshape(pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)), identity(image.size)

    def risks(self) -> frozenset[str]:
        return frozenset({"ocr"}) if self.sigma > 8 else frozenset()


@cache
def _normal() -> tuple[float, ...]:
    """Standard normal quantiles at the middle of `_LEVELS` equal shares, the same bytes on every machine."""
    normal = NormalDist()
    return tuple(round(normal.inv_cdf((i + 0.5) / _LEVELS), 9) for i in range(_LEVELS))
