"""Center: the middle of the picture, whatever is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.roi.base import Region, RoiMethod

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals, Size

SHARE = 0.25
"""Of the picture's area: half of each side, a zoom of two."""


@dataclass(frozen=True, kw_only=True)
class Center(RoiMethod):
    """A box of the picture's aspect in its middle.

    Control.

    Parameters: share, of the picture's area; give (see RoiMethod).
    """

    share: float = SHARE

    def region(self, signals: Signals) -> Region | None:
        return placed(signals.size, self.share, 0.5, 0.5)


def placed(size: Size, share: float, across: float, down: float) -> Region:
    """A box of `share` of the picture's area and of its aspect; across and down in [0, 1] say where between
    the left and the right border, the top and the bottom."""
    width, height = size
    side = math.sqrt(share)
    left, top = across * (1 - side) * width, down * (1 - side) * height
    right, bottom = min(float(width), left + side * width), min(float(height), top + side * height)
    return Region((left, top, right, bottom))
