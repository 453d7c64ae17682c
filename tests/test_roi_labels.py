"""Pseudo-labels, attention sinks and operations on maps, against versions written out in plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy import ndimage
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.roi.labels import (
    LABEL_RULES,
    SINKS,
    UNUSABLE,
    WEAK,
    WIDE,
    LabelRule,
    count_reasons,
    pseudo_labels,
    surrounding,
)
from vlmbench.roi.sinks import (
    SINK_RULES,
    SinkRule,
    check_share,
    find_sinks,
    massive,
    normalised,
    share_of,
    steady,
)
from vlmbench.roi.spatial import blur, components, spatial_entropy

REFERENCES = Path(__file__).parent / "data" / "references"
PLAIN = LabelRule(floor=0.0)

sides = st.integers(1, 6)


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Attention in steps of .001 with many ties, sinks and shown tokens: [B, H, W] each."""
    shape = (draw(st.integers(1, 3)), draw(sides), draw(sides))
    size = math.prod(shape)

    def tensor(values: st.SearchStrategy[int]) -> Tensor:
        return torch.tensor(draw(st.lists(values, min_size=size, max_size=size))).view(shape)

    steps = st.one_of(st.sampled_from([0, 1, 2, 10]), st.integers(0, 60))
    few = st.sampled_from([0, 0, 0, 0, 0, 1])
    return tensor(steps).float() / 1000, tensor(few).bool(), ~tensor(few).bool()


def oracle(
    steps: list[list[int]], sinks: list[list[bool]], shown: list[list[bool]], rule: LabelRule
) -> tuple[list[list[int]], tuple[int, ...], str]:
    """Labels, box and reason of one image by the definitions, exactly; attention in thousandths."""
    height, width = len(steps), len(steps[0])
    places = [(i, j) for i in range(height) for j in range(width)]
    a = {(i, j): 0 if sinks[i][j] or not shown[i][j] else steps[i][j] for i, j in places}
    m = max(a.values())
    hot = [p for p in places if m and a[p] > Fraction(str(rule.foreground)) * m]
    box = (0, 0, 0, 0)
    if hot:
        rows, columns, by = [i for i, _ in hot], [j for _, j in hot], int(rule.blur)
        box = (
            max(min(rows) - by, 0),
            max(min(columns) - by, 0),
            min(max(rows) + 1 + by, height),
            min(max(columns) + 1 + by, width),
        )
    labels = [[-1] * width for _ in range(height)]
    for i, j in places:
        outside = not (box[0] <= i < box[2] and box[1] <= j < box[3])
        if (outside and a[i, j] < Fraction(str(rule.background)) * m) or not shown[i][j]:
            labels[i][j] = 0
        if (i, j) in hot:
            labels[i][j] = 1
    seen = sum(shown[i][j] for i, j in places)
    gone = sum(sinks[i][j] and shown[i][j] for i, j in places)
    reason = ""
    if gone > Fraction(str(rule.sinks)) * max(seen, 1):
        reason = SINKS
    elif m == 0 or Fraction(m, 1000) < Fraction(str(rule.floor)) / len(places):
        reason = WEAK
    elif (box[2] - box[0]) * (box[3] - box[1]) >= Fraction(str(rule.wide)) * len(places):
        reason = WIDE
    return ([[-1] * width] * height if reason else labels), box, reason


@given(maps(), st.booleans(), st.sampled_from([0.0, 0.5]), st.sampled_from([0.2, 1.0]))
@settings(deadline=None, max_examples=200)
def test_labels_follow_the_definitions(
    drawn: tuple[Tensor, Tensor, Tensor], blurred: bool, floor: float, sinks: float
) -> None:
    attention, gone, shown = drawn
    rule = LabelRule(blur=blurred, floor=floor, sinks=sinks)
    result = pseudo_labels(attention, rule, gone, shown)
    for b in range(len(attention)):
        steps = (attention[b] * 1000).round().int().tolist()
        labels, box, reason = oracle(steps, gone[b].tolist(), shown[b].tolist(), rule)
        near = abs(float(max(map(max, steps))) / 1000 - floor / attention[0].numel()) < 1e-6
        if near:  # a floor met within rounding
            continue
        assert (result.labels[b].tolist(), tuple(result.boxes[b].tolist())) == (labels, box)
        assert result.reasons[b] == reason
        alone = pseudo_labels(attention[b : b + 1], rule, gone[b : b + 1], shown[b : b + 1])
        assert torch.equal(alone.labels[0], result.labels[b])
    assert result.usable.tolist() == [not reason for reason in result.reasons]


@given(maps(), st.floats(1e-5, 1e5))
@settings(deadline=None, max_examples=60)
def test_labels_do_not_depend_on_the_scale(drawn: tuple[Tensor, Tensor, Tensor], factor: float) -> None:
    attention, gone, shown = drawn
    first, second = (pseudo_labels(a, PLAIN, gone, shown) for a in (attention, attention * factor))
    assert torch.equal(first.labels, second.labels)
    assert first.reasons == second.reasons


def grid(text: str) -> Tensor:
    """Rows of digits -> [1, H, W], in tenths."""
    return torch.tensor([[[int(c) / 10 for c in row] for row in text.split()]])


def shown_as(text: str, **changed: object) -> str:
    result = pseudo_labels(grid(text), PLAIN, **changed)  # type: ignore[arg-type]
    rows = ["".join("x01"[int(v) + 1] for v in row) for row in result.labels[0]]
    return " ".join(rows) + (f" {result.reasons[0]}" if result.reasons[0] else "")


def test_cases_that_matter() -> None:
    assert shown_as("0000 0900 0000") == "0000 0100 0000"  # one hot token
    assert shown_as("3333 3333") == f"xxxx xxxx {WIDE}"  # all equal
    assert shown_as("9009 0000 0000 0000") == "1xx1 0000 0000 0000"  # a row of four
    assert shown_as("9000 0009 0000 0000") == f"xxxx xxxx xxxx xxxx {WIDE}"  # half of the grid
    assert shown_as("9000 0090 0000 0000") == "1xx0 xx10 0000 0000"  # six of sixteen
    # 1 of 5 is on the foreground's threshold; outside the box, below .1 m is 0 and between the two ignored
    assert shown_as("5000 1000 0000 0000") == "1000 x000 0000 0000"
    edge = torch.zeros(1, 4, 4)
    edge[0, 0, 0], edge[0, 3, 3], edge[0, 3, 0] = 1.0, 0.1, 0.099
    assert pseudo_labels(edge, PLAIN).labels[0, 3].tolist() == [0, 0, 0, -1]  # on the background's threshold
    assert shown_as("0000 0000") == f"xxxx xxxx {WEAK}"
    # a sink in the box is ignored, outside it is background, and m is what is left
    gone = grid("0100 0000 0000 0001") > 0
    assert shown_as("2920 0000 0000 0009", sinks=gone) == "1x10 0000 0000 0000"
    gone = grid("1111 0000 0000 0000") > 0
    assert shown_as("2920 0000 0000 0009", sinks=gone) == f"xxxx xxxx xxxx xxxx {SINKS}"
    # padding is background, in the box too, and nothing is counted of what falls on it
    padding = grid("1000 1111 1111 1111") > 0
    assert shown_as("0940 4000 0000 0000", shown=padding) == "0000 1000 0000 0000"
    assert shown_as("4000 0009 4000 0000", shown=~(grid("0000 0001 0000 0000") > 0)) == "1000 x000 1000 0000"


def test_what_is_not_finite_is_dropped_unless_it_is_padding() -> None:
    attention = grid("0000 0900 0000").repeat(3, 1, 1)
    attention[0, 0, 0], attention[1, 0, 0] = torch.nan, torch.inf
    result = pseudo_labels(attention, PLAIN)
    assert result.reasons == (UNUSABLE, UNUSABLE, "")
    assert count_reasons(result.reasons) == {UNUSABLE: 2}
    assert bool((result.labels[:2] == -1).all())
    shown = torch.ones(3, 4, dtype=torch.bool)
    shown[0, 0] = False
    assert pseudo_labels(attention, PLAIN, shown=shown).reasons == ("", "", "")


def test_a_blurred_box_is_one_token_wider() -> None:
    mask = torch.rand(20, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.93
    wide, inside = surrounding(mask, 1)
    assert torch.equal(wide, surrounding(blur(mask.float()) > 0)[0])
    assert torch.equal(inside.flatten(1).any(1), mask.flatten(1).any(1))


def test_labels_are_those_of_the_authors() -> None:
    """On the authors' presets: theirs differ only where there is no foreground, whose box they call the whole
    grid, and in how a box is written (inclusive)."""
    data = json.loads((REFERENCES / "sd_rpn_labels.json").read_text(encoding="utf-8"))
    dropped = 0
    for case in data["cases"]:
        attention, sink_map = (torch.tensor(case[key])[None] * 1e-5 for key in ("attention", "sinks"))
        shown = torch.tensor([[c == "1" for c in row] for row in case["shown"]])
        sinks = find_sinks(sink_map, SINK_RULES[case["family"]])
        result = pseudo_labels(attention, LABEL_RULES[case["family"]], sinks, shown)
        rows = ["".join("x01"[int(v) + 1] for v in row) for row in result.labels[0]]
        assert rows == case["labels"], case["what"]
        top, left, bottom, right = result.boxes[0].tolist()
        assert [top, left, bottom - 1, right - 1] == case["box"]
        dropped += bool(result.reasons[0])
        assert bool(result.reasons[0]) == (case["what"] in ("wide", "weak"))
    assert (len(data["cases"]), dropped) == (15, 5)


# sinks


@given(maps(), st.sampled_from([1.0, 2.0, 10.0]), st.sampled_from([0.05, 0.2, 0.5]))
@settings(deadline=None, max_examples=150)
def test_sinks_stand_out_and_are_few(drawn: tuple[Tensor, Tensor, Tensor], times: float, top: float) -> None:
    attention, _, shown = drawn
    found = find_sinks(attention, SinkRule(times=times, top=top), shown)
    for image, mask, sinks in zip(attention, shown, found, strict=True):
        values = {
            i: v
            for i, (v, s) in enumerate(zip(image.flatten().tolist(), mask.flatten().tolist(), strict=True))
            if s
        }
        median = sorted(values.values())[(len(values) - 1) // 2] if values else 0.0
        ranked = sorted(values, key=lambda i: (-values[i], i))
        best = ranked[: max(1, math.floor(len(values) * top + 1e-9))]
        expected = {i for i in best if values[i] > 0 and values[i] >= np.float32(times * median)}
        assert set(sinks.flatten().nonzero()[:, 0].tolist()) == expected


def test_published_sink_masses_do_not_carry_over() -> None:
    """On 144 tokens that share the attention evenly all are sinks by LLaVA's constant, none by ours."""
    even = torch.full((1, 12, 12), 1 / 144)
    assert share_of(find_sinks(even, SINK_RULES["llava"])).item() == 1
    assert share_of(find_sinks(even, SINK_RULES["default"])).item() == 0
    assert check_share(torch.tensor([0.0, 0.1]), SinkRule(), "preset default") == pytest.approx(0.05)
    with pytest.raises(UsageError, match=r"preset llava: 100% of the visual tokens .* at most 20%"):
        check_share(torch.ones(3), SinkRule(), "preset llava")


def test_massive_activations() -> None:
    hidden = torch.randn(2, 9, 512, generator=torch.Generator().manual_seed(0))
    hidden[0, 3, 100], hidden[1, 5, 7] = 500.0, -500.0
    expected = torch.zeros(2, 9, dtype=torch.bool)
    expected[0, 3] = expected[1, 5] = True
    assert torch.equal(massive(hidden), expected)
    assert torch.equal(massive(hidden * 1e3), expected)
    expected[1, 5] = False
    assert torch.equal(massive(hidden, dims=(100,)), expected)
    assert not massive(hidden, dims=(1,)).any()
    with pytest.raises(UsageError, match=r"width 96 cannot exceed 9\.8"):
        massive(hidden[..., :96])


def test_steady_tokens_are_sinks_and_not_objects() -> None:
    """Thirty heads look at a sink and at both objects, whatever is asked; one follows the question."""
    asked, other = (torch.full((1, 31, 8, 8), 0.001) for _ in range(2))
    for maps_ in (asked, other):
        maps_[0, :, 0, 0] = 0.1
        maps_[0, :30, 2, 2] = maps_[0, :30, 6, 6] = 0.3
    asked[0, 30, 2, 2] = other[0, 30, 6, 6] = 0.3
    found = steady(asked, other, SinkRule())
    assert found.nonzero().tolist() == [[0, 0]]
    same = steady(asked, asked, SinkRule())
    assert bool(same[0, 0])


# maps


def test_blur_is_the_gaussian_with_a_mirrored_border() -> None:
    kernel = np.exp(-0.5 * np.arange(-1, 2) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    for height, width in ((5, 7), (1, 4), (2, 2), (3, 1), (1, 1)):
        image = torch.rand(2, 3, height, width, dtype=torch.float64)
        expected = [ndimage.correlate(m, kernel, mode="mirror") for m in image.flatten(0, 1).numpy()]
        torch.testing.assert_close(blur(image).flatten(0, 1), torch.from_numpy(np.stack(expected)))
    constant = torch.full((3, 4), 0.25, dtype=torch.bfloat16)
    torch.testing.assert_close(blur(constant), torch.full((3, 4), 0.25))


def flooded(mask: list[list[bool]]) -> Iterator[set[tuple[int, int]]]:
    """8-connected components by filling, in the order of their first cells."""
    left = [(i, j) for i, row in enumerate(mask) for j, cell in enumerate(row) if cell]
    while left:
        found, border = {left[0]}, [left[0]]
        while border:
            i, j = border.pop()
            near = {(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)} & set(left) - found
            found |= near
            border += near
        left = [cell for cell in left if cell not in found]
        yield found


@given(maps())
@settings(deadline=None, max_examples=100)
def test_components_and_entropy(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    attention, gone, _ = drawn
    for mask in gone | (attention > 0.02):
        expected = sorted(flooded(mask.tolist()), key=lambda cells: -len(cells))
        found = components(mask)
        assert [{tuple(cell) for cell in one.nonzero().tolist()} for one in found] == expected
    for image, entropy in zip(attention, spatial_entropy(attention).tolist(), strict=True):
        steps = (image * 1000).round().int().tolist()
        mean = Fraction(sum(map(sum, steps)), image.numel())
        above = [[max(Fraction(v) - mean, Fraction(0)) for v in row] for row in steps]
        total = sum(map(sum, above))
        parts = [
            float(sum(above[i][j] for i, j in cells) / total)
            for cells in flooded([[v > 0 for v in row] for row in above])
        ]
        if parts:
            assert entropy == pytest.approx(-sum(p * math.log(p) for p in parts), abs=1e-6)
        else:
            assert entropy == math.inf


def test_entropy_is_that_of_the_authors() -> None:
    data = json.loads((REFERENCES / "localization_heads.json").read_text(encoding="utf-8"))
    for case in data["cases"]:
        attention = torch.tensor(case["attention"], dtype=torch.float64) * 1e-5
        for floor, key in ((0.0, "entropy"), (1e-3, "at_floor")):
            expected = math.inf if case[key] is None else case[key]
            assert spatial_entropy(attention, floor).item() == pytest.approx(expected, abs=1e-6)


@given(maps())
@settings(deadline=None, max_examples=50)
def test_normalised_maps_sum_to_one_on_what_is_shown(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    attention, _, shown = drawn
    some = shown.flatten(1).any(1)
    p = normalised(attention, shown)
    torch.testing.assert_close(p.sum((1, 2))[some], torch.ones(int(some.sum())))
    assert not p[~shown].any()


def test_presets_are_the_papers() -> None:
    assert replace(LABEL_RULES["qwen"], mass=0.0, blur=False, sinks=0.2) == LabelRule()
    assert LABEL_RULES["default"].floor / 576 == pytest.approx(LABEL_RULES["qwen"].mass)
