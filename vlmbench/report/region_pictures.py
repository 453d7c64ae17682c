"""Pictures of a region run: an item under every method, where it looked again and why, and what was answered
before and after."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.errors import UsageError
from vlmbench.report.figures import counted
from vlmbench.report.region_plot import draw_regions
from vlmbench.report.region_tiles import (
    GREEN,
    GREY,
    INK,
    NAME,
    SMALL,
    TEXT,
    TILE,
    Embedded,
    LookedTile,
    PlainTile,
    Tile,
)
from vlmbench.report.svg import Sheet, file_name, text_height, wrap, write_series

if TYPE_CHECKING:
    from vlmbench.engine.region_panels import ItemRegions
    from vlmbench.schema import Table

TITLE = 18
GAP, MARGIN, ACROSS = 18, 24, 5
"""Pixels between tiles and around them; tiles in a row."""


def write_region_pictures(run: Path, table: Table, items: Iterable[ItemRegions]) -> list[Path]:
    """Fills `run`/pictures: an SVG per item and, with matplotlib, what each method gains and costs."""
    folder = run / "pictures"
    written = draw_region_sheets(items, folder)
    for block in table.tasks:
        name = "regions" if len(table.tasks) == 1 else f"regions-{file_name(block.task)}"
        try:
            written.append(draw_regions(table, folder / f"{name}.svg", block.task))
        except UsageError as error:
            print(f"note: left out: {name}.svg: {error}", file=sys.stderr)
    return written


def draw_region_sheets(items: Iterable[ItemRegions], folder: Path) -> list[Path]:
    """Writes an SVG per item, `region-01-TASK-ITEM.svg`, in the given order; sheets of an earlier, longer
    series in the folder go."""
    return write_series(folder, "region", ((f"{i.task}-{i.item}", draw_region_sheet(i)) for i in items))


def draw_region_sheet(item: ItemRegions) -> str:
    """One item's SVG."""
    sheet = Sheet()
    pictures = Embedded(sheet, item)
    tiles: list[Tile] = [
        PlainTile(item, pictures),
        *(LookedTile(panel, item, pictures) for panel in item.panels),
    ]
    across = min(ACROSS, max(3, len(tiles)))
    width = 2 * MARGIN + across * (TILE + GAP) - GAP
    y = _head(sheet, item, width - 2 * MARGIN)
    for start in range(0, len(tiles), across):
        row = tiles[start : start + across]
        head = text_height(max((tile.name for tile in row), key=len), NAME) + 4
        top, middle = max(tile.top for tile in row), max(tile.middle for tile in row)
        for place, tile in enumerate(row):
            x = MARGIN + place * (TILE + GAP)
            sheet.text(x, y + head - 4 - text_height(tile.name, NAME), tile.name, NAME, INK, bold=True)
            tile.draw(sheet, x, y + head, top, middle)
        y += head + top + middle + max(tile.below for tile in row) + GAP
    return sheet.render(width, y - GAP + MARGIN, f"{item.item}: where {len(item.panels)} methods look again")


def _head(sheet: Sheet, item: ItemRegions, room: float) -> float:
    y = sheet.text(MARGIN, MARGIN, wrap(item.question, TITLE, room, most=8, bold=True), TITLE, INK, bold=True)
    right = " / ".join(item.expected)
    gold = wrap(f"right answer: {right}" if right else "no right answer is given", TEXT, room, most=3)
    y = sheet.text(MARGIN, y + 4, gold, TEXT, GREEN if right else GREY)
    told = [item.task, item.category, item.item]
    told += [f"the first of {item.images} images"] if item.images > 1 else []
    told += [f"{counted(item.left_out, 'more method')} left out"] if item.left_out else []
    y = sheet.text(MARGIN, y + 2, wrap(" · ".join(filter(None, told)), SMALL, room, most=3), SMALL, GREY)
    legend = wrap(_legend(item), SMALL, room, most=4) if _legend(item) else []
    return sheet.text(MARGIN, y + 2, legend, SMALL, GREY) + GAP


def _legend(item: ItemRegions) -> str:
    parts = []
    if any(panel.box for panel in item.panels):
        parts.append("solid box: where a method looks again")
    if any(sight.boxes for sight in item.sights):
        parts.append("dashed: what the question is about")
    if any(panel.map is not None for panel in item.panels):
        parts.append("map: from dark, least, over orange to light yellow, most, each on its own scale")
    if any(panel.crop is not None for panel in item.panels):
        parts.append("a crop may reach beyond its box, to the shape of the model's input")
    if any(panel.mask is not None for panel in item.panels):
        parts.append("thin line: the tokens that are given back")
    if any(panel.map is not None and panel.map.labels is not None for panel in item.panels):
        parts.append("labels: light yellow foreground, grey ignored, dark background")
    return "; ".join(parts)
