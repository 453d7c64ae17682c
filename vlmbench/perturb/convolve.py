"""Convolution of an RGB image with one kernel, by fast Fourier transform: the cost hardly depends on how
large the kernel is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.severity import to_bytes

Kernel = NDArray[np.float64]
"""[2 r + 1, 2 q + 1], sums to 1; its middle is the pixel itself."""


def convolved(image: Image.Image, kernel: Kernel) -> Image.Image:
    """The RGB image, mirrored at its borders, with every channel convolved with `kernel`."""
    pixels = as_array(image)
    height, width = pixels.shape[:2]
    r, q = kernel.shape[0] // 2, kernel.shape[1] // 2
    shape = [fft.next_fast_len(n, real=True) for n in (height + 2 * r, width + 2 * q)]
    # The kernel's middle stands at the origin, so that the result needs no shift back.
    around = np.zeros(shape, dtype=np.float32)
    around[: 2 * r + 1, : 2 * q + 1] = kernel
    spectrum = fft.rfft2(np.roll(around, (-r, -q), axis=(0, 1)))
    new = np.empty_like(pixels)
    for channel in range(3):
        mirrored = np.pad(pixels[..., channel], ((r, r), (q, q)), mode="symmetric").astype(np.float32)
        blurred = fft.irfft2(fft.rfft2(mirrored, s=shape) * spectrum, s=shape)
        new[..., channel] = to_bytes(blurred[r : r + height, q : q + width])
    return Image.fromarray(new)
