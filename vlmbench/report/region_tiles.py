"""One item under one method, on a sheet: map, labels, boxes, crop, and the answer before and after."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from vlmbench.report.gallery import colour_of, draw_mark, png
from vlmbench.report.region_overlays import heat, labelled, outline
from vlmbench.report.svg import Sheet, text_height, wrap

if TYPE_CHECKING:
    from vlmbench.engine.region_panels import Answered, ItemRegions, RegionPanel
    from vlmbench.items import Box

INK, GREY, FRAME = "#1b1f24", "#57606a", "#d0d7de"
GREEN, RED = "#116329", "#b3261e"
LOOKED, ASKED = "#ffffff", "#7ee787"
"""Of the box where a method looked again, solid, and of what the question is about, dashed; both on INK."""

TILE = 200
"""Pixels across."""
MINI = 97
"""Pixels along the longer side of labels and crop."""
TEXT, NAME, SMALL = 14, 13, 11.5
_SAID = 46
"""Pixels left of an answer, for the word that says which it is."""

BUDGET = 105_000
"""Characters of all embedded pictures of a sheet: the file stays below 150 KB."""
_SIZES = ((320, 0), (TILE, 0), (TILE, 128), (160, 64), (120, 48), (80, 32), (48, 16))
"""Longer side in pixels and colours (0: all), tried in this order until a sheet is within its budget."""


class Embedded:
    """What is embedded: each picture once, in colour and in grey, and every crop; all within BUDGET."""

    def __init__(self, sheet: Sheet, item: ItemRegions) -> None:
        self.name = f"r{zlib.crc32(f'{item.task}-{item.item}'.encode()):08x}"
        self.sizes = [_fitted(sight.picture.size, TILE, TILE) for sight in item.sights]
        self.overlays: dict[int, tuple[str, str]] = {}
        """Map and labels of a panel, by its id; empty where there are no labels."""
        for panel in item.panels:
            if panel.map is not None:
                wide, high = (max(1, round(side)) for side in self.sizes[panel.at])
                mini = max(1, round(wide * MINI / TILE)), max(1, round(high * MINI / TILE))
                labels = labelled(panel.map, mini) if panel.map.labels is not None else ""
                self.overlays[id(panel)] = heat(panel.map, (wide, high)), labels
        shown: dict[str, Image.Image] = {}
        for i, sight in enumerate(item.sights):
            on_it = [panel for panel in item.panels if panel.at == i]
            if i == 0 or any(panel.map is None for panel in on_it):
                shown[f"{i}c"] = sight.picture
            if any(panel.map is not None for panel in on_it):
                shown[f"{i}g"] = sight.picture.convert("L")  # colours under a map would be taken for its own
        crops = {id(panel): panel.crop for panel in item.panels if panel.crop is not None}
        room = BUDGET - sum(len(data) for pair in self.overlays.values() for data in pair)
        found = _encoded([*shown.values(), *crops.values()], room)
        self.crops = dict(zip(crops, found[len(shown) :], strict=True))
        for name, data in zip(shown, found, strict=False):
            size = self.sizes[int(name[:-1])]
            sheet.parts.append(
                f'<defs><image id="{self.name}-{name}" width="{size[0]:.2f}" height="{size[1]:.2f}" '
                f'href="data:image/png;base64,{data}"/></defs>'
            )

    def put(self, sheet: Sheet, at: int, grey: bool, x: float, y: float, scale: float = 1.0) -> None:
        """Shows the item's picture number `at`."""
        name = f"{self.name}-{at}{'g' if grey else 'c'}"
        place = f"translate({x:.2f} {y:.2f})" + (f" scale({scale:.4f})" if scale != 1 else "")
        sheet.parts.append(f'<use href="#{name}" transform="{place}"/>')


def _encoded(pictures: Sequence[Image.Image], room: int) -> list[str]:
    """Base64 of a PNG of each, all together within `room` where that can be."""
    found: list[str] = []
    for side, colours in _SIZES:
        found, left = [], room
        for picture in pictures:
            found.append(png(picture, side, colours))
            left -= len(found[-1])
            if left < 0 and (side, colours) != _SIZES[-1]:
                break  # the others would be made in vain
        else:
            break
    return found


def _fitted(size: tuple[int, int], wide: float, high: float) -> tuple[float, float]:
    scale = min(wide / size[0], high / size[1])
    return size[0] * scale, size[1] * scale


class Tile(ABC):
    """A name, a picture, what is small below it, and words; laid out but not yet placed."""

    name: Sequence[str] = ("without a second look",)
    top = 0.0
    """Height of the picture."""
    middle = 0.0
    """Height of labels and crop."""
    below = 0.0
    """Height of the words."""

    @abstractmethod
    def draw(self, sheet: Sheet, x: float, y: float, top: float, middle: float) -> None:
        """All but the name, below `y`; pictures end where those of the row do."""


class PlainTile(Tile):
    """The picture as it is, and the answer without a second look."""

    def __init__(self, item: ItemRegions, pictures: Embedded) -> None:
        self.pictures, self.boxes = pictures, item.sights[0].boxes
        self.size = pictures.sizes[0]
        first = next((panel for panel in item.panels if panel.at == 0), None)
        self.said = _Said("", first.before) if first is not None and first.before is not None else None
        self.top = self.size[1]
        self.below = 8 + self.said.height if self.said else 0.0

    def draw(self, sheet: Sheet, x: float, y: float, top: float, middle: float) -> None:
        under = y + top - self.top
        self.pictures.put(sheet, 0, False, x, under)
        sheet.rect(x, under, *self.size, "none", f' stroke="{FRAME}"')
        for box in self.boxes:
            _frame(sheet, box, x, under, self.size, ASKED, dashed=True)
        if self.said:
            # close to its picture, which has no labels and no crop
            self.said.draw(sheet, x, y + top + 8)


class LookedTile(Tile):
    """What a method made of it."""

    def __init__(self, panel: RegionPanel, item: ItemRegions, pictures: Embedded) -> None:
        self.panel, self.pictures = panel, pictures
        self.boxes, self.size = item.sights[panel.at].boxes, pictures.sizes[panel.at]
        ran = panel.after is not None and panel.after.state not in ("NOT_APPLICABLE", "SKIPPED", "ERROR")
        self.missing: list[str] = []
        if not ran or panel.failed:
            what = "failed" if panel.failed else "not applicable"
            self.missing = wrap(f"{what}: {panel.detail}" if panel.detail else what, NAME, TILE - 16, most=10)
        self.scale = MINI / TILE
        has_labels = bool(pictures.overlays.get(id(panel), ("", ""))[1])
        self.labels = (self.size[0] * self.scale, self.size[1] * self.scale) if has_labels else None
        room = TILE - MINI - 6 if self.labels else TILE
        self.crop = _fitted(panel.crop.size, room, MINI) if panel.crop is not None else None
        self.top = text_height(self.missing, NAME) + 16 if self.missing else self.size[1]
        highest = max((size[1] for size in (self.labels, self.crop) if size), default=0.0)
        self.middle = highest + round(SMALL * 1.3) + 8 if highest else 0.0
        self.name = wrap(panel.name.replace(",", ", "), NAME, TILE, most=5, bold=True)
        notes = [] if self.missing else _notes(panel)
        self.notes = [line for text in notes for line in wrap(text, SMALL, TILE, most=3)]
        self.said = [
            _Said(word, said)
            for word, said in (("before", panel.before), ("after", panel.after if ran else None))
            if said is not None
        ]
        self.verdict = _verdict(panel) if ran else None
        self.below = 12 + text_height(self.notes, SMALL)
        self.below += sum(said.height + 2 for said in self.said)
        self.below += text_height(["."], SMALL) + 2 if self.verdict else 0

    def draw(self, sheet: Sheet, x: float, y: float, top: float, middle: float) -> None:
        under = y + top - self.top
        if self.missing:
            sheet.rect(x, under, TILE, self.top, "#f6f8fa", f' stroke="{FRAME}" rx="4"')
            sheet.text(x + 8, under + 8, self.missing, NAME, GREY)
        else:
            self._picture(sheet, x, under)
        self._minis(sheet, x, y + top + 6)
        y = sheet.text(x, y + top + middle + 8, self.notes, SMALL, GREY) + 4
        for said in self.said:
            y = said.draw(sheet, x, y) + 2
        if self.verdict:
            sheet.text(x, y + 2, [self.verdict[0]], SMALL, self.verdict[1], bold=True)

    def _picture(self, sheet: Sheet, x: float, y: float) -> None:
        panel, (wide, high) = self.panel, self.size
        self.pictures.put(sheet, panel.at, panel.map is not None, x, y)
        if panel.map is not None:
            sheet.image(x, y, wide, high, self.pictures.overlays[id(panel)][0])
        sheet.rect(x, y, wide, high, "none", f' stroke="{FRAME}"')
        if panel.map is not None and panel.mask is not None:
            lines = outline(panel.map, panel.mask)
            way = "".join(
                f"M{x + a * wide:.1f} {y + b * high:.1f}L{x + c * wide:.1f} {y + d * high:.1f}"
                for a, b, c, d in lines
            )
            sheet.parts.append(f'<path d="{way}" fill="none" stroke="{LOOKED}" stroke-width="1"/>')
        if panel.box is not None:
            _frame(sheet, panel.box, x, y, self.size, LOOKED)
        for box in self.boxes:
            _frame(sheet, box, x, y, self.size, ASKED, dashed=True)

    def _minis(self, sheet: Sheet, x: float, y: float) -> None:
        if self.labels:
            under = sheet.text(x, y, ["labels"], SMALL, GREY)
            self.pictures.put(sheet, self.panel.at, True, x, under, self.scale)
            sheet.image(x, under, *self.labels, self.pictures.overlays[id(self.panel)][1])
            sheet.rect(x, under, *self.labels, "none", f' stroke="{FRAME}"')
        if self.crop:
            x += MINI + 6 if self.labels else 0
            under = sheet.text(x, y, ["shown instead" if self.panel.replaces else "shown too"], SMALL, GREY)
            sheet.image(x, under, *self.crop, self.pictures.crops[id(self.panel)])
            sheet.rect(x, under, *self.crop, "none", f' stroke="{FRAME}"')


class _Said:
    """An answer with its mark, and a word before it that says which it is."""

    def __init__(self, word: str, said: Answered) -> None:
        self.word, self.score = word, said.score
        self.left = (_SAID if word else 0) + (20 if said.score is not None else 0)
        text = said.answer if said.answer is not None else said.state
        if said.score is not None and 0 < said.score < 1:
            text = f"{said.score:.2g}: {text}"
        self.lines = wrap(text if text.strip() else "(nothing)", TEXT, TILE - self.left, most=3)

    @property
    def height(self) -> float:
        return text_height(self.lines, TEXT)

    def draw(self, sheet: Sheet, x: float, y: float) -> float:
        """Returns the lower edge."""
        if self.word:
            sheet.text(x, y + 1, [self.word], SMALL, GREY)
            x += _SAID
        draw_mark(sheet, self.score, x, y + 1, colour_of(self.score))
        x += 20 if self.score is not None else 0
        return sheet.text(x, y, self.lines, TEXT, colour_of(self.score))


def _verdict(panel: RegionPanel) -> tuple[str, str] | None:
    """What the second look changed, and the colour of it."""
    before, after = panel.before, panel.after
    if before is None or after is None or before.score is None or after.score is None:
        return None
    if after.score > before.score:
        return "gained", GREEN
    return ("lost", RED) if after.score < before.score else None


def _notes(panel: RegionPanel) -> list[str]:
    told, found = panel.told, []
    if panel.enlarges:
        found.append("no region: shown larger")
    elif panel.box is None:
        found.append("no region: the plain answer")
    elif told is not None and told.share is not None:
        found.append(f"{100 * told.share:.3g} % of the picture")
    if told is not None and told.iou is not None and panel.box is not None:
        found.append(f"IoU {told.iou:.2f}, covers {100 * (told.recall or 0):.0f} %")
    if told is not None and told.pointing is not None:
        auroc = "" if told.auroc is None else f", AUROC {told.auroc:.2f}"
        found.append(f"points {'at it' if told.pointing else 'elsewhere'}{auroc}")
    if panel.map is not None and panel.map.unlabelled:
        found.append(f"no labels: {panel.map.unlabelled}")
    if panel.tokens is not None and panel.tokens_before is not None and panel.tokens != panel.tokens_before:
        more = panel.tokens - panel.tokens_before
        plus = f"{panel.tokens_before} + {more}" if more > 0 and not panel.replaces else f"{panel.tokens}"
        found.append(f"{plus} visual tokens")
    if not panel.as_recorded:
        found.append("the run, batched otherwise, looked elsewhere")
    return found


def _frame(
    sheet: Sheet, box: Box, x: float, y: float, size: tuple[float, float], colour: str, dashed: bool = False
) -> None:
    """A box in shares of the picture, drawn within it, light on dark: seen on everything."""
    left, right = (min(max(part, 0.0), 1.0) * size[0] for part in (box[0], box[2]))
    top, bottom = (min(max(part, 0.0), 1.0) * size[1] for part in (box[1], box[3]))
    left, top = min(left, size[0] - 4), min(top, size[1] - 4)
    right, bottom = max(right, left + 4), max(bottom, top + 4)
    # both strokes are dashed, so that a solid box below, in the same place, shows between them
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    for stroke, wide in ((INK, 3.6), (colour, 1.8)):
        place = x + left + 1.8, y + top + 1.8, right - left - 3.6, bottom - top - 3.6
        if min(place[2:]) > 0:
            sheet.rect(*place, "none", f' stroke="{stroke}" stroke-width="{wide:g}"{dash}')
