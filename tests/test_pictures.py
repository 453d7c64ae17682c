"""Pictures of a pruning run: the tokens they show are those of the records, pixels are dimmed as said, and
the files are the same every time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont
from runs import write_task

from vlmbench.engine.compute import pruner_of
from vlmbench.engine.kept import Tile, kept_tokens, tiles_of
from vlmbench.engine.panels import ItemPanels, Panel, item_panels, spread
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.engine.store import read_records
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions, TimingPlan
from vlmbench.experiments.prune import PruneOptions, run, variations
from vlmbench.items import Item
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import VisualInput
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import load_model
from vlmbench.prune import PRUNERS
from vlmbench.report.curves import _apart, draw_curves, lines_of
from vlmbench.report.pictures import MARGIN, _wrap, dimmed, draw_item, draw_tiles, outlined, write_pictures
from vlmbench.schema import Record, State, Table
from vlmbench.seeds import seed_for
from vlmbench.tasks.load import load_tasks

Tiny = Callable[[str], Path]

FAMILIES = ("llava", "llava_next", "qwen2_vl")
"""One picture of one grid, tiles with newline tokens, a grid of the image's own shape."""

OPTIONS = PruneOptions(methods="divprune,visionzip,fastv(K=1)", ratios="0.4,0.8", timing=TimingPlan(0))


@dataclass(frozen=True)
class Ran:
    """A finished run and what it takes to draw it."""

    table: Table
    records: dict[tuple[str, str, str], Record]
    items: list[Item]
    preparer: Preparer

    @property
    def adapter(self) -> Adapter:
        return self.preparer.adapter

    def panels(self, count: int) -> list[ItemPanels]:
        plan = variations(OPTIONS)
        return list(item_panels(self.preparer, "own", self.items, plan, self.records, count))


@pytest.fixture(scope="module")
def ran(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    done: dict[str, Ran] = {}
    folder = tmp_path_factory.mktemp("pictures")
    task_file = write_task(folder / "task")

    def finish(family: str) -> Ran:
        if family not in done:
            model = str(tiny_model(family))
            options = RunOptions(
                model, str(task_file), out=folder / family, batch_size=4, show_progress=False
            )
            table = run(options, OPTIONS).table
            (task,) = load_tasks([str(task_file)])
            preparer = Preparer(Adapter(load_model(model, device="cpu")), 0, {"own": 3})
            records = read_records(folder / family)
            done[family] = Ran(table, records, task.items(limit=None, seed=0), preparer)
        return done[family]

    return finish


# pixels


def checkered(rows: int, columns: int, cell: int) -> Image.Image:
    """Bright noise: dimming must show in every pixel."""
    pixels = np.random.default_rng(0).integers(120, 256, (rows * cell, columns * cell, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def cells(picture: Image.Image, cell: int) -> Iterator[tuple[tuple[int, int], Any]]:
    pixels = np.asarray(picture).astype(int)
    for y in range(0, pixels.shape[0], cell):
        for x in range(0, pixels.shape[1], cell):
            yield (y // cell, x // cell), pixels[y : y + cell, x : x + cell]


def test_dropped_cells_are_dark_and_grey_and_kept_ones_untouched() -> None:
    share = np.array([[1, 0, 0.25], [0, 1, np.nan]], np.float32)
    picture = checkered(2, 3, 10)
    before = dict(cells(picture, 10))
    for place, after in cells(dimmed(picture, share), 10):
        if share[place] == 1:
            assert (after == before[place]).all()
        elif share[place] == 0:
            assert (after.max(axis=2) <= 0.31 * 255).all()
            assert (after.max(axis=2) == after.min(axis=2)).all()
        elif np.isnan(share[place]):
            assert (after == after[0, 0]).all()
        else:  # half way: the root of a quarter
            dark = dict(cells(dimmed(picture, np.zeros((2, 3), np.float32)), 10))[place]
            assert np.abs(after - (before[place] + dark) / 2).max() <= 1


def test_outlines_run_inside_the_border_of_each_group() -> None:
    group = np.array([[0, 0, -1], [-1, 1, 2]], np.int32)
    picture = checkered(2, 3, 12)
    drawn = np.asarray(outlined(picture, group))
    changed = (drawn != np.asarray(picture)).any(axis=2)
    assert not changed[:12, 24:].any()
    assert not changed[12:, :12].any()
    assert changed[0, :24].all()  # the rim of two kept neighbours, and no line between them
    assert not changed[1:11, 1:23].any()
    assert changed[12:, 23].all()  # merged tokens that touch are told apart
    assert changed[12:, 24].all()
    assert not changed[13:23, 13:23].any()


def test_tiles_stand_beside_one_another_uncut() -> None:
    tiles = [Tile(checkered(3, 3, 14), np.ones((3, 3), np.float32), np.full((3, 3), -1, np.int32))] * 5
    sheet = draw_tiles(tiles)
    one = draw_tiles(tiles[:1])
    assert one.size == (180, 180)
    side = (sheet.width - 8) // 3
    assert sheet.size == (3 * side + 8, 2 * side + 4)
    corner = np.asarray(sheet)
    assert (corner[:side, :side] == corner[side + 4 :, side + 4 : 2 * side + 4]).all()
    assert (corner[side + 4 :, 2 * side + 8 :] == 255).all()  # there is no sixth


# tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_panels_show_the_tokens_of_the_records(family: str, ran: Callable[[str], Ran]) -> None:
    """The digest of the kept tokens is the one in the record, for every method that ran."""
    here, seen = ran(family), set()
    for item in here.panels(6):
        assert item.whole.kept == item.whole.total
        for panel in item.panels:
            assert not panel.failed, panel.detail
            if panel.tiles:
                assert panel.as_recorded, (item.item, panel.name, panel.budget)
                # a processor may enlarge the smaller image again
                assert 0 < panel.kept <= panel.total or panel.name == "downsample"
                seen.add(panel.name)
    assert {"divprune", "visionzip", "fastv(K=1)", "random", "uniform", "pool"} <= seen
    # fixed resolution, or a processor that enlarges such small pictures again
    assert "downsample" not in seen


@pytest.mark.parametrize("newline", ["counted", "kept", "dropped"])
def test_kept_indices_are_the_adapter_s(newline: str, ran: Callable[[str], Ran]) -> None:
    here = ran("llava_next")
    part = PruneOptions(methods="random", ratios="0.5")
    (condition,) = (v.condition for v in variations(part) if v.family == "random")
    prepared = here.preparer.prepare(Request("own", here.items[0], condition))
    assert isinstance(prepared, Prepared)
    pruner = pruner_of(prepared.request.condition)
    assert pruner is not None
    encoded = here.adapter.encode([prepared.row], pruner.needs)
    kept = kept_tokens(here.adapter, prepared, encoded, pruner, 0, newline)
    assert condition.prune is not None
    seed = seed_for(0, here.items[0].images[0].key, *PRUNERS.get("random").draw_key(condition.prune))
    assert kept.indices == chosen(here, prepared.row, encoded, pruner, seed, newline)
    others = [chosen(here, prepared.row, encoded, pruner, seed + i, newline) for i in range(1, 4)]
    assert kept.indices not in others  # else the comparison says nothing of the seed


def chosen(here: Ran, row: RowInputs, encoded: Any, pruner: Any, seed: int, newline: str) -> list[int]:
    (visual,) = here.adapter.apply(pruner, [row], encoded.features, [(seed,)], newline).visual
    assert isinstance(visual, VisualInput)
    return [int(i) for i in visual.keep]


def test_merged_tokens_are_shaded_by_their_weight(ran: Callable[[str], Ran]) -> None:
    here = ran("llava")
    (pool,) = (p for p in here.panels(1)[0].panels if (p.name, p.budget) == ("pool", "0.8"))
    (tile,) = pool.tiles
    groups, sizes = np.unique(tile.group, return_counts=True)
    assert len(groups) == pool.kept
    assert (groups > 0).all()  # every token goes into a mean, and no cell is left out
    for group, size in zip(groups, sizes, strict=True):
        assert tile.share[tile.group == group] == pytest.approx(1 / size)


@pytest.mark.parametrize("family", FAMILIES)
def test_tiles_hold_the_input_pixels_and_each_token_once(family: str, ran: Callable[[str], Ran]) -> None:
    here = ran(family)
    prepared = here.preparer.prepare(Request("own", here.items[1], variations(OPTIONS)[0].condition))
    assert isinstance(prepared, Prepared)
    images = here.adapter.encode([prepared.row], frozenset()).features[0].images
    grid = images[0].grid.numpy()
    n = len(grid)
    tiles = tiles_of(
        here.adapter, prepared, images, np.arange(1, n + 1, dtype=np.float32), np.zeros(n, np.int32)
    )
    assert [tile.picture.size for tile in tiles] == list(prepared.row.input_size)
    shown = {
        (t, *place): tile.share[place]
        for t, tile in enumerate(tiles)
        for place in np.ndindex(tile.share.shape)
    }
    known = {tuple(place): i + 1 for i, place in enumerate(grid.tolist()) if place[1] >= 0}
    assert {place: value for place, value in shown.items() if not np.isnan(value)} == known
    if family == "qwen2_vl":
        return  # its input is a list of patches
    settings = here.adapter.processor.image_processor
    pixels = prepared.row.vision["pixel_values"].reshape(-1, *prepared.row.vision["pixel_values"].shape[-3:])
    for tile, real in zip(tiles, pixels, strict=True):
        values = np.asarray(tile.picture).transpose(2, 0, 1) / 255
        again = [(v - m) / s for v, m, s in zip(values, settings.image_mean, settings.image_std, strict=True)]
        assert np.abs(np.array(again) - real.numpy()).max() < 1e-2


def test_few_items_show_many_images(ran: Callable[[str], Ran]) -> None:
    items = ran("llava").items
    order = spread(items)
    assert sorted(item.id for item in order) == sorted(item.id for item in items)
    assert len({item.images[0].key for item in order[:3]}) == 3


def test_what_does_not_apply_is_an_empty_frame_with_its_reason(ran: Callable[[str], Ran]) -> None:
    here = ran("llava")
    found = [p for p in here.panels(1)[0].panels if p.name == "downsample"]
    assert [p.budget for p in found] == ["0.4", "0.8"]
    assert all(not p.tiles and "fixed resolution" in p.detail and p.answer is None for p in found)
    broken = {
        key: r.model_copy(update={"state": State.ERROR, "detail": "boom"}) for key, r in here.records.items()
    }
    plan: list[Variation] = variations(OPTIONS)
    (item,) = item_panels(here.preparer, "own", here.items, plan, broken, 1)
    assert all(p.failed and p.detail == "boom" and not p.tiles for p in item.panels)
    draw_item(item)
    assert item.whole.tiles


# files


def test_files_are_named_counted_and_the_same_every_time(ran: Callable[[str], Ran], tmp_path: Path) -> None:
    here = ran("llava_next")
    first = write_pictures(tmp_path / "a", here.table, here.panels(3))
    second = write_pictures(tmp_path / "b", here.table, here.panels(3))
    names = [path.name for path in first]
    assert names == sorted(path.name for path in (tmp_path / "a" / "pictures").iterdir())
    assert len(names) == 4
    assert names[-1] == "accuracy.svg"
    assert all(re.fullmatch(r"0[123]-own-\d-\d\.png", name) for name in names[:-1])
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert len(write_pictures(tmp_path / "c", here.table, here.panels(99))) == len(here.items) + 1


def test_nothing_is_cut_on_a_page(ran: Callable[[str], Ran]) -> None:
    """Long and foreign texts, a slash in a name, an answer that never ends."""
    item = ran("llava").panels(1)[0]
    long = "Is thé 犬 on the mat, or " + "x" * 300 + " and what else? " * 30 + "\x00"
    panels = tuple(
        replace(p, answer=long, score=0.3, name="zoo(estimator=sampled,m=16)") for p in item.panels
    )
    page = draw_item(replace(item, question=long, expected=(long,), panels=panels))
    pixels = np.asarray(page).copy()
    text = slice(MARGIN, -2), slice(MARGIN - 2, 2 - MARGIN)  # letters may lean out by a pixel
    assert (pixels[text] != 255).any()
    pixels[text] = 255
    assert (pixels == 255).all()


@pytest.mark.parametrize("width", [40, 120, 500])
def test_lines_fit_their_width(width: int) -> None:
    text = "what is it ? " * 5 + "supercalifragilistic" * 3
    lines = _wrap(text, 14, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(ImageFont.load_default(14).getlength(line) <= width for line in lines)
    cut = _wrap(text, 14, width, most=len(lines) - 1)
    assert len(cut) == len(lines) - 1
    assert cut[-1].endswith("...")
    assert ImageFont.load_default(14).getlength(cut[-1]) <= width


def test_right_and_wrong_differ_in_shape_too(ran: Callable[[str], Ran]) -> None:
    item = ran("llava").panels(1)[0]
    panel = Panel("m", "0.4", tiles=item.whole.tiles, kept=3, total=9, answer="yes")
    right, wrong = (
        np.asarray(draw_item(replace(item, panels=(replace(panel, score=score),))).convert("L")) < 200
        for score in (1.0, 0.0)
    )
    assert right.shape == wrong.shape
    assert (right != wrong).sum() > 20


# curves


def test_curves_name_every_method(ran: Callable[[str], Ran], tmp_path: Path) -> None:
    table = ran("qwen2_vl").table
    lines = lines_of(table, "own")
    names = [line.name for line in lines]
    assert names == ["divprune", "visionzip", "fastv(K=1)", "random", "uniform", "pool"]
    assert [line.control for line in lines] == [False] * 3 + [True] * 3
    for line in lines:
        removed = [point.removed for point in line.points]
        assert removed == sorted(removed)
        assert all(0 <= share < 1 for share in removed)
    text = draw_curves(table, tmp_path / "curves.svg").read_text()
    for name in [*names, "full model", "no image"]:
        assert f"<!-- {name} -->" in text
    assert draw_curves(table, tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


def test_curves_of_a_table_without_pruning_are_refused(ran: Callable[[str], Ran], tmp_path: Path) -> None:
    table = ran("llava").table
    bare = table.model_copy(update={"cells": table.cells[:1]})
    with pytest.raises(UsageError, match="no accuracy of a pruned model"):
        draw_curves(bare, tmp_path / "curves.svg")


def test_without_matplotlib_only_the_curves_are_missing(
    ran: Callable[[str], Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = ran("llava")
    panels = here.panels(1)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'vlmbench\[plots\]'$"):
        draw_curves(here.table, tmp_path / "curves.svg")
    written = write_pictures(tmp_path, here.table, panels)
    assert [path.suffix for path in written] == [".png"]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: no accuracy curves")


def test_labels_are_pushed_apart() -> None:
    places = _apart([90, 89, 88, 40, 3, 2, 1], 5, 0, 100)
    assert all(a - b >= 5 - 1e-9 for a, b in pairwise(places))
    assert places[0] == 90
    assert places[3] == 40
    assert min(places) >= 0
