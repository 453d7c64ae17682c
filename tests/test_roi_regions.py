"""From a map to a region to a crop, and how good it is: brute force and public references."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from PIL import Image
from torch import Tensor

from vlmbench.errors import ItemError
from vlmbench.items import Box
from vlmbench.metrics.ranking import auroc
from vlmbench.metrics.regions import around, covered, iou, map_auroc, pointing, recall
from vlmbench.roi.base import Region, Signals
from vlmbench.roi.crop import at_least, crop_mask, cut, enlarged, fitted, pixel_box, to_crop, with_aspect
from vlmbench.roi.regions import SHARE, box_around, by_components, on_grid, surrounding
from vlmbench.roi.spatial import blur
from vlmbench.roi.windows import RATIOS, best, search, smallest_side

REFERENCES = Path(__file__).parent / "data" / "references"


def signals(size: tuple[int, int], grid: tuple[int, int], frame: Box | None = None, **fields: Any) -> Signals:
    """Tokens in even rows and columns of `frame`, in source pixels: the picture itself; beyond it where the
    processor pads, within it where that crops."""
    left, top, right, bottom = frame or (0, 0, *size)
    rows, columns = grid

    def edge(low: float, high: float, i: int, count: int, length: int) -> float:
        return min(max(low + i * (high - low) / count, 0.0), float(length))

    cells = [
        [
            edge(left, right, c, columns, size[0]),
            edge(top, bottom, r, rows, size[1]),
            edge(left, right, c + 1, columns, size[0]),
            edge(top, bottom, r + 1, rows, size[1]),
        ]
        for r in range(rows)
        for c in range(columns)
    ]
    return Signals(size, grid, torch.tensor(cells, dtype=torch.float64), depth=8, **fields)


@st.composite
def pictures(draw: st.DrawFn) -> Signals:
    size = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    grid = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    kind = draw(st.sampled_from(["whole", "padded", "cropped"]))
    if kind == "whole":
        return signals(size, grid)
    long, short = max(size), min(size)
    side = long if kind == "padded" else short
    x, y = (size[0] - side) / 2, (size[1] - side) / 2
    return signals(size, grid, (x, y, x + side, y + side))


def flood(mask: list[list[bool]]) -> list[set[tuple[int, int]]]:
    left = {(r, c) for r, row in enumerate(mask) for c, on in enumerate(row) if on}
    parts = []
    while left:
        part, todo = set(), [min(left)]
        while todo:
            r, c = todo.pop()
            if (r, c) in left:
                left.remove((r, c))
                part.add((r, c))
                todo += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        parts.append(part)
    return parts


def three(low: int, high: int, length: int) -> tuple[int, int]:
    """Of the spans of 3 cells that hold [low, high] on a side of `length`, the one whose middle is nearest
    to theirs, the first at a tie."""
    spans = [(i, i + min(3, length) - 1) for i in range(length) if i + min(3, length) <= length]
    good = [span for span in spans if span[0] <= low and span[1] >= high]
    return min(good, key=lambda span: (abs(sum(span) - low - high), -span[0]))


@settings(max_examples=150, deadline=None)
@given(pictures(), st.randoms(use_true_random=False), st.sampled_from([0.05, 0.2, 0.5]))
def test_components_are_the_definition(told: Signals, random: Any, tau: float) -> None:
    rows, columns = told.grid
    values = [[random.choice([0, 0, 0, 0.5, 1]) for _ in range(columns)] for _ in range(rows)]
    map = torch.tensor(values)
    shown = told.shown.view(told.grid).tolist()
    hot = (blur(map) > tau).tolist()
    mask = [[hot[r][c] and shown[r][c] for c in range(columns)] for r in range(rows)]
    parts = []
    for part in flood(mask):
        if len(part) == 1 or len(part) > SHARE * rows * columns:
            continue
        if len(part) < 4:
            (top, bottom), (left, right) = (
                three(min(p[i] for p in part), max(p[i] for p in part), told.grid[i]) for i in (0, 1)
            )
            part = {(r, c) for r in range(top, bottom + 1) for c in range(left, right + 1) if shown[r][c]}
        parts.append(part)
    region = by_components(map, tau, told)
    if not parts:
        assert region is None
        return
    assert region is not None
    every = set().union(*parts)
    cells = told.cells.view(rows, columns, 4).tolist()
    wanted = [pick(cells[r][c][i] for r, c in every) for pick, i in ((min, 0), (min, 1), (max, 2), (max, 3))]
    assert list(region.box) == wanted
    if len(parts) == 1:
        assert region.mask is None
    else:
        assert region.mask is not None
        assert {tuple(place) for place in region.mask.nonzero().tolist()} == every
    on_picture(region, told)


def on_picture(region: Region, told: Signals) -> None:
    left, top, right, bottom = region.box
    assert 0 <= left < right <= told.size[0]
    assert 0 <= top < bottom <= told.size[1]
    if region.mask is not None:
        assert region.mask.shape == told.grid
        assert region.mask.dtype == torch.bool
        assert bool(region.mask.any())


@settings(max_examples=100, deadline=None)
@given(pictures(), st.randoms(use_true_random=False))
def test_surrounding_is_the_box_of_all_cells_above(told: Signals, random: Any) -> None:
    rows, columns = told.grid
    map = torch.tensor([[random.choice([0, 0, 0.5, 1]) for _ in range(columns)] for _ in range(rows)])
    mask = (blur(map) > 0.3) & told.shown.view(told.grid)
    region = surrounding(map, 0.3, told)
    if not mask.any():
        assert region is None
        return
    assert region is not None
    assert torch.equal(region.mask, mask)  # type: ignore[arg-type]
    cells = told.cells[mask.flatten()].tolist()
    assert region.box == (
        min(c[0] for c in cells),
        min(c[1] for c in cells),
        max(c[2] for c in cells),
        max(c[3] for c in cells),
    )
    on_picture(region, told)


def test_small_parts_grow_and_stay_on_the_grid() -> None:
    """Two cells in the corner become 3 x 3; a lone cell beside them neither counts nor stretches the box."""
    map = torch.zeros(9, 9)
    map[0, :2] = 1.0
    map[8, 8] = 1.6
    told = signals((90, 90), (9, 9))
    assert (blur(map) > 0.3).nonzero().tolist() == [[0, 0], [0, 1], [8, 8]]
    region = by_components(map, 0.3, told)
    assert region is not None
    assert region.box == (0, 0, 30, 30)
    assert region.mask is None


def test_a_part_of_more_than_its_share_of_the_grid_points_at_nothing() -> None:
    told = signals((240, 240), (24, 24))
    map = torch.zeros(24, 24)
    map[:15, :15] = 1.0
    assert by_components(map, 0.5, told) is not None  # 225 cells
    map[15, 0:2] = 1.0
    assert int((blur(map) > 0.5).sum()) > 225
    assert by_components(map, 0.5, told) is None
    assert by_components(map, 0.5, told, share=0.5) is not None


def test_padding_is_no_region_and_is_undone() -> None:
    """A picture twice as wide as high in a square: a quarter of the rows is padding on either side."""
    told = signals((80, 40), (8, 8), frame=(0, -20, 80, 60))
    assert told.shown.view(8, 8).any(1).tolist() == [False] * 2 + [True] * 4 + [False] * 2
    map = torch.zeros(8, 8)
    map[:, 4] = 1.0
    region = surrounding(map, 0.3, told)
    assert region is not None
    assert region.box == (40, 0, 50, 40)
    map[2:6] = 0.0
    assert surrounding(map, 0.4, told) is None
    assert box_around(torch.ones(8, 8, dtype=torch.bool), told) == (0, 0, 80, 40)
    assert box_around(torch.zeros(8, 8, dtype=torch.bool), told) is None


def test_maps_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ItemError, match="the values of the map are not finite"):
        on_grid(torch.tensor([1.0, torch.nan, 0.0, 0.0]), signals((4, 4), (2, 2)))


def test_components_are_those_of_the_public_code() -> None:
    """Where one returns to cells of parts that it has dropped, ours does not; grown parts differ too."""
    reference = json.loads((REFERENCES / "sd_rpn_boxes.json").read_text(encoding="utf-8"))
    told = signals((24, 24), (24, 24))
    for case in reference["cases"]:
        map = torch.tensor(case["map"]).float() / 999
        region = by_components(map, case["tau"], told)
        if not case["boxes"]:
            assert region is None
            continue
        assert region is not None
        assert list(region.box) == around(case["boxes"]).tolist()
        assert (region.mask is None) == (len(case["boxes"]) == 1)


def windows_by_definition(
    map: list[list[float]], size: tuple[int, int], side: float
) -> tuple[float, float, float, float]:
    rows, columns = len(map), len(map[0])
    cell = size[0] / columns, size[1] / rows
    found = []
    for ratio in RATIOS:
        tall = min(max(1, int(side * ratio / cell[1] + 1e-6)), rows)
        wide = min(max(1, int(side * ratio / cell[0] + 1e-6)), columns)
        if (tall, wide) == (rows, columns):
            if ratio == 1:
                return 0.0, 0.0, float(size[0]), float(size[1])
            continue
        sums = {
            (x, y): math.fsum(map[j][i] for j in range(y, y + tall) for i in range(x, x + wide))
            for x in range(columns - wide + 1)
            for y in range(rows - tall + 1)
        }
        most = max(sums.values())
        x, y = next(place for place, value in sums.items() if value >= most - 1e-9)
        near = [sums[place] for place in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if place in sums]
        sharp = (sums[x, y] - math.fsum(near) / len(near)) / (tall * wide)
        found.append((sharp, ratio, x + wide / 2, y + tall / 2))
    sharpest = max(found)[0]
    _, ratio, x, y = next(one for one in found if one[0] >= sharpest - 1e-9)
    half = max(1, int(side * ratio // 2))
    box = []
    for centre, length in ((x * cell[0], size[0]), (y * cell[1], size[1])):
        place = min(max(int(centre + 1e-6), half), length - half)
        box += [max(0, place - half), min(length, place + half)]
    return box[0], box[2], box[1], box[3]


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(3, 400), st.integers(3, 400)),
    st.sampled_from([8.0, 30.0, 56.0, 120.0]),
    st.randoms(use_true_random=False),
)
def test_windows_are_the_definition(
    grid: tuple[int, int], size: tuple[int, int], side: float, random: Any
) -> None:
    """Few values: ties of windows and of ratios."""
    values = [[float(random.choice([0, 0, 1, 2])) for _ in range(grid[1])] for _ in range(grid[0])]
    told = signals(size, grid)
    region = search(torch.tensor(values), told, side)
    assert region is not None
    assert region.box == windows_by_definition(values, size, side)
    on_picture(region, told)


def test_windows_are_those_of_the_public_code() -> None:
    """Equal, but for centres on a whole pixel that its float arithmetic falls short of."""
    reference = json.loads((REFERENCES / "vicrop_windows.json").read_text(encoding="utf-8"))
    short = 0
    for case in reference["cases"]:
        map = torch.tensor(case["map"], dtype=torch.float64) / 999
        region = search(map, signals(tuple(case["size"]), tuple(map.shape)), case["side"])
        assert region is not None
        apart = np.abs(np.subtract(region.box, case["box"]))
        if apart.any():
            short += 1
            assert apart.max() == 1
    assert len(reference["cases"]) == 48
    assert short == 2


def test_the_smallest_window_is_what_the_authors_set_by_hand() -> None:
    assert [smallest_side(grid) for grid in ((24, 24), (16, 16), (8, 32))] == [336, 224, 224]


def test_windows_follow_the_picture_within_its_padding() -> None:
    """A hot cell is at the same place whether the processor pads the picture to a square or not."""
    plain, padded = signals((640, 320), (8, 16)), signals((640, 320), (16, 16), (0, -160, 640, 480))
    map = torch.full((8, 16), 0.01)
    map[5, 11] = 1.0
    within = torch.full((16, 16), 5.0)
    within[4:12] = map
    want = search(map, plain, 100)
    assert want is not None
    assert search(within, padded, 100) == want or search(within, padded, 100).box == want.box  # type: ignore[union-attr]
    assert want.box[0] <= 460 <= want.box[2]
    nothing = Signals((8, 8), (1, 1), torch.zeros(1, 4, dtype=torch.float64), 8)
    assert search(torch.ones(1, 1), nothing) is None


def test_the_sharpest_window_is_not_the_largest() -> None:
    map = torch.zeros(6, 6, dtype=torch.float64)
    map[2:4, 2:4] = 1.0
    assert best(map, [(2, 2), (3, 3), (4, 4)]) == (0, (2, 2))


SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


@st.composite
def boxes_on(draw: st.DrawFn) -> tuple[Box, tuple[int, int]]:
    """A box that overlaps the picture, perhaps beyond it, at fractions of pixels."""
    size = draw(SIZES)
    sides = []
    for length in size:
        low = draw(st.floats(-20, length - 0.01))
        high = draw(st.floats(max(low, 0) + 0.005, length + 20))
        sides.append((low, high))
    return (sides[0][0], sides[1][0], sides[0][1], sides[1][1]), size


@settings(max_examples=200, deadline=None)
@given(boxes_on(), st.floats(0, 2), SIZES)
def test_boxes_stay_on_the_picture_and_hold_what_they_held(
    drawn: tuple[Box, tuple[int, int]], margin: float, other: tuple[int, int]
) -> None:
    box, size = drawn
    inside = max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])
    pixels = pixel_box(box, size)
    assert all(isinstance(side, int) for side in pixels)
    for i, length in enumerate(size):
        low, high = pixels[i], pixels[i + 2]
        assert 0 <= low < high <= length
        assert low <= inside[i] + 1e-5
        assert high >= inside[i + 2] - 1e-5
        assert high - low <= math.ceil(inside[i + 2]) - math.floor(inside[i]) or high - low == 1
    for grown in (enlarged(inside, size, margin), at_least(inside, size, other)):
        for i, length in enumerate(size):
            assert -1e-9 <= grown[i] <= inside[i] + 1e-9
            assert inside[i + 2] - 1e-9 <= grown[i + 2] <= length + 1e-9
    for i, length in enumerate(size):
        grown = at_least(inside, size, other)
        assert grown[i + 2] - grown[i] >= min(other[i], length) - 1e-6
    shaped = with_aspect(inside, size, other)
    wide, tall = shaped[2] - shaped[0], shaped[3] - shaped[1]
    if 1e-6 < wide < size[0] - 1e-6 and tall < size[1] - 1e-6:
        assert wide / tall == pytest.approx(other[0] / other[1], rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(boxes_on(), SIZES, st.randoms(use_true_random=False))
def test_from_the_picture_to_the_crop_and_back(
    drawn: tuple[Box, tuple[int, int]], shown: tuple[int, int], random: Any
) -> None:
    box, size = drawn
    pixels = pixel_box(box, size)
    there = to_crop(pixels, size, shown)
    whole = there.box(tuple(map(float, pixels)))
    assert whole == pytest.approx((0, 0, *shown))
    points = np.array(
        [[random.uniform(pixels[i], pixels[i + 2]) for i in (0, 1)] for _ in range(4)], dtype=np.float64
    )
    assert there.inverse().points(there.points(points)) == pytest.approx(points, abs=1e-6)


def test_the_crop_shows_what_its_transform_says() -> None:
    picture = Image.new("RGB", (60, 40))
    picture.paste((255, 255, 255), (20, 10, 30, 25))
    box = pixel_box((15.2, 8, 39.7, 32), (60, 40))
    assert box == (15, 8, 40, 32)
    crop = cut(picture, box, (100, 96))
    where = to_crop(box, (60, 40), (100, 96)).box((20, 10, 30, 25))
    assert where == (20, 8, 60, 68)
    pixels = np.asarray(crop)[..., 0] > 127
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == where
    assert cut(picture, box).size == (25, 24)


def test_a_crop_keeps_its_aspect_or_is_stretched() -> None:
    assert fitted((20, 10), (336, 336), stretch=True) == (336, 336)
    assert fitted((20, 10), (336, 336)) == (336, 168)
    assert fitted((3, 1000), (336, 336)) == (1, 336)
    assert fitted((600, 400), (300, 100)) == (150, 100)


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.randoms(use_true_random=False),
)
def test_the_mask_of_a_crop_is_the_stretched_one(
    grid: tuple[int, int], tokens: tuple[int, int], random: Any
) -> None:
    mask = torch.tensor([[random.random() < 0.4 for _ in range(grid[1])] for _ in range(grid[0])])
    assume(mask.any())
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].double()
    value = torch.nn.functional.interpolate(
        part[None, None], size=tokens, mode="bilinear", align_corners=False
    )[0, 0].flatten()
    crop = signals((90, 70), tokens)
    got = crop_mask(Region((0, 0, 1, 1), mask), crop.cells, crop.size)
    assert bool(got.any())
    clear = (value - 0.5).abs() > 1e-9
    if (value > 0.5 + 1e-9).any():
        assert torch.equal(got[clear], (value > 0.5)[clear])
    else:
        assert value[got].tolist() == pytest.approx([float(value.max())] * int(got.sum()))


def test_padding_of_a_crop_is_never_kept() -> None:
    crop = signals((40, 20), (4, 4), (0, -10, 40, 30))
    assert crop_mask(Region((0, 0, 1, 1)), crop.cells, crop.size).tolist() == crop.shown.tolist()
    mask = torch.tensor([[True, False]])
    kept = crop_mask(Region((0, 0, 1, 1), torch.eye(2, dtype=torch.bool)), crop.cells, crop.size)
    assert kept.view(4, 4).int().tolist() == [[0] * 4, [1, 1, 0, 0], [0, 0, 1, 1], [0] * 4]
    assert crop_mask(Region((0, 0, 1, 1), mask), crop.cells, crop.size).sum() == 8


BOX = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8)).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


def painted(box: tuple[float, float, float, float]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(8) for y in range(8) if box[0] <= x < box[2] and box[1] <= y < box[3]}


@settings(max_examples=200, deadline=None)
@given(BOX, BOX, st.lists(BOX, max_size=3))
def test_iou_and_recall_count_pixels(a: Box, b: Box, boxes: list[Box]) -> None:
    both, either = painted(a) & painted(b), painted(a) | painted(b)
    assert float(iou(a, b)) == pytest.approx(len(both) / len(either) if either else 0)
    shares = [len(painted(a) & painted(box)) / len(painted(box)) for box in boxes if painted(box)]
    got = recall(a, boxes)
    assert math.isnan(got) if not shares else got == pytest.approx(sum(shares) / len(shares))
    if shares:
        assert float(recall(around(boxes), boxes)) == 1
    else:
        assert np.isnan(around(boxes)).all()


def test_iou_of_many_at_once() -> None:
    many = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    assert iou(many[:, None], many[None]).tolist() == [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]
    assert math.isnan(float(iou((np.nan,) * 4, (0, 0, 1, 1))))


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.lists(BOX, max_size=3),
    st.randoms(use_true_random=False),
)
def test_auroc_of_a_map_is_that_of_its_pixels(grid: tuple[int, int], boxes: list[Box], random: Any) -> None:
    """A picture of 8 x 8 pixels, tokens of any size, ties, a frame that pads."""
    told = signals((8, 8), grid, random.choice([None, (-2, 0, 10, 8), (1, 1, 5, 7)]))
    map = [random.choice([0.0, 0.5, 1.0]) for _ in range(grid[0] * grid[1])]
    canvas = np.full((8 * 12, 8 * 12), np.nan)  # cells end at twelfths of a pixel
    for value, (left, top, right, bottom) in zip(map, told.cells.tolist(), strict=True):
        x0, y0, x1, y1 = (round(side * 12) for side in (left, top, right, bottom))
        canvas[y0:y1, x0:x1] = value
    inside = np.zeros((8 * 12, 8 * 12), bool)
    for left, top, right, bottom in boxes:
        inside[int(top) * 12 : int(bottom) * 12, int(left) * 12 : int(right) * 12] = True
    want = auroc(canvas.ravel(), inside.ravel())
    got = map_auroc(map, told.cells, boxes)
    assert math.isnan(got) if math.isnan(want) else got == pytest.approx(want, abs=1e-9)
    seen = ~np.isnan(canvas)
    assert covered(told.cells, boxes).sum() == pytest.approx((inside & seen).sum() / 144)


def test_the_pointing_game() -> None:
    told = signals((40, 40), (4, 4))

    def at(row: int, column: int) -> Tensor:
        map = torch.zeros(4, 4)
        map[row, column] = 1.0
        return map

    boxes = [(12.0, 2.0, 28.0, 8.0), (31.0, 31.0, 33.0, 33.0)]
    hits = [[pointing(at(r, c), told.cells, boxes) for c in range(4)] for r in range(4)]
    # the centres of two cells lie in the first box, the second lies in one cell
    assert [[int(bool(hit)) for hit in row] for row in hits] == [
        [0, 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 1],
    ]
    assert pointing(torch.ones(4, 4), told.cells, [(0, 0, 9, 9)]) is True  # the first at a tie
    assert pointing(at(0, 0), told.cells, []) is None
    assert pointing(at(0, 0), told.cells, [(3, 3, 3, 9)]) is None
    padded = signals((40, 20), (4, 4), (0, -10, 40, 30))
    assert pointing(at(0, 0) * 9 + at(1, 2), padded.cells, [(21, 1, 29, 9)]) is True
