"""Boxes of a perturbed image on the image that it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmbench.perturb.transforms import EPS, Affine, Chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlmbench.items import Box
    from vlmbench.perturb.transforms import Size, Transform

_LATTICE = 256
"""Points along each side where a map has no inverse of its own."""


def pieces(transform: Transform, box: Box) -> list[Box]:
    """The axis-aligned boxes on the old canvas around what stands in `box` on the new one; none where that
    came from nowhere.

    Several only where a shift went around the border. Exact where the map is affine; else to a 256th of the
    old canvas's sides.
    """
    if isinstance(transform, Chain):
        found = [box]
        for part in reversed(transform.steps):
            found = [piece for each in found for piece in pieces(part, each)]
        return found
    if isinstance(transform, Affine):
        back = [*_around(transform, box)] if transform.wrap else [_corners(transform, box)]
        return [piece for each in back if (piece := _clipped(each, transform.in_size)) is not None]
    return _looked_up(transform, box)


def _around(shift: Affine, box: Box) -> Iterator[Box]:
    """What stands in `box`, on the torus."""
    width, height = shift.in_size
    _, _, dx, _, _, dy = shift.matrix
    for left, right in _turned(box[0] - dx, box[2] - dx, width):
        for top, bottom in _turned(box[1] - dy, box[3] - dy, height):
            yield left, top, right, bottom


def _turned(low: float, high: float, length: int) -> Iterator[tuple[float, float]]:
    if high - low >= length - EPS:
        yield 0.0, float(length)
        return
    start = low % length
    end = start + high - low
    yield start, min(end, float(length))
    if end > length + EPS:
        yield 0.0, end - length


def _corners(map: Affine, box: Box) -> Box:
    a, b, c, d, e, f = map.inverse().matrix
    xs, ys = (
        [a * x + b * y + c for x in box[::2] for y in box[1::2]],
        [d * x + e * y + f for x in box[::2] for y in box[1::2]],
    )
    return min(xs), min(ys), max(xs), max(ys)


def _clipped(box: Box, size: Size) -> Box | None:
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(size[0]), box[2]), min(float(size[1]), box[3])
    return (left, top, right, bottom) if right - left > EPS and bottom - top > EPS else None


def _looked_up(transform: Transform, box: Box) -> list[Box]:
    width, height = transform.in_size
    x = (np.arange(_LATTICE) + 0.5) * width / _LATTICE
    y = (np.arange(_LATTICE) + 0.5) * height / _LATTICE
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    moved = transform.points(grid)
    inside = (moved[:, 0] >= box[0]) & (moved[:, 0] <= box[2])
    inside &= (moved[:, 1] >= box[1]) & (moved[:, 1] <= box[3])
    if not inside.any():
        return []
    half = np.array([width, height]) / (2 * _LATTICE)
    low, high = grid[inside].min(0) - half, grid[inside].max(0) + half
    return [(float(low[0]), float(low[1]), float(high[0]), float(high[1]))]
