"""Maps and labels of visual tokens as pictures to lie over another one, told apart by lightness alone."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from vlmbench.engine.region_panels import TokenMap

STOPS = ((16, 10, 40, 190), (222, 90, 20, 155), (255, 238, 130, 135))
"""Red, green, blue, opacity from the least to the largest value: over black, over white and between them a
larger value is lighter."""

LEVELS = 24

LABELS = {1: (255, 226, 120, 152), -1: (104, 104, 112, 218), 0: (14, 14, 20, 222)}
"""Foreground, ignored, background: over whatever picture from light to dark."""

UNSEEN = (232, 235, 238, 225)
"""Where no token sees anything."""


def heat(map: TokenMap, size: tuple[int, int]) -> str:
    """Base64 of a PNG of `size`, constant on each token, from the map's least value to its largest."""
    values = map.values
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    share = np.where(known, (values - low) / (high - low if high > low else 1.0), 0.0)
    level = np.where(known, 1 + np.rint(share * (LEVELS - 1)), 0).astype(np.uint8)
    return _png(_painted(map, level, size), [UNSEEN, *(_ramp(i / (LEVELS - 1)) for i in range(LEVELS))])


def labelled(map: TokenMap, size: tuple[int, int]) -> str:
    """The same of its labels, which it has."""
    assert map.labels is not None
    level = np.zeros(map.labels.shape, np.uint8)
    for place, label in enumerate(LABELS, 1):
        level[map.labels == label] = place
    level[~np.isfinite(map.values)] = 0
    return _png(_painted(map, level, size), [UNSEEN, *LABELS.values()])


def _ramp(share: float) -> tuple[int, ...]:
    place = share * (len(STOPS) - 1)
    low = min(int(place), len(STOPS) - 2)
    return tuple(round(a + (place - low) * (b - a)) for a, b in zip(STOPS[low], STOPS[low + 1], strict=True))


def _painted(map: TokenMap, level: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """[h, w]: the level of the token that sees the centre of each pixel, 0 where none does."""
    row, no_row = _seen_by(map.rows, size[1])
    column, no_column = _seen_by(map.columns, size[0])
    found = level[row[:, None], column[None, :]]
    return np.where(no_row[:, None] | no_column[None, :], 0, found).astype(np.uint8)


def _seen_by(edges: NDArray[np.float64], pixels: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """edges [n, 2] in shares -> for each pixel the first line that holds its centre, and if none does."""
    centre = (np.arange(pixels) + 0.5) / pixels
    inside = (centre[:, None] >= edges[:, 0]) & (centre[:, None] < edges[:, 1])  # never where they are NaN
    return inside.argmax(1), np.logical_not(np.any(inside, axis=1))


def _png(levels: NDArray[np.uint8], colours: list[tuple[int, ...]]) -> str:
    """A picture of few flat colours takes under 1 KB as indices into a palette."""
    picture = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    picture.putpalette([part for colour in colours for part in colour[:3]])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=bytes(colour[3] for colour in colours))
    return base64.b64encode(buffer.getvalue()).decode()


def outline(map: TokenMap, mask: NDArray[np.bool_]) -> list[tuple[float, float, float, float]]:
    """Lines, x0, y0, x1, y1 in shares of the picture, between tokens in and out of the mask [H, W]."""
    padded = np.pad(mask, 1)
    rows, columns = _borders(map.rows), _borders(map.columns)
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    found = [(columns[c], rows[r], columns[c + 1], rows[r]) for r, c in level]
    found += [(columns[c], rows[r], columns[c], rows[r + 1]) for r, c in upright]
    return [line for line in found if np.isfinite(line).all()]


def _borders(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, 2] -> [n + 1]: where one line of tokens begins, else where the one before ends."""
    low = np.append(edges[:, 0], np.nan)
    high = np.insert(edges[:, 1], 0, np.nan)
    return np.where(np.isfinite(low), low, high)
