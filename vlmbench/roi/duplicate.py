"""Duplicate: the whole picture again, so that more tokens can be told from looking closer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.roi.base import Region, RoiMethod, whole

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals


@dataclass(frozen=True, kw_only=True)
class Duplicate(RoiMethod):
    """The whole picture is the region: as many tokens as a crop gives, and no detail that was not there.

    Control.

    Parameters: give (see RoiMethod).
    """

    def region(self, signals: Signals) -> Region | None:
        return whole(signals)
