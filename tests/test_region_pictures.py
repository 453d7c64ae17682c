"""Pictures of a region run: what is drawn is what the methods saw, and it can be read without colours."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from runs import picture, write_rows
from test_pareto import speed
from test_stability_pictures import elements, readable, words
from test_table import small_table

from vlmbench.conditions import CLEAN, Condition
from vlmbench.engine.looking import Looker
from vlmbench.engine.prepare import Preparer
from vlmbench.engine.region_panels import (
    Answered,
    ItemRegions,
    RegionPanel,
    Sighted,
    TokenMap,
    disagreeing,
    label_rule,
    region_panels,
)
from vlmbench.engine.sight import Sight
from vlmbench.engine.store import read_records
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.session import Session
from vlmbench.experiments.tables import TaskPlan
from vlmbench.items import Item
from vlmbench.metrics.regions import map_auroc
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.perturb.image import IMAGES
from vlmbench.report.placing import overlap
from vlmbench.report.region_overlays import LABELS, LEVELS, UNSEEN, _ramp, heat, labelled, outline
from vlmbench.report.region_pictures import draw_region_sheet, draw_region_sheets
from vlmbench.report.region_plot import draw_regions, regions, rows_of
from vlmbench.report.region_tiles import TILE
from vlmbench.report.roi import CEILING, CONTROLS
from vlmbench.roi import CEILING as CEILING_SOURCE
from vlmbench.roi import ROIS
from vlmbench.roi.labels import LabelRule
from vlmbench.roi.rpn import Rpn, rpn_shape
from vlmbench.roi.rpn_file import RpnConfig, base_model, save_rpn
from vlmbench.schema import Cell, Column, Estimate, Record, RegionRecord, State, Table

Tiny = Callable[[str], Path]
FAMILIES = ("llava", "qwen2_5_vl", "llava_next")
SIZE = (64, 48)


# overlays


@st.composite
def maps(draw: st.DrawFn) -> TokenMap:
    """Grids of rows and columns of any height, padding at the lower and right end."""
    edges, seen = [], []
    for _ in range(2):
        count = draw(st.integers(1, 6))
        shown = draw(st.integers(1, count))
        cuts = sorted(draw(st.sets(st.integers(1, 99), min_size=shown - 1, max_size=shown - 1)))
        ends = np.array([0, *cuts, 100]) / 100
        edges.append(np.full((count, 2), np.nan))
        edges[-1][:shown] = np.stack([ends[:-1], ends[1:]], 1)
        seen.append(np.arange(count) < shown)
    shown = seen[0][:, None] & seen[1][None, :]
    some = st.integers(0, 5).map(float)
    values = np.array(draw(st.lists(some, min_size=shown.size, max_size=shown.size)), np.float32)
    labels = draw(st.lists(st.sampled_from([1, 0, -1]), min_size=shown.size, max_size=shown.size))
    return TokenMap(
        np.where(shown, values.reshape(shown.shape), np.nan).astype(np.float32),
        edges[0],
        edges[1],
        np.array(labels, np.int8).reshape(shown.shape),
    )


def pixels(data: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


@settings(max_examples=60, deadline=None)
@given(maps(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_every_pixel_has_the_colour_of_the_token_that_sees_it(map: TokenMap, size: tuple[int, int]) -> None:
    hot, told = pixels(heat(map, size)), pixels(labelled(map, size))
    assert hot.shape == told.shape == (size[1], size[0], 4)
    low, high = np.nanmin(map.values), np.nanmax(map.values)
    for (y, x), _ in np.ndenumerate(hot[..., 0]):
        place = [
            next(i for i, (a, b) in enumerate(edges) if a <= (at + 0.5) / n < b)
            for edges, at, n in ((map.rows, y, size[1]), (map.columns, x, size[0]))
        ]
        value = map.values[place[0], place[1]]
        level = round(float((value - low) / ((high - low) or 1)) * (LEVELS - 1))
        assert tuple(hot[y, x]) == _ramp(level / (LEVELS - 1))
        assert map.labels is not None
        assert tuple(told[y, x]) == LABELS[int(map.labels[place[0], place[1]])]


def test_what_no_token_sees_is_blank() -> None:
    """A processor that cuts the ends off."""
    map = TokenMap(
        np.ones((1, 2), np.float32), np.array([[0.25, 0.75]]), np.array([[0, 0.5], [0.5, 1]]), None
    )
    drawn = pixels(heat(map, (8, 8)))
    assert (drawn[:2] == UNSEEN).all()
    assert (drawn[6:] == UNSEEN).all()
    assert not (drawn[2:6] == UNSEEN).all(-1).any()


def lightness(colour: tuple[int, ...], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a half-transparent colour over greys."""
    opacity = colour[3] / 255
    return opacity * (np.array(colour[:3]) @ [0.299, 0.587, 0.114]) + (1 - opacity) * under


def test_overlays_are_read_by_lightness_alone() -> None:
    grey = np.arange(256.0)
    levels = [lightness(_ramp(i / (LEVELS - 1)), grey) for i in range(LEVELS)]
    assert (np.diff(levels, axis=0) > 0).all()
    foreground, ignored, background = (lightness(LABELS[label], grey) for label in (1, -1, 0))
    assert foreground.min() > ignored.max() > ignored.min() > background.max()


@settings(max_examples=60, deadline=None)
@given(maps(), st.randoms(use_true_random=False))
def test_an_outline_runs_between_tokens_in_and_out(map: TokenMap, random: Any) -> None:
    shown = np.isfinite(map.values)
    mask = np.array([[random.random() < 0.5 for _ in row] for row in shown]) & shown
    expected = set()
    for (r, c), inside in np.ndenumerate(mask):
        for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            y, x = r + dr, c + dc
            beside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]
            if inside and not beside:
                (top, bottom), (left, right) = map.rows[r], map.columns[c]
                at = {(-1, 0): (left, top, right, top), (1, 0): (left, bottom, right, bottom)}
                at |= {(0, -1): (left, top, left, bottom), (0, 1): (right, top, right, bottom)}
                expected.add(tuple(map_to_list(at[dr, dc])))
    assert {tuple(map_to_list(line)) for line in outline(map, mask)} == expected


def map_to_list(line: tuple[float, ...]) -> list[float]:
    return [float(part) for part in line]


# sheets

NASTY = '<script>alert("&")</script> \u202eevil ]]> what is "that" ?'


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    """Nothing compresses worse."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def token_map(seed: int, grid: tuple[int, int], **more: Any) -> TokenMap:
    rng = np.random.default_rng(seed)
    rows, columns = (np.stack([np.arange(n) / n, np.arange(1, n + 1) / n], 1) for n in grid)
    labels = rng.choice(np.array([1, 0, -1], np.int8), grid)
    return TokenMap(rng.random(grid).astype(np.float32) ** 4, rows, columns, **{"labels": labels, **more})


def made(size: tuple[int, int] = (320, 214), grid: tuple[int, int] = (24, 24)) -> ItemRegions:
    """Every kind of panel, with pictures and texts that are hard to hold."""
    right, wrong = Answered("top-left " * 9, 1.0, "PARSED"), Answered(NASTY, 0.0, "PARSED")
    told = RegionRecord(box=(1, 2, 3, 4), share=0.123456, iou=0.5, recall=0.75, pointing=True, auroc=0.9)
    box = (0.2, 0.3, 0.6, 0.8)
    full = {"box": box, "told": told, "tokens": 1152, "tokens_before": 576}
    mask = np.random.default_rng(3).random(grid) > 0.8
    panels = [
        RegionPanel(
            "sd-rpn", 0, wrong, right, token_map(0, grid), mask=mask, crop=noise(1, (320, 60)), **full
        ),
        RegionPanel(
            "raw-attn(heads=3:1/3:2/4:7)",
            0,
            right,
            wrong,
            token_map(1, grid),
            crop=noise(2, (40, 320)),
            **full,
        ),
        RegionPanel(
            "rel-attn", 0, right, right, token_map(2, grid, labels=None), crop=noise(3, size), **full
        ),
        RegionPanel(
            "replace(method=oracle)",
            0,
            right,
            Answered("0.5", 0.3, "PARSED"),
            crop=noise(4, size),
            replaces=True,
            **full,
        ),
        RegionPanel(
            "confidence",
            0,
            right,
            right,
            token_map(5, grid, labels=None, unlabelled="attention is too weak"),
            as_recorded=False,
        ),
        RegionPanel(
            "more-pixels",
            0,
            right,
            Answered(None, None, "EMPTY"),
            enlarges=True,
            tokens=1156,
            tokens_before=576,
        ),
        RegionPanel(
            "pure-grad",
            0,
            right,
            Answered(None, None, "NOT_APPLICABLE"),
            detail="a served model gives no gradients " * 4,
        ),
        RegionPanel("grad-attn", 0, right, None, detail="never computed", failed=True),
        RegionPanel(
            "shift(dx=2,dy=-16)+sd-rpn(rule=surrounding,tau=0.25)",
            1,
            right,
            right,
            token_map(6, grid),
            crop=noise(7, size),
            **full,
        ),
    ]
    panels += [
        RegionPanel(f"m{i}", 0, right, wrong, token_map(i, grid), crop=noise(i, size), **full)
        for i in range(6)
    ]
    sights = (Sighted(noise(8, size), (box, (0.9, 0.9, 0.901, 0.99))), Sighted(noise(9, size), ()))
    return ItemRegions("own", "../a b/é?", "kind", NASTY, ("cat", "dog"), sights, tuple(panels), 2, 3)


def test_a_sheet_of_everything_can_be_read_and_is_small() -> None:
    svg = draw_region_sheet(made())
    readable(svg)
    assert len(svg.encode()) < 150_000
    assert svg == draw_region_sheet(made())
    assert "<script" not in svg
    assert "\u202e" not in svg
    shown = " ".join(words(svg))
    for text in ("right answer: cat / dog", "the first of 2 images", "3 more methods left out"):
        assert text in shown
    for text in (
        "12.3 % of the picture",
        "IoU 0.50, covers 75 %",
        "points at it, AUROC 0.90",
        "576 + 576 visual tokens",
        "no region: shown larger",
        "no labels: attention is too",
        "looked elsewhere",
        "not applicable: a served",
        "failed: never computed",
        "shown instead",
        "labels",
        "EMPTY",
    ):
        assert text in shown, text


def test_each_picture_is_held_once_and_every_use_finds_it() -> None:
    svg = draw_region_sheet(made((60, 40), (4, 6)))
    named = {e.attrib["id"] for e in elements(svg, "image") if "id" in e.attrib}
    used = {e.attrib["href"].removeprefix("#") for e in elements(svg, "use")}
    assert used == named
    assert len(named) == 3  # in colour, in grey, and the shifted one in grey
    other = replace(made((60, 40), (4, 6)), item="another")
    assert not named & {
        e.attrib["id"] for e in elements(draw_region_sheet(other), "image") if "id" in e.attrib
    }


def test_boxes_stand_where_they_are_and_marks_have_shapes() -> None:
    """Two of one panel: solid where it looked, dashed what is asked about; marks differ in shape."""
    box, asked = (0.25, 0.5, 0.75, 1.0), (0.1, 0.1, 0.3, 0.2)
    panel = RegionPanel("center", 0, Answered("a", 0.0, "PARSED"), Answered("b", 1.0, "PARSED"), box=box)
    item = ItemRegions("t", "i", "", "q", (), (Sighted(noise(0, (100, 50)), (asked,)),), (panel,))
    svg = draw_region_sheet(item)
    used = elements(svg, "use")[1].attrib["transform"]
    x, y = (float(part) for part in re.findall(r"[\d.]+", used)[:2])
    light = [e.attrib for e in elements(svg, "rect") if e.attrib.get("stroke-width") == "1.8"]
    solid = [e for e in light if "stroke-dasharray" not in e]
    dashed = [e for e in light if "stroke-dasharray" in e]
    assert len(solid) == 1
    assert len(dashed) == 2  # also on the picture without a second look
    for found, (left, top, right, bottom) in ((solid[0], box), (dashed[1], asked)):
        place = [float(found[name]) for name in ("x", "y", "width", "height")]
        outer = [place[0] - x - 1.8, place[1] - y - 1.8, place[2] + 3.6, place[3] + 3.6]
        wanted = [left * TILE, top * TILE / 2, (right - left) * TILE, (bottom - top) * TILE / 2]
        assert outer == pytest.approx(wanted, abs=0.02)
    strokes = [len(e.attrib["points"].split()) for e in elements(svg, "polyline")]
    assert strokes == [2, 2, 2, 2, 3]  # crosses before, a tick after
    assert "gained" in words(svg)


def test_files_have_plain_names_and_older_ones_go(tmp_path: Path) -> None:
    item = replace(made((30, 20), (2, 2)), panels=())
    first = draw_region_sheets([item, item], tmp_path)
    assert [path.name for path in first] == [f"region-0{i}-own-.._a_b_.svg" for i in (1, 2)]
    assert all(path.parent == tmp_path for path in first)
    draw_region_sheets([item], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [first[0].name]


# what the engine tells of an item


@dataclass(frozen=True)
class Ran:
    items: list[Item]
    records: dict[tuple[str, str, str], Record]
    variations: list[Variation]
    preparer: Preparer
    looker: Looker

    def panels(self, count: int, **records: Any) -> list[ItemRegions]:
        known = records.get("records", self.records)
        return list(
            region_panels(self.preparer, self.looker, "own", self.items, self.variations, known, count)
        )


METHODS = ("center(share=0.3)", "raw-attn", "rel-attn", "oracle", "replace(method=oracle)", "sd-rpn")
MAPPED = ("raw-attn", "rel-attn", "sd-rpn")
SHIFT = "shift"


@pytest.fixture(scope="module")
def ran(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    folder = tmp_path_factory.mktemp("regions")
    (folder / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(3):
        picture(i, SIZE).save(folder / "images" / f"{i}.png")
        row = {"id": f"i{i}", "image": f"{i}.png", "question": "what is it ?", "answer": "cat"}
        rows.append(row | ({"box": [8, 8, 40, 40]} if i < 2 else {}))
    task = write_rows(folder, rows)
    done: dict[str, Ran] = {}

    def finish(family: str) -> Ran:
        if family not in done:
            model = str(tiny_model(family))
            out = folder / family
            adapter = Adapter(load_model(model, device="cpu"))
            shape = rpn_shape(adapter.model)
            config = RpnConfig(
                base=base_model(adapter),
                start=shape.start,
                layers=shape.layers,
                norm=shape.norm,
                rotary=shape.rotary,
                threshold=0.4,
                grounding_heads=((1, 0), (1, 1)),
                labels={"floor": 0.0, "wide": 2.0},
            )
            rpn = Rpn(adapter.model, shape)
            save_rpn(folder / f"{family}-rpn", rpn, config)
            options = RunOptions(
                model, str(task), out=out, rpn=folder / f"{family}-rpn", batch_size=4, show_progress=False
            )
            session = Session(options, "roi")
            plan = plan_of()
            plans = [TaskPlan(t, items, limit, plan) for t, items, limit in session.chosen]
            session.run(plans)
            most = {"own": 3}
            done[family] = Ran(
                list(plans[0].items),
                dict(read_records(out)),
                plan,
                Preparer(adapter, 0, most),
                Looker(Sight(adapter), most, 0, rpn, config),
            )
        return done[family]

    return finish


def plan_of() -> list[Variation]:
    from vlmbench.conditions import parse_spec

    found = [Variation(CLEAN)]
    for spec in METHODS:
        name, given = parse_spec(spec)
        found.append(Variation(Condition(roi=ROIS.get(name).part(**given)), "roi", spec, "", "clean"))
    shift = IMAGES.get(SHIFT).part(dx=4)
    found.append(Variation(Condition(image=shift), "image", SHIFT, "dx=4", "clean"))
    both = Condition(image=shift, roi=ROIS.get("center").part())
    return [*found, Variation(both, "image", SHIFT, "dx=4", "center")]


@pytest.mark.parametrize("family", FAMILIES)
def test_panels_hold_what_the_run_recorded(family: str, ran: Callable[[str], Ran]) -> None:
    done = ran(family)
    found = {item.item: item for item in done.panels(9)}
    assert set(found) == {"i0", "i1", "i2"}
    for name, item in found.items():
        assert [panel.name for panel in item.panels] == [
            v.condition.id for v in done.variations if v.condition.roi
        ]
        assert len(item.sights) == 2  # as it is, and shifted
        assert item.sights[0].picture.tobytes() == picture(int(name[1]), SIZE).convert("RGB").tobytes()
        whole = np.array([*SIZE, *SIZE])
        for panel in item.panels:
            record = done.records["own", name, panel.name]
            plain = done.records["own", name, "shift(dx=4)" if panel.at else "clean"]
            assert panel.before == Answered(plain.raw, plain.score, str(plain.state))
            assert panel.after == Answered(record.raw, record.score, str(record.state))
            assert record.roi is not None
            assert (panel.box is None) == (record.roi.box is None) == (panel.crop is None)
            assert panel.as_recorded
            assert (panel.map is not None) == (panel.name in MAPPED)
            if panel.box is not None:
                assert np.array(panel.box) * whole == pytest.approx(record.roi.box, abs=2e-3)
            if panel.map is not None and record.roi.auroc is not None:
                assert auroc_of(panel.map, item.sights[0].boxes) == pytest.approx(record.roi.auroc, abs=1e-5)
            if panel.map is not None and panel.name != "rel-attn":
                check_labels(panel.map)
        boxes = np.array(item.sights[0].boxes).reshape(-1, 4)
        assert boxes.tolist() == ([] if name == "i2" else [pytest.approx([8 / 64, 8 / 48, 40 / 64, 40 / 48])])
        readable(draw_region_sheet(item))


def check_labels(map: TokenMap) -> None:
    """By the thresholds: what passes .2 of the largest value and only that is foreground."""
    assert (map.labels is None) == bool(map.unlabelled)
    if map.labels is not None:
        relative = map.values / np.nanmax(map.values)
        assert ((map.labels == 1) == (relative > 0.2)).all()
        assert (relative[map.labels == 0] < 0.1).all()


def auroc_of(map: TokenMap, boxes: tuple[Any, ...]) -> float:
    """By the cells that the rows and columns make."""
    rows, columns = np.broadcast_arrays(map.rows[:, None], map.columns[None])
    cells = np.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], -1).reshape(-1, 4)
    known = np.isfinite(cells).all(1)
    return map_auroc(map.values.ravel()[known], cells[known], boxes)


def test_the_crop_is_what_the_model_was_shown(ran: Callable[[str], Ran]) -> None:
    """The middle of the picture; the oracle's crop stands alone where it replaces it."""
    done = ran("llava")
    item = next(item for item in done.panels(9) if item.item == "i0")
    by_name = {panel.name: panel for panel in item.panels}
    shown = by_name["center(share=0.3)"]
    assert shown.crop is not None
    assert shown.box is not None
    ratio = shown.crop.width / shown.crop.height
    fixed = done.preparer.adapter.resized(SIZE)
    assert fixed is not None
    assert ratio == pytest.approx(fixed[0] / fixed[1], abs=0.1)
    inside = np.asarray(shown.crop)[shown.crop.height // 2, shown.crop.width // 2]
    middle = np.asarray(picture(0, SIZE).convert("RGB"))[
        SIZE[1] // 2 - 1 : SIZE[1] // 2 + 1, SIZE[0] // 2 - 1 : SIZE[0] // 2 + 1
    ]
    assert np.abs(middle.astype(int) - inside).min() <= 3
    instead, beside = by_name["replace(method=oracle)"], by_name["oracle"]
    assert instead.replaces
    assert not beside.replaces
    assert instead.crop is not None
    assert beside.crop is not None
    assert instead.crop.tobytes() == beside.crop.tobytes()


def test_what_the_run_recorded_is_told_where_a_new_look_differs(ran: Callable[[str], Ran]) -> None:
    done = ran("llava")
    records = dict(done.records)
    key = ("own", "i0", "center(share=0.3)")
    told = records[key].roi
    assert told is not None
    records[key] = records[key].model_copy(update={"roi": told.model_copy(update={"box": (0, 0, 9, 9)})})
    records["own", "i1", "center(share=0.3)"] = records["own", "i1", "center(share=0.3)"].model_copy(
        update={"state": State.NOT_APPLICABLE, "detail": "too small"}
    )
    found = {item.item: item.panels[0] for item in done.panels(9, records=records)}
    assert not found["i0"].as_recorded
    assert (found["i1"].detail, found["i1"].failed, found["i1"].box) == ("too small", False, None)
    assert found["i2"].as_recorded


def test_items_on_which_methods_disagree_come_first() -> None:
    items = [Item(f"i{i}", "q", (), ("a",), f"i{i}") for i in range(4)]
    method = Condition(roi=ROIS.get("center").part())
    plan = [Variation(method, "roi", "center", "", "clean")]

    def record(item: str, condition: Condition, answer: str, score: float) -> Record:
        return Record(
            task="t",
            item=item,
            condition=condition.id,
            key="",
            state=State.PARSED,
            answer=answer,
            score=score,
        )

    told = {
        "i0": (("a", 1.0), ("a", 1.0)),
        "i1": (("b", 0.0), ("c", 0.0)),
        "i2": (("b", 0.0), ("b", 0.0)),
        "i3": (("a", 1.0), ("b", 0.0)),
    }
    records = {
        ("t", item, condition.id): record(item, condition, *answer)
        for item, answers in told.items()
        for condition, answer in zip((CLEAN, method), answers, strict=True)
    }
    assert [item.id for item in disagreeing(items, "t", plan, records)] == ["i3", "i1", "i0", "i2"]


def test_labels_follow_the_network_s_own_rule() -> None:
    assert label_rule(None) == LabelRule()
    told: dict[str, Any] = {"rule": "qwen", "foreground": 0.3, "unknown": 7}
    config = RpnConfig.model_construct(labels=told)
    assert label_rule(config) == LabelRule(mass=5e-3, blur=True, sinks=1.0, foreground=0.3)


# gains and costs


def cell(name: str, value: float, half: float, speedup: float | None = None, **more: Any) -> Cell:
    change = Estimate(value=value, low=value - half, high=value + half, n=1000)
    metrics = {"accuracy_change": change, "gained": Estimate(value=0.041), "zoomed": Estimate(value=0.5)}
    return Cell(
        task="t",
        condition=name,
        parts={},
        family=name,
        axis="roi",
        reference="clean",
        n=1000,
        n_expected=1000,
        states={},
        metrics=metrics,
        score=Column.of([]),
        state=Column.of([]),
        answer="",
        min_margin=[],
        speed=[] if speedup is None else [speed(speedup)],
        **more,
    )


def table_of(*cells: Cell) -> Table:
    whole = small_table()
    clean = next(c for c in whole.cells if c.condition == "clean").model_copy(
        update={"speed": [speed(1.0)] if any(c.speed for c in cells) else []}
    )
    task = whole.tasks[0].task
    moved = [c.model_copy(update={"task": task}) for c in cells]
    return whole.model_copy(update={"tasks": whole.tasks[:1], "cells": [clean, *moved]})


CELLS = (
    cell("center", -0.004, 0.01, 0.5),
    cell("sd-rpn", 0.031, 0.012, 0.71),
    cell("oracle", 0.06, 0.012, 0.52),
    cell("confidence(method=oracle)", 0.05, 0.01, 0.9),
    cell("rel-attn", -0.03, 0.01, 0.42),
    cell("replace(method=attn-entropy(heads=3:1/3:2/4:7))", 0.0, 0.01),
)


def test_rows_are_the_cells_with_the_best_of_each_kind_first() -> None:
    table = table_of(*CELLS)
    rows = rows_of(table, table.tasks[0].task)
    assert [(row.name.partition("(")[0], row.group, row.sign) for row in rows] == [
        ("sd-rpn", 0, 1),
        ("rel-attn", 0, -1),
        ("replace", 1, 0),
        ("center", 1, 0),
        ("oracle", 2, 1),
        ("confidence", 2, 1),
    ]
    given = {c.family: c.speed[0].total_speedup if c.speed else None for c in CELLS}
    assert [row.throughput for row in rows] == [
        next(figure for family, figure in given.items() if family.startswith(row.name.partition("(")[0]))
        for row in rows
    ]


def test_controls_and_ceilings_are_those_of_the_registry() -> None:
    sources = {entry.name: entry.source for entry in ROIS}
    # the plain model has no row
    assert {name for name, source in sources.items() if source == "control"} == {*CONTROLS, "none"}
    assert [name for name, source in sources.items() if source == CEILING_SOURCE] == [CEILING]


@pytest.mark.parametrize("timed", [True, False])
def test_words_of_the_plot_touch_nothing(timed: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = table_of(*(c if timed else c.model_copy(update={"speed": []}) for c in CELLS))
    figure = Figure(figsize=(10.4, 3.4), dpi=100)
    FigureCanvasAgg(figure)
    regions(figure.add_axes((0.2, 0.2, 0.3, 0.6)), table, table.tasks[0].task)
    figure.draw_without_rendering()
    assert len(figure.axes) == 1 + timed
    texts = [text for axis in figure.axes for text in (*axis.texts, axis.xaxis.label) if text.get_text()]
    found = [text.get_window_extent() for text in texts]
    placed = [(box.x0, box.y0, box.x1, box.y1) for box in found]
    for i, one in enumerate(placed):
        for k, two in enumerate(placed[i + 1 :], i + 1):
            assert overlap(one, two) == 0, (texts[i].get_text(), texts[k].get_text())
    shown = [text.get_text() for text in texts]
    assert "+3.1" in shown
    assert "\u22123.0" in shown
    assert ("0.71" in shown) == timed


def test_the_plot_is_the_same_each_time_and_refused_without_methods(tmp_path: Path) -> None:
    table = table_of(*CELLS)
    one, two = (draw_regions(table, tmp_path / f"{name}.svg").read_bytes() for name in "ab")
    assert one == two
    with pytest.raises(UsageError, match="no accuracy of a RoI method"):
        draw_regions(table_of(), tmp_path / "c.svg")
