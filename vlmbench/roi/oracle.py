"""Oracle: the box that the question is about, told by the task; the ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.roi.base import Region, RoiMethod
from vlmbench.roi.crop import enlarged

if TYPE_CHECKING:
    from vlmbench.items import Box
    from vlmbench.roi.base import Signals, Size


@dataclass(frozen=True, kw_only=True)
class Oracle(RoiMethod):
    """The box around all boxes of the item, with a margin; no region for items without any.

    No real method is told the boxes: where even this loses answers, it was not the region that was wrong.

    This project's control.

    Parameters: margin, of the box's width on its left and right and of its height above and below; give (see
    RoiMethod). Reads the item's boxes.
    """

    margin: float = 0.25

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"boxes"})

    def region(self, signals: Signals) -> Region | None:
        box = around(signals.boxes or (), signals.size)
        return None if box is None else Region(enlarged(box, signals.size, self.margin))


def around(boxes: tuple[Box, ...], size: Size) -> Box | None:
    """The box around what is left of `boxes` on the picture; None where nothing is."""
    width, height = map(float, size)
    cut = [(max(b[0], 0.0), max(b[1], 0.0), min(b[2], width), min(b[3], height)) for b in boxes]
    seen = [box for box in cut if box[2] > box[0] and box[3] > box[1]]
    if not seen:
        return None
    return (
        min(box[0] for box in seen),
        min(box[1] for box in seen),
        max(box[2] for box in seen),
        max(box[3] for box in seen),
    )
