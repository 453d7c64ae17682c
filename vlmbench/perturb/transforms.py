"""How points and boxes of an image move when it is perturbed.

Coordinates are continuous pixels: pixel (i, j) covers [i, i+1) x [j, j+1), so an image of width w spans [0,
w] and the centre of its first pixel is 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vlmbench.items import Box

Size = tuple[int, int]
"""Width, height in pixels."""

Points = NDArray[np.float64]
"""[n, 2]: x, y."""

Matrix = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f of x' = a x + b y + c, y' = d x + e y + f."""

EPS = 1e-6
"""Pixels; what rounding may push over a border still counts as on it."""


@runtime_checkable
class Transform(Protocol):
    """Where things of the old image stand in the new one. Whatever was not on the old canvas stands
    nowhere."""

    @property
    def in_size(self) -> Size: ...

    @property
    def out_size(self) -> Size: ...

    def points(self, xy: Points) -> Points:
        """[n, 2] -> [n, 2]; a row of NaN where the point leaves (or was never on) the canvas."""
        ...

    def box(self, box: Box) -> Box | None:
        """The axis-aligned bounding box of what is left of `box` on the new canvas; None if nothing is."""
        ...

    def then(self, after: Transform) -> Transform:
        """This transform followed by `after`, whose input must be this one's output."""
        ...


@dataclass(frozen=True)
class Affine:
    """An affine map between two canvases; with `wrap`, a shift on the torus.

    A box that wraps around a border falls into pieces; the larger piece is returned (at a tie the one that
    did not wrap). A box as wide as the canvas stays that wide.
    """

    matrix: Matrix
    in_size: Size
    out_size: Size
    wrap: bool = False

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.matrix
        if self.wrap and ((a, b, d, e) != (1, 0, 0, 1) or self.in_size != self.out_size):
            raise ValueError("only a shift that keeps the canvas can wrap")

    @property
    def displacement(self) -> tuple[float, float] | None:
        """(dx, dy) in pixels where the map is nothing but a shift on one canvas, else None."""
        a, b, dx, d, e, dy = self.matrix
        shift = (a, b, d, e) == (1, 0, 0, 1) and self.in_size == self.out_size and (dx, dy) != (0, 0)
        return (dx, dy) if shift else None

    def points(self, xy: Points) -> Points:
        xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
        moved = self._map(xy)
        if self.wrap:
            moved = np.mod(moved, self.out_size)
        lost = ~(inside(xy, self.in_size) & inside(moved, self.out_size))
        moved = np.clip(moved, 0.0, self.out_size)
        moved[lost] = np.nan
        return moved

    def box(self, box: Box) -> Box | None:
        x0, x1 = max(box[0], 0.0), min(box[2], float(self.in_size[0]))
        y0, y1 = max(box[1], 0.0), min(box[3], float(self.in_size[1]))
        if x1 - x0 <= EPS or y1 - y0 <= EPS:
            return None
        if self.wrap:
            left, right = _wrapped(x0, x1, self.matrix[2], self.out_size[0])
            top, bottom = _wrapped(y0, y1, self.matrix[5], self.out_size[1])
            return left, top, right, bottom
        corners = self._map(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64))
        rest = clipped([(float(x), float(y)) for x, y in corners], self.out_size)
        if not rest:
            return None
        xs, ys = [x for x, _ in rest], [y for _, y in rest]
        if max(xs) - min(xs) <= EPS or max(ys) - min(ys) <= EPS:
            return None
        return min(xs), min(ys), max(xs), max(ys)

    def then(self, after: Transform) -> Transform:
        return Chain((self,)).then(after)

    def inverse(self) -> Affine:
        """From the new canvas back to the old one. Raises ValueError where the map is not invertible."""
        a, b, c, d, e, f = self.matrix
        det = a * e - b * d
        if det == 0:
            raise ValueError("the transform is not invertible")
        a, b, d, e = e / det, -b / det, -d / det, a / det
        back: Matrix = (a, b, -(a * c + b * f), d, e, -(d * c + e * f))
        return Affine(back, self.out_size, self.in_size, self.wrap)

    def _map(self, xy: Points) -> Points:
        a, b, c, d, e, f = self.matrix
        x, y = xy[:, 0], xy[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other. What one step cuts off stays lost, and boxes are bounded at every
    step."""

    steps: tuple[Transform, ...]

    def __post_init__(self) -> None:
        for first, second in zip(self.steps, self.steps[1:], strict=False):
            if first.out_size != second.in_size:
                raise ValueError(f"a transform to {first.out_size} cannot precede one from {second.in_size}")

    @property
    def in_size(self) -> Size:
        return self.steps[0].in_size

    @property
    def out_size(self) -> Size:
        return self.steps[-1].out_size

    def points(self, xy: Points) -> Points:
        for step in self.steps:
            xy = step.points(xy)
        return xy

    def box(self, box: Box) -> Box | None:
        left: Box | None = box
        for step in self.steps:
            left = None if left is None else step.box(left)
        return left

    def then(self, after: Transform) -> Transform:
        return Chain((*self.steps, *(after.steps if isinstance(after, Chain) else (after,))))


def identity(size: Size) -> Affine:
    """Nothing moves."""
    return translation(size, 0, 0)


def translation(size: Size, dx: float, dy: float, out_size: Size | None = None, wrap: bool = False) -> Affine:
    """Everything moves by (dx, dy) pixels, onto a canvas of `out_size` (default: the old size)."""
    return Affine((1.0, 0.0, float(dx), 0.0, 1.0, float(dy)), size, out_size or size, wrap)


def scaling(size: Size, out_size: Size) -> Affine:
    """The whole canvas is stretched to `out_size`."""
    return Affine((out_size[0] / size[0], 0.0, 0.0, 0.0, out_size[1] / size[1], 0.0), size, out_size)


def inside(xy: Points, size: Size) -> NDArray[np.bool_]:
    """[n] whether each point is on a canvas; a lost one (NaN) is not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(((xy >= -EPS) & (xy <= np.asarray(size) + EPS)).all(axis=1))


def _wrapped(low: float, high: float, shift: float, size: int) -> tuple[float, float]:
    """The larger piece of the interval [low, high] after a shift on a circle of length `size`."""
    length = high - low
    if length >= size - EPS:
        return 0.0, float(size)
    start = (low + shift) % size
    over = start + length - size
    if over <= 0:
        return start, start + length
    return (start, float(size)) if length - over >= over else (0.0, over)


def clipped(polygon: list[tuple[float, float]], size: Size) -> list[tuple[float, float]]:
    """The corners of a polygon's part on the canvas (Sutherland-Hodgman).

    Where that part of a bent polygon is in pieces, they are joined along the border: its bounds stay true.
    """
    for axis, bound, sign in ((0, 0, 1), (0, size[0], -1), (1, 0, 1), (1, size[1], -1)):
        kept: list[tuple[float, float]] = []
        for here, there in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
            depth, next_depth = sign * (here[axis] - bound), sign * (there[axis] - bound)
            if depth >= 0:
                kept.append(here)
            if (depth < 0) != (next_depth < 0):
                share = depth / (depth - next_depth)
                crossing = [p + share * (q - p) for p, q in zip(here, there, strict=True)]
                crossing[axis] = float(bound)
                kept.append((crossing[0], crossing[1]))
        polygon = kept
    return polygon
