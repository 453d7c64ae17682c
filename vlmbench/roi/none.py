"""None: looks at nothing again; what every other method is compared to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.roi.base import Region, RoiMethod

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals


@dataclass(frozen=True, kw_only=True)
class NoRegion(RoiMethod):
    """Never a region: the plain answer, by the full way.

    Control.
    """

    def region(self, signals: Signals) -> Region | None:
        return None
