"""Where in the source image each visual token looks, for any processor: by sending a picture of coordinates.

Three pictures of the source's size go through the model's own processor: a white one, a black one, and one
whose red rises with x, green with y. Where white and black come out alike there is padding; elsewhere the
three together undo any normalisation. What is left is the source coordinate of every pixel of every tile,
and as processors resize, crop, cut and pad but do not turn pictures, one line per axis and tile says it all.
Processors that hand over flattened patches (`image_grid_thw`) only resize, so theirs needs no picture.

Coordinates are continuous source pixels: pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlmbench.models.geometry import Size, keeps_shape

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs
    from vlmbench.models.larger import Showing

Array = NDArray[np.float64]
Pixels = NDArray[np.float32]
"""[3, H, W], as the vision encoder receives them."""

_REACH = 3
"""Pixels of the coarser of the two pictures that a resize filter reaches: it bends the ramp at borders."""
_LEAST = 8
"""Pixels of a tile to fit a line to."""
_WORST = 0.02
"""Of the source's side: how far a pixel may be from the line before the map is no line."""
_FLAT = 1e-3
"""Of the source's side: a tile that shows no more has no scale; mirrored pictures have a negative one."""
_WAVES = 6
"""Of the dither over the image: each tile gets one or more, each several pixels long."""


@dataclass(frozen=True)
class Line:
    """Along one axis: source = start + step * pixel."""

    start: float
    step: float


@dataclass(frozen=True)
class TilePlace:
    """A picture that the vision encoder receives, as a part of a source image."""

    image: int
    """Which image of the request it shows."""
    size: Size
    x: Line
    y: Line


@dataclass(frozen=True, eq=False)
class Placed:
    """The tokens of one `ImageTokens` in the source images of their request."""

    cells: Tensor
    """[n, 4] float64: left, top, right, bottom in source pixels, clipped to the image; NaN where a token
    has no place (newlines), without area where it sees padding alone."""
    image: Tensor
    """[n] int64: the image of the request that it looks at, -1 where it has no place."""


@dataclass(frozen=True)
class ImagePlaces:
    """Where the pictures lie that a processor makes of a request's images; depends on their sizes alone."""

    sources: tuple[Size, ...]
    tiles: tuple[tuple[TilePlace | None, ...], ...]
    """In the processor's order: apart for each image where it keeps them apart, else all in one; None for
    tiles of nothing but padding."""
    patch: int
    """Pixels along the side of the encoder's patches."""

    def place(self, grids: Sequence[Tensor]) -> list[Placed] | None:
        """For the `ImageTokens.grid` [n, 3] of all of a request's images, one after the other.

        None where that cannot be told: the grids have other tiles than the processor makes, or their rows and
        columns are not the picture's patches in equal blocks.
        """
        parts = self._parts([int(grid[:, 0].max()) + 1 for grid in grids])
        if parts is None:
            return None
        placed = []
        for grid, tiles in zip(grids, parts, strict=True):
            found = self._place(grid.cpu(), tiles)
            if found is None:
                return None
            placed.append(found)
        return placed

    def _parts(self, counts: Sequence[int]) -> list[tuple[TilePlace | None, ...]] | None:
        """The tiles of each grid; `counts` are how many these have."""
        if len(self.tiles) == len(counts):
            # a grid may end early: tokens of tiles without image content are dropped
            fits = all(count <= len(own) for count, own in zip(counts, self.tiles, strict=True))
            return list(self.tiles) if fits else None
        flat = [tile for own in self.tiles for tile in own]
        if len(flat) != sum(counts):
            return None
        ends = np.cumsum(counts).tolist()
        return [tuple(flat[end - count : end]) for count, end in zip(counts, ends, strict=True)]

    def _place(self, grid: Tensor, tiles: Sequence[TilePlace | None]) -> Placed | None:
        tile, row, column = grid.numpy().T
        known = [place for place in tiles if place is not None]
        sides = {self._side(place.size, int(row.max()) + 1, int(column.max()) + 1) for place in known}
        side = sides.pop() if len(sides) == 1 else None
        if side is None:
            return None
        cells, image = np.full((len(grid), 4), np.nan), np.full(len(grid), -1)
        canvases = {(place.image, place.x.step, place.y.step) for place in known}
        for canvas in canvases:
            numbers = [i for i, p in enumerate(tiles) if p and (p.image, p.x.step, p.y.step) == canvas]
            mine = np.isin(tile, numbers) & (row >= 0)
            if not mine.any():
                continue
            image[mine], across, down = canvas[0], canvas[1] * side, canvas[2] * side
            starts = np.zeros((len(tiles), 2))
            starts[numbers] = [(p.x.start, p.y.start) for p in (tiles[i] for i in numbers) if p]
            start = starts[tile[mine]]
            left, right = _evened(start[:, 0] + column[mine] * across, across)
            top, bottom = _evened(start[:, 1] + row[mine] * down, down)
            cells[mine] = np.stack((left, top, right, bottom), axis=1)
        most = np.array([*self.sources, (0, 0)], dtype=np.float64)[image]
        return Placed(torch.from_numpy(cells.clip(0, np.tile(most, 2))), torch.from_numpy(image))

    def _side(self, size: Size, rows: int, columns: int) -> int | None:
        """Pixels along the side of a token; patches that fill no whole token are left over at the end."""
        wide, high = size[0] // self.patch, size[1] // self.patch
        each = wide // columns
        fits = each > 0 and (wide // each, high // each) == (columns, rows)
        return each * self.patch if fits else None


def image_places(
    adapter: Adapter, sizes: Sequence[Size], showing: Showing | None = None
) -> ImagePlaces | None:
    """The places of a request with images of these sizes, in order; keep it, it takes three calls of the
    processor. `showing`: how it is called for that request.

    None where they cannot be told: pixels of an unknown layout, a patch size that the configuration does not
    name, maps that are no lines, images one pixel wide or high. Raises ItemError where the processor refuses
    such images.
    """
    patch = getattr(getattr(adapter.model.config, "vision_config", None), "patch_size", None)
    if isinstance(patch, (list, tuple)) and len(set(patch)) == 1:
        patch = patch[0]
    if not isinstance(patch, int):
        return None
    ramp = _processed(adapter, [_ramp(size, i, len(sizes)) for i, size in enumerate(sizes)], showing)
    if "image_grid_thw" in ramp.vision:
        pairs = list(zip(sizes, ramp.input_size, strict=True))
        places = [(_resized(i, source, size),) for i, (source, size) in enumerate(pairs)]
        return ImagePlaces(tuple(sizes), tuple(places), patch)
    white, black = (
        _processed(adapter, [Image.new("RGB", size, colour) for size in sizes], showing)
        for colour in ("white", "black")
    )
    try:
        probes = zip(_pictures(ramp), _pictures(white), _pictures(black), strict=True)
        tiles = tuple(_agreed(_tiles(r, w, b, sizes)) for r, w, b in probes)
    except _UnknownError:
        return None
    return ImagePlaces(tuple(sizes), tiles, patch)


def cells(adapter: Adapter, source: Size, grid: Tensor) -> Tensor | None:
    """[n, 4] float64, see `Placed.cells`, of the one image of a request; None where `image_places` or its
    `place` cannot tell."""
    places = image_places(adapter, [source])
    placed = None if places is None else places.place([grid])
    return None if placed is None else placed[0].cells


class _UnknownError(Exception):
    """Not a layout of pixels, or not a map, that is understood here."""


def _processed(adapter: Adapter, images: Sequence[Image.Image], showing: Showing | None = None) -> RowInputs:
    return adapter.prepare(adapter.render("?", len(images)), images, 0, showing=showing)


def _ramp(size: Size, number: int, count: int) -> Image.Image:
    """Red: x, green: y, both from 0 to 1 over the image; blue: which image of the request it is.

    Across the ramp, a wave of one colour value makes lines through many pixels finer than a 256th of the
    image. It is slow, so that it survives resizing.
    """
    wide, high = size
    x, y = (np.arange(wide) + 0.5) / wide, (np.arange(high) + 0.5) / high
    pixels = np.empty((high, wide, 3), dtype=np.uint8)
    pixels[..., 0] = np.floor(255 * x + _wave(y)[:, None])
    pixels[..., 1] = np.floor(255 * y[:, None] + _wave(x))
    pixels[..., 2] = round(255 * (number + 0.5) / count)
    return Image.fromarray(pixels)


def _wave(along: Array) -> Array:
    """[0, 1) -> [0, 1): a triangle, whose values are spread evenly."""
    up: Array = along * _WAVES % 1
    return np.minimum(up, 1 - up) * 1.998


def _resized(image: int, source: Size, size: Size) -> TilePlace:
    """The whole source image, resized."""
    return TilePlace(image, size, Line(0.0, source[0] / size[0]), Line(0.0, source[1] / size[1]))


def _pictures(row: RowInputs) -> list[list[Pixels]]:
    """Of a request, apart for each image where the processor keeps them apart."""
    pixels = row.vision.get("pixel_values")
    if pixels is None or pixels.ndim not in (4, 5) or pixels.shape[-3] != 3:
        raise _UnknownError
    values = pixels.float()
    if keeps_shape(row.vision):
        sizes = row.vision["image_sizes"].tolist()
        return [[each[:, :high, :wide].numpy()] for each, (high, wide) in zip(values, sizes, strict=True)]
    return [list(each.numpy()) for each in (values if pixels.ndim == 5 else values[None])]


def _tiles(
    ramp: Sequence[Pixels], white: Sequence[Pixels], black: Sequence[Pixels], sources: Sequence[Size]
) -> list[TilePlace | None]:
    # images cut into fewer tiles than their neighbours are filled up with zeros, which the models drop
    same = zip(ramp, white, black, strict=True)
    return [_tile(r, w, b, sources) for r, w, b in same if r.any() or w.any() or b.any()]


def _tile(ramp: Pixels, white: Pixels, black: Pixels, sources: Sequence[Size]) -> TilePlace | None:
    """The part of a source image that a picture is; None for padding alone."""
    span = white - black
    most = span.max((1, 2), keepdims=True)
    if not (most > 0).all():
        return None
    inside = (span > 0.95 * most).all(0)
    rows, columns = inside.any(1), inside.any(0)
    box = np.ix_(rows, columns)
    if not inside[box].all():
        raise _UnknownError
    x, y, number = ((ramp[c][box] - black[c][box]) / span[c][box] for c in range(3))
    image = min(int(np.median(number) * len(sources)), len(sources) - 1)
    profiles = x.mean(0, np.float64) * sources[image][0], y.mean(1, np.float64) * sources[image][1]
    lines = [_line(*each) for each in zip(profiles, (columns, rows), sources[image], strict=True)]
    across = lines[0] or _strip(profiles[0], columns, lines[1])
    down = lines[1] or _strip(profiles[1], rows, lines[0])
    if across is None or down is None:
        raise _UnknownError
    return TilePlace(image, (inside.shape[1], inside.shape[0]), across, down)


def _line(profile: Array, inside: NDArray[np.bool_], side: int) -> Line | None:
    """Source coordinate over pixel, by least squares, away from borders; None for too few pixels."""
    pixel = np.flatnonzero(inside) + 0.5
    if len(pixel) < _LEAST:
        return None
    step = abs(np.polyfit(pixel, profile, 1)[0])
    edge = int(np.ceil(_REACH * max(1.0, 1 / max(step, 1e-9))))
    edge = min(edge, len(pixel) // 3)
    within = slice(edge, len(pixel) - edge)
    step, start = (float(v) for v in np.polyfit(pixel[within], profile[within], 1))
    flat = step * len(pixel) < _FLAT * side
    if flat or np.abs(start + step * pixel[within] - profile[within]).max() > _WORST * side:
        raise _UnknownError
    return Line(start, step)


def _strip(profile: Array, inside: NDArray[np.bool_], other: Line | None) -> Line | None:
    """Of a strip too thin for `_line`: it lies beside padding, which keeps both axes at one scale."""
    if other is None:
        return None
    middle = float(np.flatnonzero(inside).mean()) + 0.5
    return Line(float(profile.mean()) - other.step * middle, other.step)


def _agreed(tiles: Sequence[TilePlace | None]) -> tuple[TilePlace | None, ...]:
    """Tiles of one image whose scales differ by less than 1 % were cut from one canvas: their mean is taken,
    each tile staying put at its middle."""
    agreed: list[TilePlace | None] = []
    for tile in tiles:
        kin = [t for t in tiles if t and tile and t.image == tile.image and _alike(t, tile)]
        if tile is None:
            agreed.append(None)
            continue
        x, y = (
            _tilted(getattr(tile, axis), size, float(np.mean([getattr(t, axis).step for t in kin])))
            for axis, size in zip("xy", tile.size, strict=True)
        )
        agreed.append(replace(tile, x=x, y=y))
    return tuple(agreed)


def _alike(one: TilePlace, two: TilePlace) -> bool:
    return all(abs(a.step - b.step) < 0.01 * b.step for a, b in ((one.x, two.x), (one.y, two.y)))


def _tilted(line: Line, size: int, step: float) -> Line:
    return Line(line.start + (line.step - step) * size / 2, step)


def _evened(low: Array, width: float) -> tuple[Array, Array]:
    """Where cells of `width` that start at `low` begin and end, on one axis of a canvas.

    Some models shrink the canvas of all tiles and give each token the place of the nearest patch, which
    leaves gaps of whole cells; what patches leave over between tiles is less. The tokens share the canvas
    evenly.
    """
    order = np.argsort(low, kind="stable")
    rank = np.empty(len(low), dtype=np.int64)
    rank[order] = np.concatenate(([0], (np.diff(low[order]) > width / 4).cumsum()))
    places = np.bincount(rank, low) / np.bincount(rank)
    if len(places) < 3 or np.diff(places).max() < 1.95 * width:
        return low, low + width
    step, first = np.polyfit(np.arange(len(places)), places + width / 2, 1)
    return first + (rank - 0.5) * step, first + (rank + 0.5) * step
