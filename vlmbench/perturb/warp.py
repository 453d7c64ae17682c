"""A smooth distortion of the canvas: where pixels come from, and where points and boxes go to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from vlmbench.items import Box
from vlmbench.perturb.pixels import Array
from vlmbench.perturb.severity import to_bytes
from vlmbench.perturb.transforms import EPS, Chain, Points, Size, Transform, clipped, inside

Knots = NDArray[np.float64]
"""[rows + 1, columns + 1, 2]: distances (x, y) in pixels at evenly spaced knots, the outermost ones on the
canvas's border."""

_NEAR = 1e-9  # pixels
_MOST_ROUNDS = 1000
_BAND = 2**19  # pixels


@dataclass(frozen=True, eq=False)
class Warp:
    """The new image's place q shows the old one's place q + d(q), where d is bilinear between the knots.

    The largest stretch of `knots` must stay below 1: then each old place p has exactly one new place, which
    repeated q <- p - d(q) finds. Raises ValueError otherwise.
    """

    knots: Knots
    size: Size

    def __post_init__(self) -> None:
        if not largest_stretch(self.knots, self.size) < 1:
            raise ValueError("the distortion folds over: its largest stretch must be below 1")

    @property
    def in_size(self) -> Size:
        return self.size

    @property
    def out_size(self) -> Size:
        return self.size

    def distances(self, xy: Points) -> Points:
        """d at places [n, 2] of the new image; outside the canvas as at its border."""
        cells = np.array(self.knots.shape[1::-1]) - 1
        place = np.clip(np.nan_to_num(xy) / self.size, 0, 1) * cells
        corner = np.minimum(place.astype(int), cells - 1)
        (x, y), (right, down) = corner.T, (place - corner).T[..., None]
        above = self.knots[y, x] * (1 - right) + self.knots[y, x + 1] * right
        below = self.knots[y + 1, x] * (1 - right) + self.knots[y + 1, x + 1] * right
        return np.asarray(above * (1 - down) + below * down)

    def points(self, xy: Points) -> Points:
        xy = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
        moved = self._moved(xy)
        lost = ~(inside(xy, self.size) & inside(moved, self.size))
        moved = np.clip(moved, 0.0, self.size)
        moved[lost] = np.nan
        return moved

    def box(self, box: Box) -> Box | None:
        x0, x1 = max(box[0], 0.0), min(box[2], float(self.size[0]))
        y0, y1 = max(box[1], 0.0), min(box[3], float(self.size[1]))
        if x1 - x0 <= EPS or y1 - y0 <= EPS:
            return None
        # Nothing folds, so the outline of what was in the box is the moved outline of the box.
        step = min(self.size[axis] / (self.knots.shape[1 - axis] - 1) for axis in (0, 1)) / 2
        xs = np.linspace(x0, x1, min(int((x1 - x0) / step) + 2, 512))
        ys = np.linspace(y0, y1, min(int((y1 - y0) / step) + 2, 512))
        outline = np.concatenate(
            [
                np.stack([xs, np.full_like(xs, y0)], axis=1),
                np.stack([np.full_like(ys, x1), ys], axis=1),
                np.stack([xs[::-1], np.full_like(xs, y1)], axis=1),
                np.stack([np.full_like(ys, x0), ys[::-1]], axis=1),
            ]
        )
        left = clipped([(float(x), float(y)) for x, y in self._moved(outline)], self.size)
        if not left:
            return None
        low, high = np.min(left, axis=0), np.max(left, axis=0)
        if (high - low).min() <= EPS:
            return None
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def then(self, after: Transform) -> Transform:
        return Chain((self,)).then(after)

    def _moved(self, xy: Points) -> Points:
        """New places [n, 2] of old ones, also beyond the border."""
        moved = xy
        for _ in range(_MOST_ROUNDS):
            before, moved = moved, xy - self.distances(moved)
            if not np.nan_to_num(np.abs(moved - before)).max(initial=0) > _NEAR:
                break
        return moved


def largest_stretch(knots: Knots, size: Size) -> float:
    """The Lipschitz constant of the distances: by how much two places move against each other, at most, as
    a share of their distance. Exact: the Jacobian is linear along each axis of a cell, so its norm is largest
    at a knot."""
    rows, columns = knots.shape[0] - 1, knots.shape[1] - 1
    along_x = np.diff(knots, axis=1) * (columns / size[0])  # [rows + 1, columns, 2]
    along_y = np.diff(knots, axis=0) * (rows / size[1])  # [rows, columns + 1, 2]
    largest = 0.0
    for x in (along_x[:-1], along_x[1:]):
        for y in (along_y[:, :-1], along_y[:, 1:]):
            # largest singular value of [[x0, y0], [x1, y1]]
            squares = (x**2).sum(-1) + (y**2).sum(-1)
            determinant = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
            root = np.sqrt(np.maximum(squares**2 - 4 * determinant**2, 0))
            largest = max(largest, float(np.sqrt((squares + root).max() / 2)))
    return largest


def warped(pixels: Array, warp: Warp) -> Array:
    """The pixels [h, w, 3] as `warp` shows them, bilinear, mirrored at the border."""
    height, width = pixels.shape[:2]
    lines = _between(np.arange(height), height, warp.knots)  # [h, columns + 1, 2]
    old = [pixels[..., channel].astype(np.float32) for channel in range(3)]
    new = np.empty_like(pixels)
    for top in range(0, height, -(-_BAND // width)):  # in bands: eight numbers per pixel would be gigabytes
        band = np.arange(top, min(top + -(-_BAND // width), height))
        distances = _between(np.arange(width), width, lines[band].swapaxes(0, 1)).swapaxes(0, 1)
        places = band[:, None] + distances[..., 1], np.arange(width) + distances[..., 0]
        for channel, values in enumerate(old):
            new[band, :, channel] = to_bytes(map_coordinates(values, places, order=1, mode="reflect"))
    return new


def _between(pixels: NDArray[np.intp], length: int, knots: Knots) -> Knots:
    """Knots [n + 1, ..] joined linearly at the centres of `pixels` [m] of a side of `length`: [m, ..]."""
    cells = len(knots) - 1
    place = (pixels + 0.5) / length * cells
    corner = np.minimum(place.astype(int), cells - 1)
    share = (place - corner).reshape(-1, *(1,) * (knots.ndim - 1))
    return np.asarray(knots[corner] * (1 - share) + knots[corner + 1] * share)
