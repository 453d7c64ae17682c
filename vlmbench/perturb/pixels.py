"""What several image families need: exact pixel moves, look-up tables, fill colours and random bits.

Everything here is integer arithmetic, so the bytes are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.perturb.transforms import Size

Array = NDArray[np.uint8]
"""[h, w, 3]."""

Colour = tuple[int, int, int]


def as_array(image: Image.Image) -> Array:
    """The pixels, read-only. Raises ValueError where the image is not RGB (see `prepare.to_rgb`)."""
    if image.mode != "RGB":
        raise ValueError(f"image perturbations work on RGB: got mode {image.mode!r}")
    return np.asarray(image)


def mean_colour(image: Image.Image) -> Colour:
    """The mean of each channel, rounded."""
    total = image.width * image.height
    counts = np.asarray(image.histogram(), dtype=np.int64).reshape(3, 256)
    red, green, blue = (int(s) for s in (counts @ np.arange(256) + total // 2) // total)
    return red, green, blue


def mean_grey(image: Image.Image) -> float:
    """The mean luma of an RGB image, in grey levels."""
    counts = image.convert("L").histogram()
    return sum(value * count for value, count in enumerate(counts)) / sum(counts)


def fill_colour(name: str, image: Image.Image) -> Colour:
    """`black`, `white` or the `mean` of the image."""
    if name == "mean":
        return mean_colour(image)
    return {"black": (0, 0, 0), "white": (255, 255, 255)}[name]


def on_canvas(image: Image.Image, offset: tuple[int, int], size: Size, fill: str) -> Image.Image:
    """A canvas of `size` on which the image's top left corner stands at `offset`; parts outside are cut off.

    `fill`: `wrap` (torus), `edge` (nearest pixel), `reflect` (mirror, border pixel not repeated), or a
    colour.
    """
    pixels = as_array(image)
    columns = np.arange(size[0]) - offset[0]
    rows = np.arange(size[1]) - offset[1]
    new = pixels.take(_source(rows, image.height, fill), axis=0)
    new = new.take(_source(columns, image.width, fill), axis=1)
    if fill in ("black", "white", "mean"):
        colour = fill_colour(fill, image)
        new[(rows < 0) | (rows >= image.height)] = colour
        new[:, (columns < 0) | (columns >= image.width)] = colour
    return Image.fromarray(new)


def _source(index: NDArray[np.intp], length: int, fill: str) -> NDArray[np.intp]:
    """Which old row or column stands at each new one."""
    if fill == "wrap":
        return np.asarray(index % length)
    if fill == "reflect":
        period = max(2 * (length - 1), 1)
        index = np.abs(index) % period
        return np.asarray(np.minimum(index, period - index))
    return np.clip(index, 0, length - 1)


def look_up(image: Image.Image, curve: Callable[[int], float]) -> Image.Image:
    """Every channel value v becomes `curve(v)`, rounded and clipped to 0..255."""
    as_array(image)
    table = [min(max(int(curve(value) + 0.5), 0), 255) for value in range(256)]
    return image.point(table * 3)


def random_bits(seed: int, count: int) -> NDArray[np.uint16]:
    """`count` uniform 16-bit numbers from PCG64's raw stream, which numpy promises never to change."""
    raw = np.random.PCG64(seed).random_raw(-(-count // 4))
    return np.asarray(raw, dtype="<u8").view("<u2")[:count].astype(np.uint16)
