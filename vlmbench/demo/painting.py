"""Drawing of the demo scenes: background, clutter, odd glyphs, shapes and digits, in integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmbench.demo.glyphs import (
    DIGIT_COLUMNS,
    DIGIT_ROWS,
    DIGITS,
    ODD_KINDS,
    ODD_OUTLINES,
    OUTLINES,
    place,
)

Rgb = tuple[int, int, int]
Placed = tuple[str, str, int | None, tuple[int, int], int, int]
"""shape, colour, digit, centre, radius, angle"""

PAINT: dict[str, Rgb] = {
    "red": (205, 35, 38),
    "green": (28, 138, 52),
    "blue": (36, 74, 205),
    "yellow": (244, 222, 40),
    "purple": (142, 44, 172),
    "orange": (244, 126, 28),
}
_JITTER = 20
_DARK_INK = ("yellow", "orange")
# Hues that no question names: white, black, greys, brown, pink, teal.
_ODD_PAINT: tuple[Rgb, ...] = (
    (245, 245, 245), (20, 20, 22), (120, 120, 124), (98, 62, 40), (240, 172, 190), (96, 190, 190),
)  # fmt: skip
_OVERSAMPLING = 2


def paint(
    shapes: Sequence[Placed], stratum: str, size: int, random: np.random.RandomState, density: int = 1
) -> Image.Image:
    """Draw one master of `size` pixels square: background, what the stratum adds (`density` times as much),
    then the shapes."""
    image = _background(size, random)
    if stratum == "clutter":
        _scribble(image, size, random, density)
    if stratum == "distractors":
        _scatter_odd_glyphs(image, size, shapes, random, density)
    light = random.randint(226, 271, 3)
    for shape, colour, digit, centre, radius, angle in shapes:
        rgb = _lit(_jitter(PAINT[colour], random), light)
        _stamp(image, _mask(place(OUTLINES[shape], radius, angle, _OVERSAMPLING), radius), centre, rgb)
        if digit is not None:
            ink = (18, 18, 20) if colour in _DARK_INK else (250, 250, 250)
            _stamp(image, _digit_mask(digit, radius), centre, ink)
    return _grain(image, size, 12, random)


def _jitter(rgb: Rgb, random: np.random.RandomState) -> Rgb:
    r, g, b = (int(c) for c in np.clip(np.array(rgb) + random.randint(-_JITTER, _JITTER + 1, 3), 0, 255))
    return r, g, b


def _lit(rgb: Rgb, light: NDArray[np.int_]) -> Rgb:
    """The colour under the scene's light, a gain per channel in 1/256."""
    r, g, b = (min(255, int(c) * int(gain) >> 8) for c, gain in zip(rgb, light, strict=True))
    return r, g, b


def _background(size: int, random: np.random.RandomState) -> Image.Image:
    """A smooth field around a muted base colour."""
    grey = int(random.randint(95, 206))
    base = grey + random.randint(-14, 15, 3)
    points = int(random.randint(3, 7))
    field = np.clip(base + random.randint(-22, 23, (points, points, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(field).resize((size, size), Image.Resampling.BILINEAR)


def _grain(image: Image.Image, size: int, width: int, random: np.random.RandomState) -> Image.Image:
    """Uniform luminance noise of +-width/2 grey levels on every pixel."""
    noise: NDArray[np.int16] = np.frombuffer(random.bytes(size * size), np.uint8).astype(np.int16)
    noise = (noise * width >> 8) - width // 2
    pixels = np.asarray(image).astype(np.int16) + noise.reshape(size, size, 1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _scribble(image: Image.Image, size: int, random: np.random.RandomState, density: int) -> None:
    """Textured clutter: many short muted strokes and a few coarse stripes, all behind the shapes."""
    draw = ImageDraw.Draw(image)
    strokes = int(random.randint(110, 190)) * density
    ends = random.randint(0, size, (strokes, 2))
    steps = random.randint(-48, 49, (strokes, 2))
    greys = random.randint(50, 226, strokes)
    tints = random.randint(-18, 19, (strokes, 3))
    widths = random.randint(2, 9, strokes)
    for (x, y), (dx, dy), grey, tint, width in zip(ends, steps, greys, tints, widths, strict=True):
        r, g, b = (int(c) for c in grey + tint)
        draw.line((int(x), int(y), int(x + dx), int(y + dy)), fill=(r, g, b), width=int(width))


def _scatter_odd_glyphs(
    image: Image.Image, size: int, shapes: Sequence[Placed], random: np.random.RandomState, density: int
) -> None:
    """Glyphs that look like objects but have neither a shape nor a colour that any question names."""
    taken = [(centre, radius * 4 // 3) for _, _, _, centre, radius, _ in shapes]
    for _ in range(int(random.randint(6, 13)) * density):
        radius = int(random.randint(16, 40))
        kind = ODD_KINDS[int(random.randint(len(ODD_KINDS)))]
        angle = int(random.randint(360))
        rgb = _jitter(_ODD_PAINT[int(random.randint(len(_ODD_PAINT)))], random)
        for x, y in random.randint(radius + 2, size - radius - 2, (8, 2)):
            spot = (int(x), int(y))
            if all(_separate(spot, radius + 4, other, reach) for other, reach in taken):
                taken.append((spot, radius))
                _stamp(image, _odd_mask(kind, radius, angle), spot, rgb)
                break


def _separate(a: tuple[int, int], reach_a: int, b: tuple[int, int], reach_b: int) -> bool:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 >= (reach_a + reach_b) ** 2


def _canvas(radius: int) -> tuple[Image.Image, int]:
    """An empty oversampled mask that holds any outline of this radius, and the position of its middle."""
    middle = (radius * 4 // 3 + 2) * _OVERSAMPLING
    return Image.new("L", (2 * middle, 2 * middle)), middle


def _mask(corners: list[tuple[int, int]], radius: int) -> Image.Image:
    canvas, middle = _canvas(radius)
    ImageDraw.Draw(canvas).polygon([(x + middle, y + middle) for x, y in corners], fill=255)
    return canvas.reduce(_OVERSAMPLING)


def _odd_mask(kind: str, radius: int, angle: int) -> Image.Image:
    if kind in ODD_OUTLINES:
        return _mask(place(ODD_OUTLINES[kind], radius, angle, _OVERSAMPLING), radius)
    canvas, middle = _canvas(radius)
    draw = ImageDraw.Draw(canvas)
    reach, thick = radius * _OVERSAMPLING, radius * _OVERSAMPLING // 4
    disc = (middle - reach, middle - reach, middle + reach, middle + reach)
    if kind == "ring":
        draw.ellipse(disc, outline=255, width=thick)
    elif kind == "frame":
        inner = reach * 3 // 4
        draw.rectangle(
            (middle - inner, middle - inner, middle + inner, middle + inner), outline=255, width=thick
        )
    elif kind == "crescent":
        draw.ellipse(disc, fill=255)
        draw.ellipse((disc[0] + thick * 2, disc[1] - thick, disc[2] + thick * 2, disc[3] - thick), fill=0)
    else:
        square = reach // 2
        for row in range(3):
            for column in range(row % 2, 3, 2):
                x, y = middle - 3 * square // 2 + column * square, middle - 3 * square // 2 + row * square
                draw.rectangle((x, y, x + square, y + square), fill=255)
    return canvas.reduce(_OVERSAMPLING)


def _digit_mask(digit: int, radius: int) -> Image.Image:
    """The digit's bitmap, upright, as high as the shape's radius."""
    rows = [[255 * int(bit) for bit in row] for row in DIGITS[digit].split()]
    height = radius * 21 // 20
    width = height * DIGIT_COLUMNS // DIGIT_ROWS
    return Image.fromarray(np.array(rows, np.uint8)).resize((width, height), Image.Resampling.BOX)


def _stamp(image: Image.Image, mask: Image.Image, centre: tuple[int, int], rgb: Rgb) -> None:
    image.paste(rgb, (centre[0] - mask.width // 2, centre[1] - mask.height // 2), mask)
