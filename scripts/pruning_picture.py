"""The README's picture of pruning from a committed result table: what methods keep of one image, and how
accuracy falls with the tokens.

python scripts/pruning_picture.py [results/demo-prune.json] [docs/pruning.png]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.gridspec import SubplotSpec

from vlmbench.conditions import Condition
from vlmbench.engine.panels import ItemPanels, Panel, item_panels
from vlmbench.engine.prepare import Preparer
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.packing import unpack_indices
from vlmbench.prune import PRUNERS
from vlmbench.report.canvas import GREY, INK, STYLE
from vlmbench.report.curves import curves
from vlmbench.report.pictures import draw_tiles
from vlmbench.schema import Cell, Record, Table
from vlmbench.tasks.load import load_task

ROOT = Path(__file__).resolve().parents[1]
RIGHT, WRONG = "#0072b2", "#d55e00"
METHODS = ("zoo", "divprune", "norm", "visionzip", "random")
BUDGET = "0.9"


def records(table: Table) -> dict[tuple[str, str, str], Record]:
    """What the table says of every answer."""
    found = {}
    for cell in table.cells:
        block = next(block for block in table.tasks if block.task == cell.task)
        columns = (block.items, block.answers, unpack_indices(cell.answer), cell.score.decode())
        states = cell.state.decode()
        for item, known, code, score, state in zip(*columns, states, strict=True):
            key = (cell.task, item, cell.condition)
            found[key] = Record(
                task=cell.task,
                item=item,
                condition=cell.condition,
                key="",
                state=state,
                answer=known[code - 1] if code else None,
                raw=known[code - 1] if code else None,
                score=score,
            )
    return found


def shown_cells(table: Table) -> list[Cell]:
    cells = {cell.family: cell for cell in table.cells if cell.strength == BUDGET}
    return [cells[name] for name in METHODS if name in cells]


def find_item(table: Table) -> str:
    """The first item that the full model has right and of the methods shown some, but not all."""
    columns = [cell.score.decode() for cell in shown_cells(table)]
    clean = next(cell for cell in table.cells if cell.condition == "clean").score.decode()
    for item, full, *scores in zip(table.tasks[0].items, clean, *columns, strict=True):
        if full == 1 and {0, 1} <= set(scores):
            return item
    raise SystemExit("the methods never differ in this table")


def example(table: Table) -> ItemPanels:
    """The item under the methods, which are run again to tell what they keep."""
    task = load_task(table.tasks[0].task)
    name = find_item(table)
    item = next(item for item in task.items() if item.id == name)
    variations = [
        Variation(
            Condition(prune=PRUNERS.get(cell.family).part(**cell.parts["prune"]["params"])),
            cell.axis,
            cell.family,
            cell.strength,
        )
        for cell in shown_cells(table)
    ]
    adapter = Adapter(load_model(str(table.identity["model"]), device="cpu"))
    preparer = Preparer(adapter, int(table.identity["seed"]), {task.name: task.spec.max_new_tokens})
    return next(item_panels(preparer, task.name, [item], variations, records(table), 1))


def draw(table: Table, target: Path) -> None:
    plt.rcParams.update(STYLE)
    figure = plt.figure(figsize=(11, 4.5), dpi=110)
    grid = figure.add_gridspec(1, 2, width_ratios=[1.2, 1], wspace=0.17)
    images(example(table), figure, grid[0])
    # one line per method: its variants with other parameters are in the table
    plain = table.model_copy(update={"cells": [cell for cell in table.cells if "(" not in cell.family]})
    curves(figure.add_subplot(grid[1]), plain, table.tasks[0].task)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, bbox_inches="tight", facecolor="white")


def images(item: ItemPanels, figure: plt.Figure, place: SubplotSpec) -> None:
    panels = [item.whole, *item.panels]
    grid = place.subgridspec(2, 3, wspace=0.06, hspace=0.38)
    for i, panel in enumerate(panels):
        axis = figure.add_subplot(grid[i // 3, i % 3])
        axis.imshow(draw_tiles(panel.tiles, side=540))
        axis.set_title(panel.name or "full model", fontsize=9, color=GREY, pad=4)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        colour = RIGHT if panel.score == 1 else WRONG
        axis.set_xlabel(f"“{panel.answer}”", fontsize=12, color=colour, fontweight="bold", labelpad=3)
        if i == 0:
            write = {"transform": axis.transAxes, "va": "bottom"}
            axis.text(0, 1.3, item.question, fontsize=12, fontweight="bold", color=INK, **write)
            axis.text(0, 1.17, tokens(panels[1:]), fontsize=9, color=GREY, **write)


def tokens(panels: Sequence[Panel]) -> str:
    kept = sorted({panel.kept for panel in panels})
    counts = "-".join(str(count) for count in dict.fromkeys((kept[0], kept[-1])))
    return f"{counts} of {panels[0].total} visual tokens kept, the others dimmed; orange: wrong"


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    source = arguments[0] if arguments else ROOT / "results" / "demo-prune.json"
    draw(Table.read(source), arguments[1] if len(arguments) > 1 else ROOT / "docs" / "pruning.png")
