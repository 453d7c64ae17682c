"""Pictures of a perturbation run: what is drawn are the table's figures, and it can be read."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import write_rows, write_task

from vlmbench.cli.app import run as command
from vlmbench.cli.stability_pictures import write_stability_pictures
from vlmbench.comparison.flip_grid import MOST, FlipGrid, flip_grid
from vlmbench.comparison.predict import predict
from vlmbench.conditions import Condition
from vlmbench.engine.store import read_records
from vlmbench.engine.unstable import ANSWERS, Shown, UnstableItem, answers_of, in_turn, patch_width, thumbnail
from vlmbench.engine.unstable import MOST as MOST_SHOWN
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.perturb import run as perturb
from vlmbench.experiments.session import Result
from vlmbench.metrics.flip_grid import FlipCounts, most_unstable
from vlmbench.metrics.tabulate import Variation
from vlmbench.perturb.image import IMAGES
from vlmbench.report.canvas import GREY
from vlmbench.report.gallery import draw_gallery, draw_sheet
from vlmbench.report.heatmap import FEW_ITEMS, FEW_PAIRS, heatmap, top_of
from vlmbench.report.placing import overlap
from vlmbench.report.predict import decimal
from vlmbench.report.shift_plot import draw_shift, shift_lines, shifts
from vlmbench.report.svg import text_width, wrap
from vlmbench.schema import Column, Estimate, Record, Table
from vlmbench.table_io import dump_table

Tiny = Callable[[str], Path]
RESULT = Path(__file__).parents[1] / "results" / "demo-perturb.json"
NAMES = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def demo() -> Table:
    return Table.read(RESULT)


# reading what was drawn


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(NAMES + tag))


def words(svg: str) -> list[str]:
    return [(element.text or "").strip("\u2068\u2069") for element in elements(svg, "text")]


def real_width(text: str, size: float, bold: bool) -> float:
    """Pixels in DejaVu Sans, by its own metrics."""
    from matplotlib import font_manager, ft2font

    found = font_manager.findfont(
        font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    )
    font = ft2font.FT2Font(found)
    font.set_size(100, 72)
    font.set_text(text, 0)
    return float(font.get_width_height()[0]) / 64 * size / 100


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """left, top, right, bottom of every text that is not turned."""
    found = []
    for element in elements(svg, "text"):
        if "transform" in element.attrib:
            continue
        x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
        wide = real_width(element.text or "", size, "font-weight" in element.attrib)
        left = x - {"start": 0, "middle": wide / 2, "end": wide}[element.attrib.get("text-anchor", "start")]
        found.append((left, y - 0.75 * size, left + wide, y + 0.2 * size))
    return found


def readable(svg: str) -> None:
    """Nothing overlaps, nothing leaves the page, nothing is too small."""
    root = ElementTree.fromstring(svg)
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    placed = sorted(boxes(svg), key=lambda box: box[1])
    for i, one in enumerate(placed):
        for two in placed[i + 1 :]:
            if two[1] >= one[3]:
                break  # further ones begin lower still
            assert overlap(one, two) == 0
    for left, top, right, bottom in placed:
        assert left >= 0
        assert top >= 0
        assert right <= wide
        assert bottom <= high
    assert min(float(element.attrib["font-size"]) for element in elements(svg, "text")) >= 11


# text


@settings(max_examples=60)
@given(
    st.text(st.characters(codec="latin-1") | st.sampled_from("ЖЩЮщюΩŒﬁ×…"), max_size=60),
    st.integers(30, 400),
    st.booleans(),
)
def test_estimated_widths_are_not_below_real_ones(text: str, width: int, bold: bool) -> None:
    for line in wrap(text, 14, width, bold=bold):
        if len(line) > 1:
            assert text_width(line, 14, bold) <= width
        assert real_width(line, 14, bold) <= text_width(line, 14, bold) + 2


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "phrasing(name=held-out-2)+shift(dx=2,dy=-16)",
            ["phrasing", "(name=held-out-2)+", "shift(dx=2,dy=-16)"],
        ),
        ("scale_pad(s=0.9)+instruction_order", ["scale_pad(s=0.9)+", "instruction_order"]),
        ("overlay(kind=random, place=top, seed=3)", ["overlay(kind=random,", "place=top, seed=3)"]),
    ],
)
def test_names_break_between_their_parts(name: str, lines: list[str]) -> None:
    assert wrap(name, 13, 184, bold=True) == lines


@pytest.mark.parametrize(
    "text", ["what is it ? " * 9, "犬は青い箱の上にいますか" * 9, "e\u0301" * 90, "x" * 200]
)
def test_wrapped_text_is_whole_or_ends_with_an_ellipsis(text: str) -> None:
    lines = wrap(text, 13, 120)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert not any(line.startswith("\u0301") for line in lines)
    cut = wrap(text, 13, 120, most=2)
    assert len(cut) == 2
    assert cut[1].endswith("…")
    assert cut[0] == lines[0]


def test_a_very_long_text_is_not_measured_to_its_end() -> None:
    assert len(wrap("漢" * 1_000_000, 13, 120, most=3)) == 3


# families and categories


def test_the_grid_holds_the_table_s_own_figures(demo: Table) -> None:
    """Summaries are made from records; the grid is read back from packed columns."""
    grid = flip_grid(demo)
    row = {(axis, family): r for r, (axis, family) in enumerate(grid.rows)}
    column = {name: c for c, name in enumerate(grid.columns)}
    seen = set()
    for summary in demo.summaries:
        group = summary.group
        if set(group) == {"axis", "category"}:
            place = row["all", ""], column[group["category"]]
        elif set(group) == {"axis", "family"}:
            if summary.counts["pairs"] == 0:
                assert group["family"] in grid.empty
                continue
            place = row[group["axis"], group["family"]], column["all"]
        elif group == {"axis": "all"}:
            place = row["all", ""], column["all"]
        else:
            continue
        seen.add(place)
        counts = grid.counts
        assert counts.flips[place] == summary.counts["flips"], group
        assert counts.pairs[place] == summary.counts["pairs"], group
        rate = summary.metrics["flip_rate"].value
        assert rate == pytest.approx(counts.flips[place] / counts.pairs[place], rel=1e-5)
    assert len(seen) >= len(grid.columns) + len(grid.rows) - 2  # repeats have no summary of that form
    inner = grid.counts.pairs[:, :-1].sum(axis=1)
    assert (inner == grid.counts.pairs[:, -1]).all()


def test_families_and_categories_that_flip_more_stand_first(demo: Table) -> None:
    grid = flip_grid(demo)
    rate = grid.counts.flips / np.maximum(grid.counts.pairs, 1)
    assert (np.diff(rate[0, :-1]) <= 0).all()
    for axis in ("image", "question"):
        mine = [rate[r, -1] for r, row in enumerate(grid.rows) if row[0] == axis]
        assert mine == sorted(mine, reverse=True)
    axes = [axis for axis, _ in grid.rows]
    assert axes == sorted(axes, key=("all", "image", "question", "cross", "null", "repeat").index)


def test_what_is_drawn_is_the_grid(demo: Table) -> None:
    grid = flip_grid(demo)
    svg = heatmap(grid)
    assert svg == heatmap(flip_grid(demo))
    cells = {}
    for group in elements(svg, "g"):
        title = group.findtext(f"{NAMES}title") or ""
        cells[title] = [text.text for text in group.iter(f"{NAMES}text")]
    assert len(cells) == grid.counts.pairs.size
    for (r, c), pairs in np.ndenumerate(grid.counts.pairs):
        flips, items = int(grid.counts.flips[r, c]), int(grid.counts.items[r, c])
        name = grid.rows[r][1] or "all"
        shown = cells[f"{name}, {grid.columns[c]}: {flips} flips of {pairs} pairs, {items} items"]
        if pairs:
            assert shown == [f"{100 * flips / pairs:.1f}", f"{pairs:,}"]
        else:
            assert len(shown) == 1
    readable(svg)


def counts_of(flips: list[list[int]], pairs: list[list[int]], items: int = 50) -> FlipCounts:
    return FlipCounts(np.array(flips), np.array(pairs), np.full((len(pairs), len(pairs[0])), items))


def test_cells_with_few_pairs_are_hatched_and_do_not_set_the_scale() -> None:
    counts = counts_of([[2, 9, 0]], [[100, FEW_PAIRS - 1, FEW_PAIRS]])
    grid = FlipGrid("t", "clean", (("image", "shift"),), ("a", "b", "all"), counts, ())
    assert top_of(grid) == 0.05
    hatched = [len(list(group.iter(f"{NAMES}path"))) for group in elements(heatmap(grid), "g")]
    assert hatched == [0, 1, 0]
    few_items = replace(grid, counts=counts_of([[2, 9, 0]], [[100] * 3], FEW_ITEMS - 1))
    assert [len(list(g.iter(f"{NAMES}path"))) for g in elements(heatmap(few_items), "g")] == [1, 1, 1]


@pytest.mark.parametrize(
    "columns",
    [
        ("only one",),
        (*(f"category {i}" for i in range(24)), "all"),
        ("what-is-in-the-background-of-this-picture-exactly", "空の色は何ですか", "<b>&amp;</b>", "all"),
        ("a question about the place of one thing among many others in the scene", "x\x00y", "all"),
    ],
    ids=["one", "many", "foreign", "long"],
)
def test_odd_grids_can_be_read(columns: tuple[str, ...]) -> None:
    rows = [
        ("all", ""),
        *(("image", f"family_{i}_{'long' * (i % 5)}") for i in range(40)),
        ("repeat", "repeat"),
    ]
    shape = len(rows), len(columns)
    pairs = np.random.default_rng(0).integers(0, 20_000, shape)
    counts = FlipCounts(pairs // 3, pairs, pairs // 10)
    svg = heatmap(FlipGrid("t", "zoo(ratio=0.9)", tuple(rows), columns, counts, ("case",) * 30))
    readable(svg)
    assert len(elements(svg, "g")) == len(rows) * len(columns)
    if columns[0].startswith("what-is"):
        assert "<b>&amp;</b>" in words(svg)


def test_rare_categories_share_a_column(demo: Table) -> None:
    block = demo.tasks[0]
    labels = [f"c{i % 40:02d}" if i % 3 else "big" for i in range(len(block.items))]
    table = demo.model_copy(
        update={"tasks": [block.model_copy(update={"categories": Column.of(labels)})], "summaries": []}
    )
    grid = flip_grid(table)
    assert len(grid.columns) == MOST + 2
    assert grid.columns[-2:] == (f"{len(set(labels)) - MOST} others", "all")
    assert grid.counts.pairs[0, -1] == flip_grid(demo).counts.pairs[0, -1]


def test_a_grid_is_of_one_model(demo: Table) -> None:
    """Variants of a pruned model, and of one with frozen tokens, are not mixed with the full model's."""
    pruner = {"name": "zoo", "version": 1, "params": {"ratio": 0.9}}
    cells = []
    for cell in demo.cells:
        cells.append(cell)
        if cell.axis == "image":
            parts = {**cell.parts, "prune": pruner}
            cells.append(cell.model_copy(update={"parts": parts, "condition": f"{cell.condition}+zoo"}))
    grid = flip_grid(demo.model_copy(update={"cells": cells}))
    assert (grid.counts.pairs == flip_grid(demo).counts.pairs).all()
    assert grid.reference == "clean"


# shifts


def axes() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), dpi=130)
    FigureCanvasAgg(figure)
    return figure.add_axes((0.09, 0.2, 0.87, 0.64))


@pytest.mark.parametrize("patch", [None, 7.5, 36.0])
def test_shifts_are_drawn_at_their_pixels_with_the_table_s_rates(demo: Table, patch: float | None) -> None:
    axis = axes()
    shifts(axis, demo, "demo", patch)
    known = {
        int(s.group["strength"]): s.metrics["flip_rate"]
        for s in demo.summaries
        if s.group.get("family") == "shift" and s.group.get("strength", "").isdecimal()
    }
    (drawn,) = (line for line in axis.lines if line.get_label() == "full model")
    assert drawn.get_xdata().tolist() == sorted(known)
    assert drawn.get_ydata() == pytest.approx([100 * (known[x].value or 0) for x in sorted(known)])
    band = axis.collections[0].get_paths()[0].vertices
    for x, rate in known.items():
        ends = [y for at, y in band if at == x]
        assert (min(ends), max(ends)) == pytest.approx((100 * (rate.low or 0), 100 * (rate.high or 0)))
    assert axis.get_xticks().tolist() == sorted(known)
    named = [label.get_text() for label in axis.get_xticklabels() if label.get_text()]
    assert named == [f"{x}\n{known[x].n}" for x in sorted(known)]
    low, high = axis.get_ylim()
    assert low <= 0 < 100 * max(rate.high or 0 for rate in known.values()) < high
    (whole,) = (s for s in demo.summaries if s.group.get("strength") == "patches=1")
    rate = 100 * (whole.metrics["flip_rate"].value or 0)
    if patch:
        (bar,) = axis.containers
        assert (bar[0].get_xdata()[0], bar[0].get_ydata()[0]) == (patch, pytest.approx(rate))
        marks = [
            line.get_xdata()[0]
            for line in axis.lines
            if len(set(line.get_xdata())) == 1 and line.get_color() == GREY
        ]
        assert marks == pytest.approx([k * patch for k in range(1, len(marks) + 1)])
        assert marks
    else:
        levels = [line.get_ydata()[0] for line in axis.lines if "whole patch" in str(line.get_label())]
        assert levels == pytest.approx([rate])


@pytest.mark.parametrize("patch", [None, 2.3, 36.0])
def test_words_of_the_shift_picture_stay_apart(demo: Table, patch: float | None) -> None:
    axis = axes()
    shifts(axis, demo, "demo", patch)
    figure = axis.get_figure()
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    uppers = axis.child_axes
    texts = [*axis.get_xticklabels(), *axis.get_yticklabels(), axis.xaxis.label, axis.yaxis.label]
    texts += [axis.title, axis._left_title, *axis.get_legend().get_texts()]
    for upper in uppers:
        texts += [*upper.get_xticklabels(), upper.xaxis.label]
    found = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
    rectangles = [(box.x0, box.y0, box.x1, box.y1) for box in found]
    assert all(overlap(one, two) == 0 for one, two in combinations(rectangles, 2))
    legend = axis.get_legend().get_window_extent(renderer)
    for line in axis.collections[:1]:
        top = line.get_paths()[0].vertices[:, 1].max()
        assert axis.transData.transform((0, top))[1] < legend.y0


@pytest.mark.parametrize("distances", [range(1, 33), (1, 2, 3, 4, 60), (1, 2)], ids=["all", "close", "two"])
def test_crowded_distances_keep_the_first_and_the_last_name(demo: Table, distances: Any) -> None:
    (some, *_) = (s for s in demo.summaries if s.group.get("strength") == "1")
    summaries = [some.model_copy(update={"group": {**some.group, "strength": str(x)}}) for x in distances]
    axis = axes()
    shifts(axis, demo.model_copy(update={"summaries": summaries}), "demo")
    figure = axis.get_figure()
    figure.draw_without_rendering()
    labels = [label for label in axis.get_xticklabels() if label.get_text()]
    named = [label.get_text() for label in labels]
    assert (named[0], named[-1]) == (str(distances[0]), str(distances[-1]))
    assert len(named) >= min(len(distances), 12)
    boxes = [label.get_window_extent(figure.canvas.get_renderer()) for label in labels]
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes))
    for label, box in zip(labels, boxes, strict=True):
        tick = axis.transData.transform((int(label.get_text()), 0))[0]
        assert abs((box.x0 + box.x1) / 2 - tick) / figure.dpi <= 0.21  # inches


def test_no_scale_goes_beyond_all_answers(demo: Table, tmp_path: Path) -> None:
    summaries = []
    for one in demo.summaries:
        wide = {"flip_rate": Estimate(value=0.9, low=0.2, high=1.0, n=10)}
        summaries.append(one.model_copy(update={"metrics": wide}) if "strength" in one.group else one)
    axis = axes()
    shifts(axis, demo.model_copy(update={"summaries": summaries}), "demo", 36.0)
    assert axis.get_yticks().max() == axis.spines["left"].get_bounds()[1] == 100
    legend = axis.get_legend().get_window_extent(axis.get_figure().canvas.get_renderer())
    assert legend.y0 > axis.transData.transform((0, 100))[1]


def test_equal_tables_give_equal_pictures_of_shifts(demo: Table, tmp_path: Path) -> None:
    one, two = (draw_shift(demo, tmp_path / name, patch=36.0).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == two


def test_a_table_with_one_distance_has_no_curve(demo: Table, tmp_path: Path) -> None:
    kept = [s for s in demo.summaries if s.group.get("strength") in (None, "1")]
    table = demo.model_copy(update={"summaries": kept})
    assert shift_lines(table, "demo") == []
    with pytest.raises(UsageError, match="task demo: the table has no shifts by two or more distances"):
        draw_shift(table, tmp_path / "a.svg")


def test_a_patch_is_as_wide_as_the_records_say() -> None:
    def record(item: str, condition: str, moved: tuple[float, float] | None) -> Record:
        return Record(task="t", item=item, condition=condition, key="", state="PARSED", displacement=moved)

    parts = [IMAGES.get("shift").part(dx=-4), IMAGES.get("shift").part(patches=1)]
    varied = [Variation(Condition(image=part), "image", "shift") for part in parts]
    small, whole = (v.condition.id for v in varied)
    records = [record("a", small, (-1.0, 0)), record("a", whole, (14.0, 0.0))]
    assert patch_width(records, varied) == 56
    records += [record("b", small, (-2.0, 0)), record("b", whole, None), record("c", whole, (14.0, 0.0))]
    assert patch_width(records, varied) == 56  # what one item does not tell is not taken from another
    assert patch_width(records[:1], varied) is None


# the most unstable


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0, float("nan")])), min_size=1, max_size=12
    ),
    st.integers(0, 5),
)
def test_most_flips_then_smallest_margin_then_name(rows: list[tuple[int, float]], count: int) -> None:
    names = [f"i{(7 * i) % 13}" for i in range(len(rows))]
    found = most_unstable(np.array([f for f, _ in rows]), np.array([m for _, m in rows]), names, count)
    keys = [(-f, 9.0 if m != m else m, names[i], i) for i, (f, m) in enumerate(rows) if f]
    assert found == [key[-1] for key in sorted(keys)[:count]]


def test_families_take_turns_where_not_all_are_shown() -> None:
    from vlmbench.conditions import CLEAN

    rows = [Variation(CLEAN, "image", family) for family in "aaaaabbc"]
    chosen = in_turn(rows, 5)
    assert [v.family for v in chosen] == list("aabbc")
    assert in_turn(rows, 99) == rows


# sheets


def shown(name: str = "shift(dx=2)", **changes: Any) -> Shown:
    picture = Image.fromarray(
        np.random.default_rng(len(name)).integers(0, 256, (184, 184, 3)).astype("uint8")
    )
    values = {"answer": "yes", "state": "PARSED", "score": 1.0, "margin": 0.3, "tie": False}
    return Shown(**{"name": name, "picture": picture, **values, **changes})


def unstable(flipped: tuple[Shown, ...], **changes: Any) -> UnstableItem:
    item = UnstableItem("t", "i-1", "c", "is it ?", ("yes",), shown("clean"), flipped, len(flipped), 50)
    return replace(item, **changes)


TEXTS = {
    "markup": "<script>alert('1')</script> &amp; ]]> \"q\"",
    "arabic": "هل القطة فوق السجادة؟ قطتان؟",
    "chinese": "图中有一只红色的猫在垫子上吗？" * 8,
    "control": "a\x00b\x1b[31mc\ud800d\u202eevil",
    "long": "supercalifragilistic" * 30 + " and what else ?" * 60,
    "nothing": "",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_shown_as_text(text: str) -> None:
    variants = tuple(
        shown(name, picture=None, words=text, answer=text, score=score)
        for name, score in (
            ("phrasing(name=de-1)", 0.0),
            ("polite", None),
            ("zoo(estimator=sampled,m=16)", 0.3),
        )
    )
    item = unstable(variants, question=text, expected=(text,), item=text, category=text)
    svg = draw_sheet(item)
    found = " ".join(words(svg))
    assert not elements(svg, "script")
    assert not re.search("[\x00-\x08\x1b\u202e\ud800]", svg)
    svg.encode()
    start = text.split(" ")[0][:6]
    if text and "\x00" not in text:
        assert start in found
    if text.isascii() and "\x00" not in text:
        readable(svg)


def test_a_sheet_says_what_was_answered_and_how_well() -> None:
    variants = (
        shown("shift(dx=2)", answer="cat", score=0.0, tie=True),
        shown("polite", answer=" ", score=0.5, picture=None, words="Please, is it ?"),
        shown("pad+polite", answer=None, state="REFUSED", score=None, margin=None, words="Please, is it ?"),
        shown("crop(n=4)", picture=None, missing="not drawn: image not found: 0.png"),
    )
    svg = draw_sheet(unstable(variants, flips=9, pairs=51))
    found = words(svg)
    told = (
        "9 of 51 variants change the answer; 4 are shown, families take turns, 5 are left out · t · c · i-1"
    )
    assert told in found
    for word in ("unchanged input", "cat", "(nothing)", "REFUSED", "Please, is it ?", "crop(n=4)"):
        assert word in found
    assert found.count("score 0 · wrong · PARSED") == 1
    assert found.count("score 1 · right · PARSED") == 2
    assert "score 0.5 · PARSED" in found
    assert "margin 0.3 · tie" in found
    assert "not drawn: image" in " ".join(found)
    assert len(elements(svg, "image")) == 3
    # right and wrong differ in shape: one stroke, two strokes, a ring
    assert len(elements(svg, "polyline")) == 2 * 1 + 1 * 2
    assert len(elements(svg, "circle")) == 1
    readable(svg)


def test_a_sheet_counts_the_variants_of_every_answer() -> None:
    """Those that keep the answer too, family by family; by hand."""
    part = IMAGES.get("shift").part(dx=1)

    def record(answer: str | None, state: str = "PARSED", raw: str | None = None) -> Record:
        return Record(
            task="t", item="i", condition="c", key="", state=state, answer=answer, raw=raw or answer
        )

    variants = [("shift", "yes"), ("shift", "no"), ("pad", "yes"), ("shift", "yes"), ("pad", None)]
    rows = [
        (
            Variation(Condition(image=part), "image", family),
            record(answer) if answer else record(None, "EMPTY"),
        )
        for family, answer in variants
    ]
    found = answers_of(record("yes", raw="Yes."), rows)
    assert [(one.answer, one.is_original, one.times, one.families) for one in found] == [
        ("Yes.", True, 3, (("shift", 2, 3), ("pad", 1, 2))),
        ("no", False, 1, (("shift", 1, 3),)),
        ("EMPTY", False, 1, (("pad", 1, 2),)),
    ]
    svg = draw_sheet(unstable((shown(),), answers=found))
    assert "Yes. (unchanged input): 3 variants: shift 2 of 3, pad 1 of 2" in words(svg)
    assert "no: 1 variant: shift 1 of 3" in words(svg)
    readable(svg)
    many = answers_of(record("yes"), [(rows[0][0], record(f"a{i}")) for i in range(30)])
    assert (len(many), many[-1].answer, many[-1].times) == (13, "19 more", 19)
    assert sum(one.times for one in many) == 30


def test_sheets_are_small_and_equal_every_time(tmp_path: Path) -> None:
    """Noise is the worst that a picture can be, and as many as are shown at most."""
    item = unstable(tuple(shown(f"shift(dx={i})") for i in range(MOST_SHOWN)))
    (first,) = draw_gallery([item], tmp_path / "a")
    (second,) = draw_gallery([item], tmp_path / "b")
    assert first.name == "unstable-01-t-i-1.svg"
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 300_000
    fewer = draw_sheet(unstable(tuple(shown(f"shift(dx={i})") for i in range(20))))
    assert len(fewer) < 300_000
    assert 'width="184"' in fewer
    few = draw_sheet(unstable((shown("polite", picture=None, words="is it ?"),)))
    data = elements(few, "image")[0].attrib["href"].removeprefix("data:image/png;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert (pixels == np.asarray(shown("clean").picture)).all()  # a few pictures keep every pixel


def test_a_shorter_gallery_leaves_no_older_sheet(tmp_path: Path) -> None:
    (tmp_path / "unstable-notes.svg").write_text("mine")
    draw_gallery([unstable((shown(),)), unstable((shown(),), item="i-2")], tmp_path)
    draw_gallery([unstable((shown(),))], tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["unstable-01-t-i-1.svg", "unstable-notes.svg"]


def test_thumbnails_keep_their_shape() -> None:
    wide = Image.new("RGBA", (900, 90), "red")
    one = thumbnail([wide])
    assert one is not None
    assert one.size == (184, 18)
    several = thumbnail([wide] * 7)
    assert several is not None
    assert several.size == (2 * 92 + 4, 2 * 9 + 4)
    assert thumbnail([]) is None
    tiny = thumbnail([Image.new("L", (5, 7))])
    assert tiny is not None
    assert tiny.size == (5, 7)


# a whole run


@dataclass(frozen=True)
class Ran:
    result: Result
    plain: Table
    task: Path
    model: str


PLAN = PerturbOptions(families="shift,pad,polite", repeats=1)


@pytest.fixture(scope="module")
def ran(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("stability")
    task = write_task(folder / "task", images=3, per_image=2)
    rows = [json.loads(line) for line in (folder / "task" / "data.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        row["category"] = "abc"[i % 3]
    rows.append({**rows[0], "id": "gone", "image": "gone.png"})
    task = write_rows(folder / "task", rows, columns={"category": "category"})
    model = str(tiny_model("llava"))

    def go(name: str, plan: PerturbOptions) -> Result:
        options = RunOptions(model, str(task), out=folder / name, batch_size=8, show_progress=False)
        return perturb(options, plan)

    plain = go("plain", PLAN).table
    return Ran(go("pictured", replace(PLAN, pictures=4)), plain, task, model)


def test_pictures_change_nothing_in_the_table(ran: Ran, tmp_path: Path) -> None:
    table = ran.result.table
    assert table.without_times() == ran.plain.without_times()
    before = dump_table(table)
    assert ran.result.gallery is not None
    write_stability_pictures(table, tmp_path, ran.result.gallery.items, ran.result.gallery.patches)
    assert dump_table(table) == before


def test_the_gallery_is_what_the_records_say(ran: Ran) -> None:
    """By brute force over the records: items, order, variants, answers."""
    records = read_records(ran.result.folder)
    axis = {cell.condition: cell.axis for cell in ran.result.table.cells}
    clean = {item: r for (_, item, condition), r in records.items() if condition == "clean"}
    flips: dict[str, list[Record]] = {}
    for (_, item, condition), record in records.items():
        both = record.state == clean[item].state == "PARSED"
        if axis[condition] in ("image", "question") and both and record.answer != clean[item].answer:
            flips.setdefault(item, []).append(record)
    order = sorted(flips, key=lambda item: (-len(flips[item]), clean[item].min_margin, item))
    gallery = ran.result.gallery
    assert gallery is not None
    assert [one.item for one in gallery.items] == order[:4]
    assert gallery.items
    assert "gone" not in flips
    for one in gallery.items:
        assert one.flips == len(flips[one.item])
        known = {record.condition: record for record in flips[one.item]}
        assert {variant.name for variant in one.flipped} <= known.keys()
        assert len(one.flipped) == one.flips <= MOST_SHOWN
        counted = Counter(
            record.answer
            for (_, item, condition), record in records.items()
            if item == one.item and axis[condition] in ("image", "question") and record.state == "PARSED"
        )
        times = [answer.times for answer in one.answers]
        original = counted.pop(clean[one.item].answer, 0)
        assert one.answers[0].is_original
        assert times[0] == original == one.pairs - one.flips
        most = ANSWERS - 1
        assert times[1 : 1 + most] == sorted(counted.values(), reverse=True)[:most]
        assert sum(times) == one.pairs
        for variant in one.flipped:
            record = known[variant.name]
            assert (variant.answer, variant.score, variant.margin) == (
                record.raw,
                record.score,
                record.min_margin,
            )
            assert (variant.picture is not None) == (axis[variant.name] == "image")
            assert bool(variant.words) == (axis[variant.name] == "question")
        readable(draw_sheet(one))


def test_the_run_s_folder_gets_every_picture_or_a_reason(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = ran.result.gallery
    assert gallery is not None
    files = write_stability_pictures(ran.result.table, tmp_path / "a", gallery.items, gallery.patches)
    told = capsys.readouterr().err.splitlines()
    again = write_stability_pictures(ran.result.table, tmp_path / "b", gallery.items, gallery.patches)
    kinds = {re.sub(r"-\d\d-.*", "", path.stem) for path in files}
    notes = {re.match(r"note: left out: ([\w-]+)", line) for line in told if line.startswith("note")}
    assert kinds | {match[1] for match in notes if match} == {
        "shift",
        "families",
        "risk-coverage",
        "unstable",
    }
    assert {"shift", "families", "unstable"} <= kinds
    assert [path.name for path in files] == [path.name for path in again]
    for one, two in zip(files, again, strict=True):
        assert one.read_bytes() == two.read_bytes()


# the command line


def test_show_draws_what_the_table_alone_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["show", str(RESULT), "--plots", str(tmp_path / "p")]) == 0
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["families.svg", "risk-coverage.svg", "shift.svg"]
    assert f"3 pictures: {tmp_path / 'p'}" in capsys.readouterr().err


def test_risks_are_those_of_predict(demo: Table, tmp_path: Path) -> None:
    found = predict([("demo", demo)], only=("agreement", "probability", "category"))
    write_stability_pictures(demo, tmp_path)
    told = re.findall("<!-- (.*?) -->", (tmp_path / "risk-coverage.svg").read_text())
    lines = [line for text in told for line in text.split("\\n")]
    for name in ("agreement", "probability", "category"):
        assert name in " ".join(lines)
        assert decimal(found.predictor(name).metrics["aurc"]) in " ".join(lines)
    assert not {"stability", "everything", "all controls"} & set(lines)
    assert f"demo: {found.n} questions, {found.errors} errors" in lines


def test_what_cannot_be_drawn_is_left_out_with_its_reason(
    demo: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = demo.tasks[0]
    block = block.model_copy(update={"categories": Column.of([""] * len(block.items))})
    right = Column.of([1.0] * len(block.items))
    cells = [cell.model_copy(update={"score": right}) for cell in demo.cells]
    summaries = [s for s in demo.summaries if s.group.get("family") != "shift"]
    table = demo.model_copy(update={"tasks": [block], "cells": cells, "summaries": summaries})
    assert write_stability_pictures(table, tmp_path, items=[]) == []
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in told] == [
        "shift.svg",
        "families.svg",
        "risk-coverage.svg",
        "gallery",
    ]
    assert "no categories" in told[1]
    assert "nothing to tell apart" in told[2]
    assert told[3].endswith("no answer flips")


def test_without_matplotlib_the_curves_alone_are_missing(
    demo: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    files = write_stability_pictures(demo, tmp_path)
    assert [path.name for path in files] == ["families.svg"]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert len(notes) == 2
    assert all("pip install 'vlmbench[plots]'" in line for line in notes)


def test_several_tasks_have_pictures_of_their_own(demo: Table, tmp_path: Path) -> None:
    def renamed(part: Any) -> Any:
        return part.model_copy(update={"task": "other/one"})

    both = demo.model_copy(
        update={
            "tasks": [*demo.tasks, *map(renamed, demo.tasks)],
            "cells": [*demo.cells, *map(renamed, demo.cells)],
            "summaries": [*demo.summaries, *map(renamed, demo.summaries)],
        }
    )
    files = write_stability_pictures(both, tmp_path)
    kinds = ("shift", "families", "risk-coverage")
    assert {path.name for path in files} == {f"{k}-{t}.svg" for k in kinds for t in ("demo", "other_one")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "RESULT", "--plots", "FILE"], "no folder can be made there: File exists"),
        (["show", "RESULT", "--plots", "FILE/x"], "no folder can be made there: Not a directory"),
        (["show", "RESULT", "RESULT", "--plots", "p"], "--plots draws one run: got 2"),
        (["show", "PRUNE", "--plots", "p"], "--plots draws runs of `perturb`: got one of `prune`"),
        (["perturb", "--pictures", "-1"], "got '-1'"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    (tmp_path / "file").write_text("x")
    names = {
        "RESULT": str(RESULT),
        "FILE": str(tmp_path / "file"),
        "PRUNE": str(RESULT.parent / "demo-prune.json"),
    }
    assert command([re.sub("[A-Z]{4,}", lambda m: names[m[0]], word) for word in arguments]) == 2
    assert says in capsys.readouterr().err
