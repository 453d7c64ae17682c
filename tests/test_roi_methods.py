"""The registered RoI methods: one contract for all, formulas in plain Python, what each says on mistakes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from test_roi_regions import on_picture, signals

from vlmbench.conditions import parse_spec
from vlmbench.errors import NotApplicableError, UsageError, VlmbenchError
from vlmbench.items import Box
from vlmbench.roi import ROIS, get
from vlmbench.roi.attn_entropy import focused
from vlmbench.roi.base import NEEDS, Region, RoiMethod, Signals
from vlmbench.roi.given import same_depth
from vlmbench.roi.pure_grad import detailed, per_token
from vlmbench.roi.raw_attn import middle
from vlmbench.roi.rel_attn import relative
from vlmbench.roi.spatial import blur

ATTENTION = ("response_attention", "last_attention", "general_attention", "attention_gradient")
HEADS = 4


def told(
    size: tuple[int, int] = (320, 240),
    grid: tuple[int, int] = (6, 8),
    frame: Box | None = None,
    seed: int = 0,
    **changes: Any,
) -> Signals:
    """Everything a method may read, drawn at random."""
    g = torch.Generator().manual_seed(seed)
    plain = signals(size, grid, frame)
    n, (rows, columns) = grid[0] * grid[1], grid
    fields: dict[str, Any] = {
        name: {layer: torch.rand(HEADS, n, generator=g) / n for layer in range(plain.depth)}
        for name in ATTENTION
    }
    fields |= {
        "pixel_gradient": torch.rand(2, 4 * rows, 4 * columns, generator=g),
        "pixels": torch.rand(3, 4 * rows, 4 * columns, generator=g),
        "rpn": 3 * torch.randn(n, generator=g) - 3,
        "boxes": ((10.0, 10.0, 40.0, 40.0),),
        "probability": 0.5,
        "seed": seed,
    }
    return Signals(size, grid, plain.cells, plain.depth, **(fields | changes))


def only(method: RoiMethod, full: Signals) -> Signals:
    """What `method` asked for, and nothing else."""
    kept: dict[str, Any] = {name: None for name in NEEDS if name not in method.needs}
    layers = method.layers(full.depth)
    for name in ATTENTION:
        if name in method.needs:
            kept[name] = {layer: getattr(full, name)[layer] for layer in layers}
    if "pixel_gradient" not in method.needs:
        kept["pixels"] = None
    return dataclasses.replace(full, **kept)


@pytest.mark.parametrize("name", ROIS.names)
def test_every_method_keeps_the_contract(name: str) -> None:
    entry = ROIS.get(name)
    method = get(name)()
    assert isinstance(method, RoiMethod)
    assert dataclasses.is_dataclass(method)
    assert all(getattr(method, param.name) == param.default for param in entry.params)
    assert {param.name for param in entry.params} | {"give"} == {f.name for f in dataclasses.fields(method)}
    assert entry.source
    assert method.given in ("tokens", "image", "replace")
    assert method.needs <= set(NEEDS)
    for depth in (1, 2, 8, 28, 36):
        layers = method.layers(depth)
        assert list(layers) == sorted(set(layers))
        assert all(0 <= layer < depth for layer in layers)
    for seed in range(12):
        size, grid, frame = (
            ((320, 240), (6, 8), None),
            ((200, 60), (5, 5), (0, -70, 200, 130)),
            ((60, 200), (5, 5), (0, 70, 60, 130)),
            ((1, 3), (1, 1), None),
        )[seed % 4]
        full = told(size, grid, frame, seed)  # type: ignore[arg-type]
        have = only(method, full)
        map = method.map(have)
        if map is not None:
            assert map.shape == grid
            assert map.dtype == torch.float32
            assert not map.flatten()[~full.shown].any()
        region = method.region(have)
        if region is not None:
            on_picture(region, have)
        again = method.region(full)
        assert (again is None) == (region is None)
        assert region is None or again is None or again.box == region.box


FINDS = ("sd-rpn", "raw-attn", "rel-attn", "grad-attn", "pure-grad", "attn-entropy", "confidence", "replace")


@pytest.mark.parametrize("name", FINDS)
@pytest.mark.parametrize("place", [(1, 1), (3, 6), (7, 10)])
def test_a_region_holds_what_the_map_points_at(name: str, place: tuple[int, int]) -> None:
    """A hot spot of 2 x 2 tokens on a padded picture, in attention and gradients alike."""
    grid, size = (12, 12), (600, 400)
    have = told(size, grid, (0, -100, 600, 500))
    row, column = place[0] + 1, place[1]
    hot = torch.zeros(grid)
    hot[row : row + 2, column : column + 2] = 1.0
    low = 0.01 * torch.ones(144)
    spot = {layer: (hot.flatten() + low).expand(HEADS, -1) / 10 for layer in range(8)}
    flat = {layer: low.expand(HEADS, -1) / 10 for layer in range(8)}
    slope = torch.nn.functional.interpolate(hot[None, None], scale_factor=4)[0, 0] + 0.01
    have = dataclasses.replace(
        have,
        response_attention=spot,
        last_attention=spot,
        general_attention=flat,
        attention_gradient=spot,
        pixel_gradient=torch.stack([slope, torch.ones_like(slope)]),
        pixels=have.pixels * (0.1 + slope),  # type: ignore[operator]
        rpn=10 * hot.flatten() - 5,
        probability=0.5,
    )
    method = get(name)()
    region = method.region(have)
    assert region is not None
    x, y = (column + 1) * 50, (row + 1) * 50 - 100
    left, top, right, bottom = region.box
    assert left < x < right
    assert top < y < bottom
    assert (right - left) * (bottom - top) < 0.5 * 600 * 400


@pytest.mark.parametrize("name", [n for n in FINDS if n not in ("confidence", "replace")])
def test_what_was_not_read_is_named(name: str) -> None:
    nothing = Signals((8, 8), (2, 2), signals((8, 8), (2, 2)).cells, 8)
    with pytest.raises(NotApplicableError, match=f"^{name} needs .*, which this model or run does not give$"):
        get(name)().region(nothing)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 7))
def test_vicrop_maps_are_their_formulas(seed: int, layer: int) -> None:
    have = told(seed=seed, grid=(2, 3), size=(30, 20))
    a, b, g = (
        maps[layer].double().tolist()  # type: ignore[index]
        for maps in (have.last_attention, have.general_attention, have.attention_gradient)
    )
    ratio = [sum(a[h][i] for h in range(4)) / sum(b[h][i] for h in range(4)) for i in range(6)]
    weighted = [sum(a[h][i] * max(g[h][i], 0) for h in range(4)) / 4 for i in range(6)]
    shift = dataclasses.replace(
        have,
        attention_gradient={k: v - 1 / 12 for k, v in have.attention_gradient.items()},  # type: ignore[union-attr]
    )
    signed = [sum(a[h][i] * max(g[h][i] - 1 / 12, 0) for h in range(4)) / 4 for i in range(6)]
    assert values(get("rel-attn")(layer=layer), have) == pytest.approx(ratio, rel=1e-4)
    assert values(get("grad-attn")(layer=layer), have) == pytest.approx(weighted, rel=1e-4)
    assert values(get("grad-attn")(layer=layer), shift) == pytest.approx(signed, rel=1e-4, abs=1e-9)


def values(method: RoiMethod, have: Signals) -> list[float]:
    map = method.map(have)
    assert map is not None
    return map.flatten().tolist()


def test_no_token_wins_by_a_division_by_nothing() -> None:
    asked, general = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.0, 0.5])
    got = relative(asked, general)
    assert got.isfinite().all()
    assert got[[0, 2]].tolist() == pytest.approx([1.0, 0.6])
    assert relative(asked, torch.zeros(3)).tolist() == asked.tolist()


def test_detail_is_what_a_blur_takes_away() -> None:
    """By loops: Gaussian of sigma .8 over 3 x 3, mirrored; length over the channels; median over 7 x 7."""
    g = torch.Generator().manual_seed(3)
    pixels = torch.rand(3, 9, 11, generator=g) * torch.linspace(0.1, 1, 11)
    plane = pixels.double().numpy()
    weight = {i: math.exp(-0.5 * (i / 0.8) ** 2) for i in (-1, 0, 1)}
    total = sum(weight.values()) ** 2

    def mirrored(i: int, length: int) -> int:
        return -i if i < 0 else 2 * (length - 1) - i if i >= length else i

    def reflected(i: int, length: int) -> int:
        return -i - 1 if i < 0 else 2 * length - 1 - i if i >= length else i

    detail = np.zeros((9, 11))
    for y in range(9):
        for x in range(11):
            soft = sum(
                weight[i] * weight[j] * plane[:, mirrored(y + i, 9), mirrored(x + j, 11)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            )
            detail[y, x] = math.sqrt(((plane[:, y, x] - soft / total) ** 2).sum())
    spread = np.zeros_like(detail)
    for y in range(9):
        for x in range(11):
            near = [
                detail[reflected(y + i, 9), reflected(x + j, 11)] for i in range(-3, 4) for j in range(-3, 4)
            ]
            spread[y, x] = sorted(near)[24]
    clear = np.abs(spread - np.median(spread)) > 1e-6
    assert clear.sum() > 90
    assert (detailed(pixels).numpy() == (spread > np.median(spread)))[clear].all()
    assert not detailed(torch.ones(3, 8, 8)).any()


def test_pure_grad_averages_each_token_s_pixels() -> None:
    have = told(grid=(2, 3), size=(30, 20))
    slopes, pixels = have.pixel_gradient, have.pixels
    assert slopes is not None
    assert pixels is not None
    counted = (slopes[0] / slopes[1] * detailed(pixels)).tolist()
    want = [
        sum(counted[4 * r + i][4 * c + j] for i in range(4) for j in range(4)) / 16
        for r in range(2)
        for c in range(3)
    ]
    assert values(get("pure-grad")(), have) == pytest.approx(want, rel=1e-4)
    # 27 patches of 14 in 384 pixels: six are seen by none
    assert per_token(torch.ones(384, 384), (27, 27)).shape == (27, 27)


def test_raw_attention_is_the_mean_of_its_heads_without_sinks() -> None:
    have = told(grid=(6, 8))
    maps = have.response_attention
    assert maps is not None
    want = (maps[3][1] + maps[5][0] + maps[5][2]) / 3
    method = get("raw-attn")(heads="5:2/3:1/5:0")
    assert method.layers(8) == (3, 5)
    assert values(method, have) == pytest.approx(want.tolist(), rel=1e-6)
    every = torch.cat([maps[layer] for layer in middle(8)]).mean(0)
    assert get("raw-attn")().layers(8) == tuple(middle(8)) == (2, 3, 4, 5)
    assert values(get("raw-attn")(), have) == pytest.approx(every.tolist(), rel=1e-6)
    sink = {layer: rows.clone() for layer, rows in maps.items()}
    sink[1][3, 7] = 5.0
    have = dataclasses.replace(have, response_attention=sink)
    method = get("raw-attn")(heads="5:2", sink_heads="1:3")
    assert method.layers(8) == (1, 5)
    got = method.map(have)
    assert got is not None
    assert [i for i, value in enumerate(got.flatten().tolist()) if value == 0] == [7]


def test_localisation_heads_are_found() -> None:
    """On one spot, on two, everywhere, on the bottom row; the rest hardly look at the image, and the one that
    does so most, the elbow, looks everywhere."""
    spot, pair, even, faint, bottom = (torch.zeros(6, 6) for _ in range(5))
    spot[2:4, 2:4] = 0.2
    pair[0, 0] = pair[5, 5] = 0.4
    even[:] = 0.8 / 36
    faint[0, 3] = 1e-4
    bottom[5] = 0.8 / 6
    maps = torch.stack([even / 1000, even, pair, spot, bottom, *[faint / (1 + i) for i in range(7)]])
    assert focused(maps, 2).tolist() == [3, 2]
    assert focused(maps, 1).tolist() == [3]
    layers = {layer: maps.flatten(1).roll(layer, 0) for layer in range(8)}
    have = dataclasses.replace(told((60, 60), (6, 6)), last_attention=layers)
    method = get("attn-entropy")(count=6)
    assert values(method, have) == pytest.approx((6 * blur(spot)).flatten().tolist(), rel=1e-5)
    region = method.region(have)
    assert region is not None
    assert region.box == (10, 10, 50, 50)
    named = get("attn-entropy")(heads="4:7")
    assert named.layers(8) == (4,)
    assert values(named, have) == pytest.approx(blur(spot).flatten().tolist(), rel=1e-5)


def test_default_layers_keep_the_relative_depth() -> None:
    assert [same_depth(-1, depth, "x") for depth in (1, 8, 28, 32, 36, 40)] == [0, 4, 12, 14, 16, 18]
    assert get("rel-attn")(layer=22).layers(36) == (22,)


def test_confidence_looks_only_where_the_answer_is_unsure() -> None:
    method = get("confidence")(method="center(share=0.5)", below=0.7)
    assert method.needs == {"probability"}
    assert method.region(told(probability=0.7)) is None
    region = method.region(told(probability=0.69))
    assert region is not None
    assert region.box == get("center")(share=0.5).region(told()).box  # type: ignore[union-attr]
    assert get("confidence")().needs == {"probability", "rpn"}
    assert (get("confidence")().given, get("confidence")(give="image").given) == ("tokens", "image")
    with pytest.raises(NotApplicableError, match="the probability of the plain answer"):
        method.region(told(probability=None))


def test_replace_gives_the_crop_alone() -> None:
    method = get("replace")(method="oracle(margin=0)")
    assert method.given == "replace"
    region = method.region(told())
    assert region is not None
    assert region.box == (10, 10, 40, 40)
    assert get("replace")(method="rel-attn(layer=3)").layers(8) == (3,)


def test_oracle_is_the_box_around_the_boxes_on_the_picture() -> None:
    boxes = ((10.0, 20.0, 30.0, 40.0), (300.0, 200.0, 400.0, 300.0), (-9.0, 0.0, -1.0, 9.0))
    assert area_of(get("oracle")(margin=0), told(boxes=boxes)) == (10, 20, 320, 240)
    assert area_of(get("oracle")(margin=0.5), told(boxes=boxes[:1])) == (0, 10, 40, 50)
    for none in (None, (), boxes[2:]):
        assert get("oracle")().region(told(boxes=none)) is None


def area_of(method: RoiMethod, have: Signals) -> Box:
    region = method.region(have)
    assert region is not None
    return region.box


def test_center_and_random_have_the_picture_s_aspect() -> None:
    assert area_of(get("center")(share=0.25), told((40, 20))) == (10, 5, 30, 15)
    assert area_of(get("center")(share=1.0), told((40, 20))) == (0, 0, 40, 20)
    draws = [area_of(get("random")(), told((40, 20), seed=seed)) for seed in range(50)]
    assert len(set(draws)) == 50
    for left, top, right, bottom in draws:
        assert (right - left, bottom - top) == pytest.approx((20, 10))
    lefts = [left for left, *_ in draws]
    assert min(lefts) < 3
    assert max(lefts) > 17


def test_random_follows_the_seed_alone() -> None:
    """The same relative place on another picture, under another size, and for another draw another seed."""
    small, large = (area_of(get("random")(), told(size, seed=5)) for size in ((40, 20), (400, 200)))
    assert [10 * side for side in small] == pytest.approx(large)
    entry = ROIS.get("random")
    keys = [entry.draw_key(entry.part(**p)) for p in ({}, {"share": 0.1}, {"draw": 1})]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_duplicate_is_the_whole_picture_and_none_nothing() -> None:
    region = get("duplicate")().region(told())
    assert isinstance(region, Region)
    assert region.box == (0, 0, 320, 240)
    assert get("none")().region(told()) is None
    assert get("more-pixels")().region(told()) is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sd-rp", "unknown RoI method 'sd-rp': did you mean 'sd-rpn'?"),
        ("sd-rpn(tau=1)", "sd-rpn: tau must be in [0, 1): got 1"),
        ("center(share=0)", "center: share must be in [0.0001, 1]: got 0"),
        ("rel-attn(layer=40)", "rel-attn: layer 40 does not exist, the language model has 8: 0 to 7"),
        ("raw-attn(heads=3-1)", "raw-attn: cannot read heads '3-1': expected LAYER:HEAD/LAYER:HEAD.."),
        ("raw-attn(heads=3:9)", "raw-attn: head 9 does not exist, layer 3 has 4: 0 to 3"),
        ("attn-entropy(heads=9:1)", "attn-entropy: layer 9 does not exist, the language model has 8: 0 to 7"),
        ("confidence(method=rel-atn)", "unknown RoI method 'rel-atn': did you mean 'rel-attn'?"),
        (
            "confidence(method=replace(method=oracle))",
            "confidence: cannot stand around 'replace(method=oracle)'; choose another method",
        ),
        ("replace(method=more-pixels)", "replace: cannot stand around 'more-pixels'; choose another method"),
        ("replace(give=image)", "replace has no parameter 'give'; known: method"),
        ("oracle(give=crop)", "oracle: give='crop' is unknown; known: image, own, replace, tokens"),
    ],
)
def test_mistakes_are_told_in_one_line(spec: str, said: str) -> None:
    def run() -> None:
        name, given_ = parse_spec(spec)
        method = get(name)(**given_)
        method.layers(8)
        method.region(told())

    with pytest.raises(VlmbenchError) as error:
        run()
    assert isinstance(error.value, UsageError)
    assert str(error.value) == said
