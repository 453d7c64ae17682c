"""Fog: drifting haze between the camera and the scene.

A value v in [0, 1] becomes (v + c f) / (1 + c): the share 1 / (1 + c) of the scene's light passes, and a
random cloud f in [0, 1] is the air's own light. The cloud is a sum of octaves of random grids, each half as
coarse and 1 / 1.7 as strong as the one before. ImageNet-C takes c = 1.5, 2, 2.5, 2.5, 3, a rougher cloud at
higher severity, and the image's maximum in place of 1; here one seed is one cloud at every severity, c is
2.75 at severity 4, and a black image gets fog too.

Based on Hendrycks and Dietterich (arXiv 1903.12261); the cloud is as large as the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmbench.perturb.pixels import as_array, random_bits
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import Floats, centred, to_bytes
from vlmbench.perturb.transforms import Size, Transform, identity

THICKNESS = (0.0, 1.5, 2.0, 2.5, 2.75, 3.0)
"""c, the haze's light over the scene's, by severity."""

_OCTAVES = 8
_DECAY = 1.7


@dataclass(frozen=True)
class Fog:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        c = np.float32(THICKNESS[self.severity])
        air = cloud(seed, image.size)[..., None] * (255 * c)
        return Image.fromarray(to_bytes((pixels + air) / (1 + c))), identity(image.size)

    def risks(self) -> frozenset[str]:
        # The veil is grey, so hues keep their names where at least .28 of their light passes.
        if self.severity > 3:
            return detail_risks(self.severity) | {"colour"}
        return frozenset({"clarity"}) if self.severity else frozenset()


def cloud(seed: int, size: Size) -> Floats:
    """[h, w] from 0 to 1, both reached; 1 where the image is a single pixel."""
    grids = [_cells(size, octave) for octave in range(_OCTAVES)]
    bits = iter(
        np.split(random_bits(seed, sum(w * h for w, h in grids)), np.cumsum([w * h for w, h in grids]))
    )
    height = Image.new("F", grids[0])
    for octave, (width, rows) in enumerate(grids):
        coarse = np.asarray(height.resize((width, rows), Image.Resampling.BICUBIC))
        finer = centred(next(bits)).reshape(rows, width) * np.float32(_DECAY**-octave)
        height = Image.fromarray(coarse + finer)
    full = np.asarray(height.resize(size, Image.Resampling.BICUBIC))
    low, high = full.min(), full.max()
    return (full - low) / (high - low) if high > low else np.ones_like(full)


def _cells(size: Size, octave: int) -> Size:
    """Columns and rows of one octave's grid: 2, 4, 8.. along the shorter side, never more than pixels."""
    share = 2 ** (octave + 1) / min(size)
    return min(max(int(size[0] * share + 0.5), 1), size[0]), min(max(int(size[1] * share + 0.5), 1), size[1])
