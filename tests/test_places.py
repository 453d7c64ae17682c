"""Where tokens look: against pictures with one bright square sent through every family's processor, and
against what the processors are known to do; and what is made of it, against brute force."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image, ImageOps
from tiny_models import FAMILIES
from torch import Tensor

from vlmbench.models.adapter import Adapter
from vlmbench.models.geometry import keeps_shape
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import load_model
from vlmbench.models.places import ImagePlaces, Line, TilePlace, cells, image_places
from vlmbench.models.places_map import coverage, map_tokens, overlap
from vlmbench.perturb.transforms import identity, scaling, translation

Size = tuple[int, int]
Load = Callable[[str], Adapter]

NEWLINES = ("llava_next", "llava_onevision")
SIZES: tuple[tuple[Size, ...], ...] = (
    ((100, 100),),
    ((90, 60),),
    ((70, 150),),
    ((330, 214),),
    ((70, 150), (90, 60)),
)
SHRUNK = {(100, 100), (90, 60), (330, 214)}
"""Sizes at which OneVision's tokens of the tiles are blends of several patches; of (70, 150) they are not."""


@pytest.fixture(scope="module")
def load(tiny_model: Callable[[str], Path]) -> Load:
    return cache(lambda family: Adapter(load_model(str(tiny_model(family)), device="cpu")))


def processed(adapter: Adapter, images: Sequence[Image.Image]) -> RowInputs:
    return adapter.prepare(adapter.render("?", len(images)), images, 0)


def grids(adapter: Adapter, sizes: Sequence[Size]) -> list[Tensor]:
    row = processed(adapter, [Image.new("RGB", size, "grey") for size in sizes])
    return [image.grid for image in adapter.encode([row], frozenset()).features[0].images]


def placed_cells(adapter: Adapter, sizes: Sequence[Size]) -> tuple[Tensor, Tensor, Tensor]:
    """Of all tokens of a request: cells [n, 4], image [n], grid [n, 3]."""
    places = image_places(adapter, sizes)
    assert places is not None
    found = grids(adapter, sizes)
    placed = places.place(found)
    assert placed is not None
    return torch.cat([p.cells for p in placed]), torch.cat([p.image for p in placed]), torch.cat(found)


def by_token(adapter: Adapter, row: RowInputs, found: Sequence[Tensor]) -> list[Tensor]:
    """The input values that each token of a request is made of, one tensor each, newlines an empty one."""
    vision = row.vision
    pixels = vision["pixel_values"].double()
    flat = torch.cat(list(found))
    if "image_grid_thw" in vision:
        return list(pixels.view(len(flat), -1))
    if keeps_shape(vision):
        sizes = vision["image_sizes"].tolist()
        groups = [[p[:, :high, :wide]] for p, (high, wide) in zip(pixels, sizes, strict=True)]
    elif pixels.ndim == 5 and len(pixels) == len(found):
        groups = [list(p) for p in pixels]
    else:
        tiles = iter(pixels.reshape(-1, *pixels.shape[-3:]))
        groups = [[next(tiles) for _ in range(int(grid[:, 0].max()) + 1)] for grid in found]
    values = []
    for grid, pictures in zip(found, groups, strict=True):
        high, wide = (int(v) for v in grid[:, 1:].max(0).values + 1)
        for tile, line, column in grid.tolist():
            if line < 0:
                values.append(pixels.new_empty(0))
                continue
            picture = pictures[tile]
            h, w = picture.shape[1] // high, picture.shape[2] // wide
            values.append(picture[:, line * h : line * h + h, column * w : column * w + w].flatten())
    return values


# ---------------------------------------------------------------------------------------- a bright square


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bright_square_shows_where_the_cells_say(family: str, sizes: tuple[Size, ...], load: Load) -> None:
    """Share of each token's pixels that a square brightens against the share of its cell that it covers."""
    adapter = load(family)
    cell, image, grid = placed_cells(adapter, sizes)
    found = grids(adapter, sizes)
    blends = family == "llava_onevision" and len(sizes) == 1 and sizes[0] in SHRUNK
    tokens = [t for t, tile in enumerate(grid[:, 0].tolist()) if tile == 0 or (tile > 0 and not blends)]
    dark = [Image.new("RGB", size, (80,) * 3) for size in sizes]
    bright = [Image.new("RGB", size, (180,) * 3) for size in sizes]
    low, high = (by_token(adapter, processed(adapter, pictures), found) for pictures in (dark, bright))
    most = max(float((b - a).mean()) for a, b in zip(low, high, strict=True) if len(a))
    rng = np.random.default_rng(0)
    for which, size in enumerate(sizes):
        for _ in range(4):
            side = [int(rng.integers(s // 3, s // 2)) for s in size]
            x, y = (int(rng.integers(0, s - w)) for s, w in zip(size, side, strict=True))
            box = (x, y, x + side[0], y + side[1])
            pictures = [picture.copy() for picture in dark]
            pictures[which].paste((180,) * 3, box)
            values = by_token(adapter, processed(adapter, pictures), found)
            seen, area = (
                coverage(cell, [box])[:, 0].double() * math.prod(side),
                (cell[:, 2:] - cell[:, :2]).prod(1),
            )
            for token in tokens:
                value, span = values[token] - low[token], high[token] - low[token]
                if span.mean() < 0.3 * most:  # padding
                    continue
                share = value.sum() / span.sum()
                expected = seen[token] / area[token] if image[token] == which else 0.0
                assert abs(share - expected) < 0.015, (token, box, cell[token].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_cells_stay_on_their_image_and_newlines_have_none(family: str, load: Load) -> None:
    for sizes in SIZES:
        cell, image, grid = placed_cells(load(family), sizes)
        newline = grid[:, 1] < 0
        assert torch.equal(cell.isnan().all(1), newline)
        assert torch.equal(image < 0, newline)
        assert bool(newline.any()) == (family in NEWLINES)
        assert set(image[~newline].tolist()) == set(range(len(sizes)))
        most = torch.tensor(sizes, dtype=torch.float64)[image[~newline]]
        real = cell[~newline]
        assert (real >= 0).all()
        assert (real[:, :2] < real[:, 2:]).all()
        assert (real[:, 2:] <= most).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_of_tiles_sees_a_box_once(family: str, load: Load) -> None:
    """Shares of tiles that cover the image sum to one; so do those of the picture of the whole."""
    for (size,) in SIZES[:4]:
        cell, _, grid = placed_cells(load(family), (size,))
        middle = [size[0] * 0.3, size[1] * 0.3, size[0] * 0.7, size[1] * 0.7]
        if family == "llava":  # crops
            middle = [size[0] / 2 - 9, size[1] / 2 - 9, size[0] / 2 + 9, size[1] / 2 + 9]
        share = coverage(cell, [middle])[:, 0]
        tiles = int(grid[:, 0].max()) + 1
        whole = 0 if family in NEWLINES else tiles - 1
        assert share[grid[:, 0] == whole].sum() == pytest.approx(1, abs=0.01)
        if tiles > 1:
            assert share[grid[:, 0] != whole].sum() == pytest.approx(1, abs=0.01)


# ----------------------------------------------------------------------------------------- what is known


def tile_boxes(adapter: Adapter, size: Size) -> list[list[float]]:
    """Left, top, right, bottom of each tile in source pixels, padding included."""
    places = image_places(adapter, [size])
    assert places is not None
    boxes = []
    for tile in places.tiles[0]:
        assert tile is not None
        wide, high = tile.size
        x, y = tile.x, tile.y
        boxes.append([x.start, y.start, x.start + x.step * wide, y.start + y.step * high])
    return boxes


def in_parts(size: Size, rows: int, columns: int, top: float = 0, left: float = 0) -> list[list[float]]:
    """Tiles over the image and `top`, `left` pixels of padding on either side."""
    wide, high = (size[0] + 2 * left) / columns, (size[1] + 2 * top) / rows
    return [
        [c * wide - left, r * high - top, (c + 1) * wide - left, (r + 1) * high - top]
        for r in range(rows)
        for c in range(columns)
    ]


def whole(size: Size) -> list[list[float]]:
    return [[0.0, 0.0, float(size[0]), float(size[1])]]


# how the processors are documented to resize, crop, pad and cut
KNOWN: list[tuple[str, Size, list[list[float]]]] = [
    ("llava", (90, 60), [[15, 0, 75, 60]]),
    ("llava", (70, 150), [[0, 40, 70, 110]]),
    ("llava_next", (100, 100), whole((100, 100)) + in_parts((100, 100), 2, 2)),
    ("llava_next", (90, 60), whole((90, 60)) + in_parts((90, 60), 2, 2, top=15)),
    ("llava_next", (1400, 1300), whole((1400, 1300)) + in_parts((1400, 1300), 2, 2, top=50)),
    ("llava_onevision", (90, 60), whole((90, 60)) + in_parts((90, 60), 2, 3)),
    ("internvl", (70, 150), in_parts((70, 150), 2, 1) + whole((70, 150))),
    ("internvl", (1400, 1300), in_parts((1400, 1300), 2, 2) + whole((1400, 1300))),
    ("smolvlm", (100, 100), in_parts((100, 100), 2, 2) + whole((100, 100))),
    ("idefics3", (70, 150), in_parts((70, 150), 2, 1) + whole((70, 150))),
    *[
        (f, (90, 60), whole((90, 60)))
        for f in ("gemma3", "paligemma", "qwen2_vl", "qwen3_vl", "mistral3", "pixtral")
    ],
    ("gemma3", (1400, 1300), whole((1400, 1300))),
]


@pytest.mark.parametrize(("family", "size", "expected"), KNOWN, ids=lambda v: str(v)[:20])
def test_tiles_lie_where_the_processor_puts_them(
    family: str, size: Size, expected: list[list[float]], load: Load
) -> None:
    got = np.array(tile_boxes(load(family), size))
    near = np.tile([max(0.01 * side, 1.5) for side in size], 2)
    assert got.shape == np.shape(expected)
    assert (np.abs(got - expected) < near).all(), np.abs(got - expected).max(0)


def test_a_strip_between_padding_is_seen_whole(load: Load) -> None:
    """Of 400 x 10 pixels three rows of a tile are left, too few to fit a line to."""
    cell, _, grid = placed_cells(load("llava_next"), ((400, 10),))
    share = coverage(cell, [[0, 0, 400, 10]])[:, 0]
    assert share[grid[:, 0] > 0].tolist() == pytest.approx([1 / 6] * 6, abs=0.005)


def test_tokens_of_a_shrunk_canvas_share_it(load: Load) -> None:
    """9 x 9 patches become 6 x 6 tokens."""
    cell, _, grid = placed_cells(load("llava_onevision"), ((100, 100),))
    mine = cell[(grid[:, 0] > 0)]
    assert len(mine) == 36
    expected = torch.tensor(in_parts((100, 100), 6, 6), dtype=torch.float64)
    assert (mine - expected).abs().max() < 100 / 9 / 2


def test_one_image_alone(load: Load) -> None:
    adapter = load("llava")
    (grid,) = grids(adapter, [(90, 60)])
    found = cells(adapter, (90, 60), grid)
    assert found is not None
    assert found[:2].tolist() == [
        pytest.approx([15, 0, 25, 10], abs=0.5),
        pytest.approx([25, 0, 35, 10], abs=0.5),
    ]
    assert cells(adapter, (90, 60), grid[:30]) is None


# ------------------------------------------------------------------------------------ any other processor


def stub(make: Callable[[Image.Image], Any], patch: Any = 14) -> Any:
    """An adapter whose processor is `make`: picture -> [H, W, 3]."""

    def prepare(_: str, images: Sequence[Image.Image], __: int, showing: None = None) -> RowInputs:
        pictures = [torch.from_numpy(np.asarray(make(image), np.float32)) for image in images]
        return RowInputs({}, {"pixel_values": torch.stack(pictures).permute(0, 3, 1, 2) * 0.017 - 2}, 0, ())

    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=patch))
    return SimpleNamespace(
        model=SimpleNamespace(config=config), prepare=prepare, render=lambda text, n: text * n
    )


def squared(image: Image.Image) -> Image.Image:
    """Padded to a square with a colour, at the right, then resized: not what any processor here does."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, (0, 0))
    return square.resize((84, 84), Image.Resampling.LANCZOS)


def test_coloured_padding_is_seen() -> None:
    places = image_places(stub(squared, (14, 14)), [(60, 120)])
    assert places is not None
    grid = torch.tensor([(0, r, c) for r in range(6) for c in range(6)])
    placed = places.place([grid])
    assert placed is not None
    expected = torch.tensor(in_parts((120, 120), 6, 6), dtype=torch.float64)
    expected[:, (0, 2)] = expected[:, (0, 2)].clamp(max=60)
    assert (placed[0].cells - expected).abs().max() < 1


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image.resize((84, 84)).rotate(30),
        lambda image: image.resize((84, 84)).rotate(90),
        lambda image: ImageOps.mirror(image.resize((84, 84))),
    ],
    ids=["turned", "on its side", "mirrored"],
)
def test_what_is_no_line_cannot_be_told(make: Callable[[Image.Image], Any]) -> None:
    assert image_places(stub(make), [(100, 100)]) is None


def test_one_pixel_tells_no_scale() -> None:
    assert image_places(stub(lambda image: image.resize((84, 84))), [(1, 50)]) is None


@pytest.mark.parametrize("side", [2, 3, 5])
def test_few_pixels_are_placed_to_half_a_pixel(side: int) -> None:
    places = image_places(stub(lambda image: image.resize((84, 84))), [(side, side)])
    assert places is not None
    ((tile,),) = places.tiles
    assert tile is not None
    ends = tile.x.start, tile.x.start + 84 * tile.x.step
    assert ends == pytest.approx((0, side), abs=0.5)


def test_a_patch_size_is_needed() -> None:
    assert image_places(stub(squared, None), [(100, 100)]) is None


def grid_of(rows: int, columns: int, tiles: int = 1) -> Tensor:
    return torch.tensor([(t, r, c) for t in range(tiles) for r in range(rows) for c in range(columns)])


def test_pixels_that_fill_no_patch_are_seen_by_no_token() -> None:
    """SigLIP at 384 pixels has 27 patches of 14, and 6 pixels to spare."""
    tile = TilePlace(0, (384, 384), Line(0.0, 1.0), Line(0.0, 1.0))
    places = ImagePlaces(((384, 384),), ((tile,),), 14)
    placed = places.place([grid_of(27, 27)])
    assert placed is not None
    assert placed[0].cells[-1].tolist() == [364, 364, 378, 378]
    blocks = places.place([grid_of(9, 9)])
    assert blocks is not None
    assert blocks[0].cells[1].tolist() == [42, 0, 84, 42]


def test_grids_that_do_not_fit_are_refused() -> None:
    tile = TilePlace(0, (84, 84), Line(0.0, 1.0), Line(0.0, 1.0))
    places = ImagePlaces(((84, 84),), ((tile, tile),), 14)
    assert places.place([grid_of(6, 6, 2)]) is not None
    for wrong in ([grid_of(6, 6, 3)], [grid_of(1, 36, 2)], [grid_of(7, 7, 2)], [grid_of(6, 6)] * 3):
        assert places.place(wrong) is None


# ------------------------------------------------------------------------------------------------ coverage

numbers = st.integers(0, 24)


@st.composite
def partitions(draw: st.DrawFn) -> Tensor:
    """The cells of 24 x 24 pixels cut at whole columns and rows."""
    cuts = [sorted({0, 24, *draw(st.lists(numbers, max_size=4))}) for _ in range(2)]
    (xs, ys) = (list(pairwise(c)) for c in cuts)
    return torch.tensor([(x0, y0, x1, y1) for y0, y1 in ys for x0, x1 in xs], dtype=torch.float64)


@st.composite
def boxes(draw: st.DrawFn) -> list[list[int]]:
    xs, ys = (sorted(draw(st.lists(st.integers(-6, 30), min_size=2, max_size=2))) for _ in range(2))
    return [xs[0], ys[0], xs[1], ys[1]]  # type: ignore[return-value]


@settings(max_examples=100, deadline=None)
@given(partitions(), st.lists(boxes(), min_size=1, max_size=3))
def test_coverage_is_the_count_of_pixels(cell: Tensor, drawn: list[list[int]]) -> None:
    def pixels(box: Sequence[float]) -> set[tuple[int, int]]:
        x0, y0, x1, y1 = (int(v) for v in box)
        return {(x, y) for x in range(max(x0, 0), min(x1, 24)) for y in range(max(y0, 0), min(y1, 24))}

    share = coverage(torch.cat((cell, torch.full((1, 4), torch.nan))), drawn, (24, 24))
    assert share.shape == (len(cell) + 1, len(drawn))
    for seen, box in zip(share.T, drawn, strict=True):
        area = len(pixels(box))
        wanted = [len(pixels(box) & pixels(c)) / area if area else 0.0 for c in cell.tolist()]
        assert seen.tolist() == pytest.approx([*wanted, 0.0])
        assert seen.sum() == pytest.approx(float(area > 0), abs=1e-5)


def test_a_box_smaller_than_a_cell_is_all_its_own() -> None:
    share = coverage(torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10]]), [[12, 3, 12.5, 3.25]])
    assert share.tolist() == [[0], [1]]
    assert coverage(torch.tensor([[0.0, 0, 10, 10]]), torch.empty(0, 4)).shape == (1, 0)
    # what is not on the image counts only where its size is not told
    assert coverage(torch.tensor([[0.0, 0, 10, 10]]), [[5, 0, 15, 10]]).item() == 0.5
    assert coverage(torch.tensor([[0.0, 0, 10, 10]]), [[5, 0, 15, 10]], (10, 10)).item() == 1


# ------------------------------------------------------------------------------------- tokens to tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_moved_is_identity(family: str, load: Load) -> None:
    generator = torch.Generator().manual_seed(0)
    for (size,) in SIZES[:4]:
        cell, _, _ = placed_cells(load(family), (size,))
        for k in (1, len(cell) // 3, len(cell)):
            chosen = torch.randperm(len(cell), generator=generator)[:k]
            for transform in (None, identity(size).points):
                got = map_tokens(cell, chosen, transform, cell)
                assert got.tolist() == sorted(chosen.tolist())
            assert overlap(cell, chosen, identity(size).points, cell, chosen) == 1


def raster_cells(rows: int, columns: int, side: float = 10) -> Tensor:
    return torch.tensor(
        in_parts((round(columns * side), round(rows * side)), rows, columns), dtype=torch.float64
    )


@pytest.mark.parametrize("wrap", [False, True])
def test_a_shift_by_cells_moves_the_choice(wrap: bool) -> None:
    cell, size = raster_cells(6, 8), (80, 60)
    chosen = torch.tensor([9, 10, 20, 23, 37])  # 23 is at the right border
    shift = translation(size, 10, 20, wrap=wrap).points
    row, column = torch.tensor([3, 3, 4, 4, 6]), torch.tensor([2, 3, 5, 8, 6])
    inside = (row < 6) & (column < 8)
    got = map_tokens(cell, chosen, shift, cell).tolist()
    if wrap:
        assert got == sorted((row % 6 * 8 + column % 8).tolist())
    else:
        assert len(got) == 5
        assert set((row * 8 + column)[inside].tolist()) <= set(got)
        assert 39 in got  # nearest to (4, 8), which left the image
    assert overlap(cell, chosen, shift, cell, torch.tensor(got)) == 1
    assert overlap(cell, chosen, shift, cell, torch.tensor([0, 1, *got[:2]])) == 0.5


def test_a_pixel_moves_nothing_and_a_resize_finds_its_way() -> None:
    cell, chosen = raster_cells(6, 8), torch.tensor([0, 7, 21, 40, 47])
    got = map_tokens(cell, chosen, translation((80, 60), 1, -1).points, cell)
    assert got.tolist() == chosen.tolist()
    double = scaling((80, 60), (160, 120)).points
    assert map_tokens(cell, chosen, double, cell * 2).tolist() == chosen.tolist()


def test_tiles_map_to_tiles_and_the_whole_to_itself() -> None:
    """A token of the middle tile sees what one of the overview sees too."""
    both = torch.cat((raster_cells(3, 3, 40), raster_cells(6, 6, 20), raster_cells(3, 3, 40)[:0]))
    moved = torch.cat((both[9:], both[:9]))  # as of a processor that puts the overview last
    chosen = torch.tensor([4, 9 + 14])
    assert map_tokens(both, chosen, translation((120, 120), 3, 3).points, moved).tolist() == [14, 36 + 4]


def test_tokens_without_a_place_map_to_their_like() -> None:
    lines = torch.full((2, 4), torch.nan, dtype=torch.float64)
    cell = torch.cat((raster_cells(2, 2), lines))
    longer = torch.cat((raster_cells(3, 2), lines))
    assert map_tokens(cell, torch.tensor([0, 4, 5]), None, longer).tolist() == [0, 6, 7]


def test_everything_left_the_image() -> None:
    cell = raster_cells(2, 2)
    got = map_tokens(cell, torch.tensor([3, 1]), translation((20, 20), 50, 0).points, cell)
    assert got.tolist() == [1, 3]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.integers(-9, 9), st.integers(-9, 9))
def test_the_assignment_is_the_cheapest(k: int, seed: int, dx: int, dy: int) -> None:
    """Cells of one size: the sum of distances is least over all ways."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 8, (6, 2)).astype(float) * 5
    cell = torch.from_numpy(np.hstack((corner, corner + 10)))
    target = torch.from_numpy(rng.permutation(np.hstack((corner, corner + 10))))
    chosen = torch.from_numpy(rng.choice(6, k, replace=False))
    size = (400, 400)
    got = map_tokens(cell, chosen, lambda xy: xy + np.array((dx, dy)), target)
    assert got.tolist() == sorted(set(got.tolist()))
    assert len(got) == k
    want = [tuple(cell[i, :2].numpy() + np.array((dx, dy))) for i in sorted(chosen.tolist())]

    def cost(ways: Sequence[int]) -> float:
        return sum(math.dist(w, target[t, :2].tolist()) for w, t in zip(want, ways, strict=True))

    best = min(cost(ways) for ways in permutations(range(6), k))
    assert min(cost(ways) for ways in permutations(got.tolist())) == pytest.approx(best, abs=1e-6)
    assert overlap(cell, chosen, translation(size, 0, 0).points, cell, chosen) == 1


def test_more_than_there_are_gives_all() -> None:
    assert map_tokens(raster_cells(3, 3), torch.arange(7), None, raster_cells(2, 2, 15)).tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_overlap_of_nothing() -> None:
    cell, none = raster_cells(2, 2), torch.empty(0, dtype=torch.long)
    assert overlap(cell, none, None, cell, none) == 1
    assert overlap(cell, torch.tensor([1]), None, cell, none) == 0
    assert overlap(cell, none, None, cell, torch.tensor([1])) == 0
