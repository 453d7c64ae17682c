"""The most unstable items, a sheet each: the answers under all variants, what was shown where they flip."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vlmbench.report.figures import counted
from vlmbench.report.svg import Sheet, text_height, wrap, write_series

if TYPE_CHECKING:
    from vlmbench.engine.unstable import Given, Shown, UnstableItem

INK, GREY, FRAME = "#1b1f24", "#57606a", "#d0d7de"
GREEN, RED, AMBER = "#116329", "#b3261e", "#8a5a00"

TILE, GAP, MARGIN, ACROSS = 184, 18, 24, 5
"""Pixels: of a tile and between tiles; tiles in a row."""
TITLE, TEXT, NAME, SMALL = 18, 14, 13, 11.5

BUDGET = 270_000
"""Characters of all embedded pictures of a sheet: the file stays below 300 KB."""
_WORDS = 1_000
"""Characters of what is written around each picture, beyond the first ones."""
_SIZES = ((TILE, 0), (TILE, 128), (144, 128), (112, 64), (88, 32), (64, 16), (48, 16))
"""Longer side in pixels and colours (0: all), tried in this order until a sheet is within its budget."""


def draw_gallery(items: Sequence[UnstableItem], folder: Path) -> list[Path]:
    """Writes an SVG per item, `unstable-01-TASK-ITEM.svg`, in the given order; sheets of an earlier, longer
    gallery in the folder go."""
    return write_series(folder, "unstable", ((f"{i.task}-{i.item}", draw_sheet(i)) for i in items))


def draw_sheet(item: UnstableItem) -> str:
    """One item's SVG."""
    sheet = Sheet()
    shown = [item.original, *item.flipped]
    across = min(ACROSS, max(3, len(shown)))
    width = 2 * MARGIN + across * (TILE + GAP) - GAP
    y = _head(sheet, item, width - 2 * MARGIN)
    pictures = iter(embedded([one.picture for one in shown]))
    tiles = [_Tile(one, next(pictures), one is item.original) for one in shown]
    for start in range(0, len(tiles), across):
        row = tiles[start : start + across]
        for place, tile in enumerate(row):
            tile.draw(sheet, MARGIN + place * (TILE + GAP), y, max(tile.top for tile in row))
        y += max(tile.top for tile in row) + max(tile.below for tile in row) + GAP
    return sheet.render(width, y - GAP + MARGIN, f"{item.item}: {item.flips} of {item.pairs} variants flip")


def _head(sheet: Sheet, item: UnstableItem, room: float) -> float:
    y = sheet.text(MARGIN, MARGIN, wrap(item.question, TITLE, room, most=8, bold=True), TITLE, INK, bold=True)
    right = " / ".join(item.expected)
    gold = wrap(f"right answer: {right}" if right else "no right answer is given", TEXT, room, most=3)
    y = sheet.text(MARGIN, y + 4, gold, TEXT, GREEN if right else GREY)
    told = f"{item.flips} of {counted(item.pairs, 'variant')} change the answer"
    missing = item.flips - len(item.flipped)
    if missing:
        told += f"; {len(item.flipped)} are shown, families take turns, {missing} are left out"
    about = " · ".join(part for part in (told, item.task, item.category, item.item) if part)
    y = sheet.text(MARGIN, y + 2, wrap(about, SMALL, room, most=3), SMALL, GREY)
    y += 6 if item.answers else 0
    for answer in item.answers:
        y = sheet.text(MARGIN, y + 2, wrap(_given(answer), SMALL, room, most=4), SMALL, INK)
    return y + GAP


def _given(answer: Given) -> str:
    """`yes (unchanged input): 12 variants: shift 10 of 14, pad 2 of 2`."""
    text = " ".join(answer.answer.split())
    text = f"{text[:60]}…" if len(text) > 61 else text
    whose = " (unchanged input)" if answer.is_original else ""
    told = f"{text or '(nothing)'}{whose}: {counted(answer.times, 'variant')}"
    parts = ", ".join(f"{family} {times} of {pairs}" for family, times, pairs in answer.families)
    return f"{told}: {parts}" if parts else told


class _Tile:
    """What was shown above, what was answered below; laid out but not yet placed."""

    def __init__(self, shown: Shown, picture: tuple[str, float, float] | None, is_original: bool) -> None:
        self.shown, self.picture = shown, picture
        self.words = wrap(shown.words, NAME, TILE - 16, most=10) if shown.words else []
        if shown.missing:
            self.words = wrap(shown.missing, NAME, TILE - 16, most=10)
        if picture is None and not self.words:
            self.words = ["(no picture)"]
        name = "unchanged input" if is_original else shown.name.replace(",", ", ")
        if is_original and shown.name != "clean":
            name = f"unchanged input, {shown.name}"
        self.name = wrap(name, NAME, TILE, most=4, bold=True)
        text = shown.answer if shown.answer is not None else shown.state
        self.answer = wrap(text if text.strip() else "(nothing)", TEXT, TILE - 22, most=4)
        self.notes = [line for text in _notes(shown) for line in wrap(text, SMALL, TILE, most=2)]

    @property
    def top(self) -> float:
        """Height of picture and words."""
        high = self.picture[2] if self.picture else 0.0
        gap = 6 if self.picture and self.words else 0
        return high + gap + (text_height(self.words, NAME) + 16 if self.words else 0)

    @property
    def below(self) -> float:
        """Height of what stands below them."""
        lines = text_height(self.name, NAME) + text_height(self.answer, TEXT)
        return 8 + lines + text_height(self.notes, SMALL) + 4

    def draw(self, sheet: Sheet, x: float, y: float, top: float) -> None:
        under = y + top - self.top  # beside higher ones: close to what stands below
        if self.picture:
            data, wide, high = self.picture
            sheet.image(x, under, wide, high, data)
            sheet.rect(x, under, wide, high, "none", f' stroke="{FRAME}"')
            under += high + 6
        if self.words:
            high = text_height(self.words, NAME) + 16
            sheet.rect(x, under, TILE, high, "#f6f8fa", f' stroke="{FRAME}" rx="4"')
            sheet.text(x + 8, under + 8, self.words, NAME, GREY if self.shown.missing else INK)
        y = sheet.text(x, y + top + 8, self.name, NAME, INK, bold=True)
        colour = colour_of(self.shown.score)
        draw_mark(sheet, self.shown.score, x, y + 3, colour)
        y = sheet.text(x + (22 if self.shown.score is not None else 0), y + 2, self.answer, TEXT, colour)
        sheet.text(x, y + 2, self.notes, SMALL, GREY)


def _notes(shown: Shown) -> list[str]:
    """Right or wrong in words too: colours alone are not for every eye."""
    score = shown.score
    first = [shown.state]
    if score is not None:
        verdict = ["right"] if score >= 1 else ["wrong"] if score <= 0 else []
        first = [f"score {score:.2g}", *verdict, shown.state]
    second = [] if shown.margin is None else [f"margin {shown.margin:.2g}"]
    second += ["tie"] if shown.tie else []
    return [" · ".join(parts) for parts in (first, second) if parts]


def colour_of(score: float | None) -> str:
    """Of what was answered."""
    if score is None:
        return INK
    return GREEN if score >= 1 else RED if score <= 0 else AMBER


def draw_mark(sheet: Sheet, score: float | None, x: float, y: float, colour: str) -> None:
    """A tick, a cross, or a ring for what is partly right; nothing where nothing was scored."""
    if score is None:
        return
    if score >= 1:
        sheet.line([(x + 2, y + 8), (x + 6, y + 12), (x + 14, y + 3)], colour, 2.4)
    elif score <= 0:
        sheet.line([(x + 3, y + 3), (x + 13, y + 13)], colour, 2.4)
        sheet.line([(x + 13, y + 3), (x + 3, y + 13)], colour, 2.4)
    else:
        sheet.parts.append(
            f'<circle cx="{x + 8:g}" cy="{y + 8:g}" r="5" fill="none" stroke="{colour}" stroke-width="2.4"/>'
        )


def embedded(pictures: Sequence[Image.Image | None]) -> list[tuple[str, float, float] | None]:
    """(base64 of a PNG, width, height as drawn) of each, all together within BUDGET where that can be."""
    found: list[str] = []
    for side, colours in _SIZES:
        found, left = [], BUDGET - _WORDS * max(0, len(pictures) - 20)
        for picture in pictures:
            found.append(png(picture, side, colours) if picture else "")
            left -= len(found[-1])
            if left < 0 and (side, colours) != _SIZES[-1]:
                break
        else:
            break
    drawn: list[tuple[str, float, float] | None] = []
    for picture, data in zip(pictures, found, strict=True):
        if picture is None:
            drawn.append(None)
        else:
            scale = TILE / max(picture.size)
            drawn.append((data, picture.width * scale, picture.height * scale))
    return drawn


def png(picture: Image.Image, side: int, colours: int) -> str:
    """Base64, at most `side` pixels along the longer side, of so many `colours`; 0: all."""
    small = picture if picture.mode == "L" else picture.convert("RGB")
    scale = side / max(small.size)
    if scale < 1:
        size = (max(1, round(small.width * scale)), max(1, round(small.height * scale)))
        small = small.resize(size, Image.Resampling.LANCZOS)
    if colours:
        small = small.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
