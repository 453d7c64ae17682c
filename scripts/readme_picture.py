"""The README's picture from the committed result table: an answer that flips, and how often they do.

python scripts/readme_picture.py [results/demo-perturb.json] [docs/stability.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from vlmbench.packing import unpack_indices
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.prepare import to_rgb
from vlmbench.schema import Cell, Summary, Table
from vlmbench.seeds import seed_for
from vlmbench.tasks.load import load_task

ROOT = Path(__file__).resolve().parents[1]
INK, BLUE, ORANGE, GREY = "#1b1f24", "#0072b2", "#d55e00", "#8b949e"


def answers(table: Table, cell: Cell) -> list[str | None]:
    known = table.tasks[0].answers
    return [known[i][code - 1] if code else None for i, code in enumerate(unpack_indices(cell.answer))]


def find_flip(table: Table) -> tuple[Cell, int]:
    """The mildest shift that turns a right answer into a wrong one, and the first such item."""
    cells = {cell.condition: cell for cell in table.cells}
    clean = cells["clean"]
    shifts = [c for c in table.cells if c.family == "shift" and c.strength.isdecimal()]
    for cell in sorted(shifts, key=lambda c: int(c.strength)):
        before, after = clean.score.decode(), cell.score.decode()
        pairs = zip(answers(table, clean), answers(table, cell), before, after, strict=True)
        for place, (old, new, was, now) in enumerate(pairs):
            if old is not None and new is not None and was == 1 and now == 0:
                return cell, place
    raise SystemExit("no shift flips an answer in this table")


def draw(table: Table, target: Path) -> None:
    plt.rcParams.update(
        {"font.size": 10, "axes.edgecolor": GREY, "text.color": INK, "font.family": "DejaVu Sans"}
    )
    figure = plt.figure(figsize=(11, 5.2), dpi=110)
    grid = figure.add_gridspec(
        2, 4, width_ratios=[1, 1, 0.46, 2.2], height_ratios=[1.12, 1], wspace=0.08, hspace=0.42
    )
    example(table, figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1]))
    curve(table, figure.add_subplot(grid[1, :2]))
    bars(table, figure.add_subplot(grid[:, 3]))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, bbox_inches="tight", facecolor="white")


def example(table: Table, left: plt.Axes, right: plt.Axes) -> None:
    cell, place = find_flip(table)
    block = table.tasks[0]
    item = next(i for i in load_task(block.task).items() if i.id == block.items[place])
    image = to_rgb(item.images[0].load())
    entry = IMAGES.get("shift")
    part = entry.part(**cell.parts["image"]["params"])
    moved, _ = entry.build(part)(
        image, seed_for(int(table.identity["seed"]), item.images[0].key, *entry.draw_key(part))
    )
    clean = next(c for c in table.cells if c.condition == "clean")
    for axis, picture, text, colour, title in (
        (left, image, answers(table, clean)[place], BLUE, "original"),
        (
            right,
            moved,
            answers(table, cell)[place],
            ORANGE,
            f"moved by {cell.strength} of {image.width} pixels",
        ),
    ):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9, color=GREY)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(f"“{text}”", fontsize=13, color=colour, fontweight="bold")
    left.text(0, 1.2, item.question, transform=left.transAxes, fontsize=12, fontweight="bold")


def curve(table: Table, axis: plt.Axes) -> None:
    points = [
        s
        for s in table.summaries
        if s.group.get("family") == "shift" and s.group.get("strength", "").isdecimal()
    ]
    points.sort(key=lambda s: int(s.group["strength"]))
    xs = [int(s.group["strength"]) for s in points]
    rates = [s.metrics["flip_rate"] for s in points]
    axis.fill_between(
        xs,
        [100 * (r.low or 0) for r in rates],
        [100 * (r.high or 0) for r in rates],
        color=BLUE,
        alpha=0.15,
        lw=0,
    )
    axis.plot(xs, [100 * (r.value or 0) for r in rates], "o-", color=BLUE, ms=4)
    axis.set_xticks(xs)
    axis.set_xlabel("shift, pixels of the 432-pixel source", fontsize=9)
    axis.set_ylabel("answers changed, %", fontsize=9)
    axis.set_ylim(bottom=0)
    plain(axis)


def bars(table: Table, axis: plt.Axes) -> None:
    families = [s for s in table.summaries if "family" in s.group and "strength" not in s.group and usable(s)]
    families.sort(key=lambda s: s.metrics["flip_rate"].value or 0)
    for y, summary in enumerate(families):
        rate = summary.metrics["flip_rate"]
        colour = {"image": BLUE, "question": ORANGE}.get(summary.group["axis"], GREY)
        value, low, high = (100 * (v or 0) for v in (rate.value, rate.low, rate.high))
        axis.plot([low, high], [y, y], color=colour, alpha=0.35, lw=4, solid_capstyle="butt")
        axis.plot(value, y, "o", color=colour, ms=5)
    axis.set_yticks(range(len(families)), [s.group["family"] for s in families])
    axis.set_xlim(left=-0.2)
    axis.set_xlabel("answers changed, % of item-variant pairs, 95 % interval", fontsize=9)
    n = len(table.tasks[0].items)
    axis.set_title(
        f"{n} questions, {len(table.cells)} conditions: image (blue), question (orange)",
        fontsize=10,
        loc="left",
    )
    plain(axis)


def usable(summary: Summary) -> bool:
    return summary.counts.get("pairs", 0) > 0 and summary.metrics["flip_rate"].value is not None


def plain(axis: plt.Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#eaeef2")
    axis.set_axisbelow(True)


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    source = arguments[0] if arguments else ROOT / "results" / "demo-perturb.json"
    draw(Table.read(source), arguments[1] if len(arguments) > 1 else ROOT / "docs" / "stability.png")
