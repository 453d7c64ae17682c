"""Any image file's pixels as upright 8-bit RGB, the only thing that perturbations and processors see.

The order for every image: EXIF transpose -> RGB -> perturbation -> the model's processor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vlmbench.errors import ItemError

MAX_PIXELS = 89_478_485
"""Pillow's own warning limit, a quarter of a gigabyte as RGB. Larger files are refused before decoding."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A new, upright RGB image; the input stays as it is.

    Transparency lies over white. 16-bit grey is divided by 257. 32-bit grey ("I", "F") has no agreed scale:
    values within [0, 1] (F only), [0, 255] or [0, 65535] are read as such, anything else is stretched from
    its smallest to its largest value. Raises ItemError for empty, huge, truncated or corrupt images.
    """
    width, height = image.size
    name = getattr(image, "filename", "")
    where = f"image {str(name)!r}" if name else "image"
    if width < 1 or height < 1:
        raise ItemError(f"{where} is empty: {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ItemError(f"{where} is too large: {width}x{height} pixels, at most {MAX_PIXELS} are decoded")
    try:
        image.load()
        return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise whatever a broken file leads them to
        reason = " ".join(str(error).split()) or "no reason given"
        raise ItemError(f"{where} cannot be decoded: {type(error).__name__}: {reason}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow has no direct way from premultiplied grey
            image = image.convert("LA")
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, [h, w], scaled to 0..255 and rounded."""
    grey = np.asarray(image).astype(np.float64)
    if not np.isfinite(grey).all():
        raise ValueError("NaN or infinite pixel values")
    low, high = float(grey.min()), float(grey.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 255.0 if high <= 255 else 65535.0
    scaled = (grey - low) * 255 / ((high - low) or 1)  # a constant image is black
    return np.asarray(np.floor(scaled + 0.5), dtype=np.uint8)
