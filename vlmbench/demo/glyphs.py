"""Fixed outlines of the demo scenes: five shapes, ten digits and the odd glyphs nobody asks about.

Everything is integer arithmetic on constant tables, so that no machine's libm or font rasteriser can
move a vertex across a pixel border.
"""

from __future__ import annotations

import math

Point = tuple[int, int]

UNIT = 4096
"""Fixed-point one of the sine table and of the outlines."""

# Rounding to 1/4096 hides every last-bit difference between mathematical libraries.
_SINE = tuple(round(UNIT * math.sin(math.radians(degree))) for degree in range(360))

DIGITS = (
    "01110 11011 11011 11011 11011 11011 01110",
    "00110 01110 11110 00110 00110 00110 11111",
    "11110 00011 00011 01110 11000 11000 11111",
    "11111 00011 00110 01110 00011 00011 11110",
    "00011 00111 01111 11011 11111 00011 00011",
    "11111 11000 11110 00011 00011 11011 01110",
    "00111 01100 11000 11110 11011 11011 01110",
    "11111 00011 00011 00110 00110 01100 01100",
    "01110 11011 11011 01110 11011 11011 01110",
    "01110 11011 11011 01111 00011 00110 11100",
)
"""Bitmaps of 5 columns x 7 rows, one string per digit, rows separated by a space."""

DIGIT_COLUMNS, DIGIT_ROWS = 5, 7


def sine(degree: int) -> int:
    return _SINE[degree % 360]


def cosine(degree: int) -> int:
    return _SINE[(degree + 90) % 360]


def _polar(angles: range, radii: tuple[int, ...]) -> tuple[Point, ...]:
    """Corners at `angles` (degrees, 0 is up, clockwise), their radii repeating."""
    return tuple(
        (radii[i % len(radii)] * sine(angle) // UNIT, -radii[i % len(radii)] * cosine(angle) // UNIT)
        for i, angle in enumerate(angles)
    )


_ARM, _END = 1520, 4400
OUTLINES: dict[str, tuple[Point, ...]] = {
    "circle": _polar(range(0, 360, 6), (4096,)),
    "square": _polar(range(45, 405, 90), (5000,)),
    "triangle": _polar(range(0, 360, 120), (5300,)),
    "star": _polar(range(0, 360, 36), (5300, 2500)),
    "cross": (
        (-_ARM, -_END), (_ARM, -_END), (_ARM, -_ARM), (_END, -_ARM), (_END, _ARM), (_ARM, _ARM),
        (_ARM, _END), (-_ARM, _END), (-_ARM, _ARM), (-_END, _ARM), (-_END, -_ARM), (-_ARM, -_ARM),
    ),
}  # fmt: skip
"""Outline of each shape for radius UNIT, around its centre, y downwards."""

REACH = 5300
"""Largest distance of any outline corner from the centre, for radius UNIT."""

ODD_OUTLINES: dict[str, tuple[Point, ...]] = {
    "arrow": ((-4096, -1000), (600, -1000), (600, -2800), (4096, 0), (600, 2800), (600, 1000), (-4096, 1000)),
    "tee": (
        (-3600, -3800),
        (3600, -3800),
        (3600, -2100),
        (850, -2100),
        (850, 3800),
        (-850, 3800),
        (-850, -2100),
        (-3600, -2100),
    ),
    "ell": ((-3000, -3800), (-1200, -3800), (-1200, 2100), (3000, 2100), (3000, 3800), (-3000, 3800)),
    "zigzag": (
        (-4096, 900),
        (-2000, -2600),
        (0, 900),
        (2000, -2600),
        (4096, 900),
        (4096, 2900),
        (2000, -500),
        (0, 2900),
        (-2000, -500),
        (-4096, 2900),
    ),
    "bow": ((-4000, -2800), (0, -500), (4000, -2800), (4000, 2800), (0, 500), (-4000, 2800)),
    "bars": (
        (-3600, -3600),
        (3600, -3600),
        (3600, -2000),
        (-1800, -2000),
        (-1800, -800),
        (2600, -800),
        (2600, 800),
        (-1800, 800),
        (-1800, 2000),
        (3600, 2000),
        (3600, 3600),
        (-3600, 3600),
    ),
}
"""Glyphs of the distractor stratum that are drawn as one filled polygon."""

ODD_KINDS = (*ODD_OUTLINES, "ring", "frame", "crescent", "checks")


def place(outline: tuple[Point, ...], radius: int, angle: int, scale: int = 1) -> list[Point]:
    """Rotate by `angle` degrees clockwise and scale to `radius` x `scale` pixels, around (0, 0)."""
    s, c = sine(angle), cosine(angle)
    one = UNIT * UNIT
    half = one // 2
    return [
        (((x * c - y * s) * radius * scale + half) // one, ((x * s + y * c) * radius * scale + half) // one)
        for x, y in outline
    ]
