"""The least significant bit of all channels of some pixels: a change that nobody can see.

A NULL perturbation: what flips here is the noise floor of the model, against which real perturbations are
held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmbench.perturb.pixels import as_array, random_bits
from vlmbench.perturb.transforms import Transform, identity


@dataclass(frozen=True)
class Lsb:
    """Parameters: share (of the pixels whose last bit is flipped; a larger share contains every smaller
    one)."""

    share: float = 0.0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        chosen = random_bits(seed, image.width * image.height) < int(self.share * 65536 + 0.5)
        flipped = pixels ^ chosen.reshape(image.height, image.width, 1).astype(np.uint8)
        return Image.fromarray(flipped), identity(image.size)

    def risks(self) -> frozenset[str]:
        return frozenset()
