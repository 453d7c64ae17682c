"""The documentation's picture of a second look from a committed result table: where methods look again on one
large picture, and what that does to accuracy.

python scripts/roi_picture.py [results/demo-roi.json] [docs/roi.png]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from pruning_picture import RIGHT, WRONG, records

from vlmbench.conditions import Condition
from vlmbench.engine.looking import Looker
from vlmbench.engine.prepare import Preparer
from vlmbench.engine.region_panels import ItemRegions, RegionPanel, region_panels
from vlmbench.engine.sight import Sight
from vlmbench.experiments.networks import shipped
from vlmbench.experiments.roi import looked, looking_part
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.report.canvas import GREY, INK, PALE, STYLE
from vlmbench.report.region_plot import RegionRow, rows_of
from vlmbench.roi.rpn_file import load_rpn
from vlmbench.schema import Table
from vlmbench.tasks.load import load_task

ROOT = Path(__file__).resolve().parents[1]
TASK = "demo-canvas"
METHODS = ("sd-rpn", "raw-attn", "rel-attn", "center", "oracle")
ASKED = "#7ee787"


def find_item(table: Table) -> str:
    """The first digit question that one look has wrong, the network and the true box right, the middle of the
    picture wrong."""
    block = next(block for block in table.tasks if block.task == TASK)
    scores = {c.condition: c.score.decode() for c in table.cells if c.task == TASK}
    columns = (scores[name] for name in (Condition().id, "sd-rpn", "oracle", "center"))
    kinds = block.categories.decode()
    for item, kind, *found in zip(block.items, kinds, *columns, strict=True):
        if kind == "digit" and found == [0, 1, 1, 0]:
            return item
    raise SystemExit("no such item in this table")


def example(table: Table) -> ItemRegions:
    """The item under the methods, which are run again to tell where they look."""
    task, name = load_task(TASK), find_item(table)
    item = next(item for item in task.items() if item.id == name)
    model = str(table.identity["model"])
    adapter = Adapter(load_model(model, device="cpu"))
    folder = shipped(model)
    assert folder is not None
    seed, most = int(table.identity["seed"]), {task.name: task.spec.max_new_tokens}
    looker = Looker(Sight(adapter), most, seed, *load_rpn(folder, adapter))
    variations = [looked(part) for name in METHODS if (part := looking_part(name)) is not None]
    preparer = Preparer(adapter, seed, most)
    return next(region_panels(preparer, looker, task.name, [item], variations, records(table), 1))


def draw(table: Table, target: Path) -> None:
    plt.rcParams.update(STYLE)
    figure = plt.figure(figsize=(11.5, 5.2), dpi=110)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.3, 1], wspace=0.36)
    images(example(table), figure, grid[0])
    chosen = [row for row in rows_of(table, TASK) if "(" not in row.name]
    changes(figure.add_subplot(grid[1]), chosen, table)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, bbox_inches="tight", facecolor="white")


def images(item: ItemRegions, figure: plt.Figure, place: SubplotSpec) -> None:
    grid = place.subgridspec(2, 3, wspace=0.06, hspace=0.26)
    first = item.panels[0]
    for i, panel in enumerate([None, *item.panels]):
        axis = figure.add_subplot(grid[i // 3, i % 3])
        sight = item.sights[0 if panel is None else panel.at]
        width, height = sight.picture.size
        axis.imshow(sight.picture)
        for left, top, right, bottom in sight.boxes:
            corner, sides = (left * width, top * height), ((right - left) * width, (bottom - top) * height)
            axis.add_patch(
                Rectangle(corner, *sides, fill=False, edgecolor=ASKED, linewidth=1.2, linestyle="--")
            )
        answer = first.before if panel is None else panel.after
        if panel is not None:
            _looked(axis, panel, (width, height))
        axis.set_title("one look" if panel is None else panel.name, fontsize=9, color=GREY, pad=4)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        if answer is not None:
            colour = RIGHT if answer.score == 1 else WRONG
            said = f"“{answer.answer}”"
            axis.set_xlabel(said, fontsize=12, color=colour, fontweight="bold", labelpad=3)
        if i == 0:
            write = {"transform": axis.transAxes, "va": "bottom"}
            axis.text(0, 1.27, item.question, fontsize=12, fontweight="bold", color=INK, **write)
            told = "white: where it looks again; green: what is asked about; orange: wrong"
            axis.text(0, 1.16, told, fontsize=9, color=GREY, **write)


def _looked(axis: Any, panel: RegionPanel, size: tuple[int, int]) -> None:
    """The map as darkness over the picture, and the region."""
    if panel.map is not None:
        values = np.nan_to_num(panel.map.values)
        share = (values - values.min()) / max(float(values.max() - values.min()), 1e-9)
        veil = np.zeros((*share.shape, 4))
        veil[..., 3] = 0.62 * (1 - share)
        axis.imshow(veil, extent=(0, size[0], size[1], 0), interpolation="nearest", zorder=2)
    if panel.box is not None:
        left, top, right, bottom = (side * size[i % 2] for i, side in enumerate(panel.box))
        axis.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=INK, linewidth=3.4, zorder=3
            )
        )
        axis.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor="white", linewidth=2, zorder=4
            )
        )
    axis.set_xlim(0, size[0])
    axis.set_ylim(size[1], 0)


def changes(axis: Any, rows: list[RegionRow], table: Table) -> None:
    for place, row in enumerate(rows):
        change = row.change
        assert change.value is not None
        colour = {0: INK, 1: GREY, 2: RIGHT}[row.group]
        low, high = (100 * (change.low or 0.0), 100 * (change.high or 0.0))
        axis.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axis.plot([100 * change.value], [place], "o", color=colour, markersize=6)
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=10)
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color({0: INK, 1: GREY, 2: RIGHT}[row.group])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.axvline(0, color=INK, linewidth=0.9)
    axis.grid(axis="x", color=PALE)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("change of accuracy against one look, points")
    cell = next(c for c in table.cells if c.task == TASK and c.condition == Condition().id)
    accuracy = 100 * (cell.metrics["accuracy"].value or 0.0)
    told = f"{cell.n:,} questions on large pictures: one look {accuracy:.1f} %"
    axis.set_title(f"{told}\ngrey: controls; blue: told the box", fontsize=9.5, color=GREY, loc="left")


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    source = arguments[0] if arguments else ROOT / "results" / "demo-roi.json"
    draw(Table.read(source), arguments[1] if len(arguments) > 1 else ROOT / "docs" / "roi.png")
