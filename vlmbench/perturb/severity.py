"""The stress set's common scale: ImageNet-C's constants, made for 224 px, on an image of any size.

Rule: a length of r pixels in ImageNet-C (arXiv 1903.12261) is r * s pixels here, s = shorter side / 224, so
that the picture suffers alike however large its file is; the grain of random fields grows by the same s, but
never falls below a pixel. The shorter side counts because it is what ImageNet-C resizes by and because it
bounds what a long strip can bear.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmbench.perturb.pixels import Array, random_bits
from vlmbench.perturb.transforms import Size

REFERENCE = 224
"""Pixels of the shorter side for which ImageNet-C's constants are meant."""

Floats = NDArray[np.float32]


def scale(size: Size) -> float:
    """s: pixels of this image per pixel of a 224 px image."""
    return min(size) / REFERENCE


def grains(size: Size) -> Size:
    """Columns and rows of a random field: one grain per pixel of a 224 px image, at least a pixel large."""
    side = max(scale(size), 1.0)
    return max(int(size[0] / side + 0.5), 1), max(int(size[1] / side + 0.5), 1)


def samples(size: Size, factor: float) -> Size:
    """Columns and rows that remain where the shorter side keeps `factor` of its pixels, of 224 at most, so
    that an image below 224 px loses the same share; a factor of 0 keeps them all."""
    if not factor:
        return size
    share = factor * min(REFERENCE / min(size), 1.0)
    return max(int(size[0] * share + 0.5), 1), max(int(size[1] * share + 0.5), 1)


def bits_per_pixel(seed: int, size: Size, channels: int) -> NDArray[np.uint16]:
    """Uniform 16-bit numbers [h, w, channels]; all pixels of one grain share theirs."""
    columns, rows = grains(size)
    drawn = random_bits(seed, columns * rows * channels).reshape(rows, columns, channels)
    spread = drawn.take(np.arange(size[1]) * rows // size[1], axis=0)
    return spread.take(np.arange(size[0]) * columns // size[0], axis=1)


def centred(bits: NDArray[np.uint16]) -> Floats:
    """16-bit numbers as evenly spread ones in (-1, 1)."""
    return np.asarray((bits.astype(np.float32) + 0.5) / 32768 - 1, dtype=np.float32)


def to_bytes(values: NDArray[np.floating]) -> Array:
    """Rounded half up and clipped to 0..255."""
    return np.asarray(np.clip(np.floor(values + 0.5), 0, 255), dtype=np.uint8)
