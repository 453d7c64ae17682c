"""Replace: the crop alone, without the whole picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlmbench.roi.base import REPLACE
from vlmbench.roi.wrapped import Wrapped

if TYPE_CHECKING:
    from vlmbench.roi.base import Region, Signals


@dataclass(frozen=True, kw_only=True)
class Replace(Wrapped):
    """The region of another method in place of the picture: as many tokens as the plain request, and what is
    lost without the surroundings.

    Control.

    Parameters: method, NAME or NAME(key=value,..). Reads what the method does.
    """

    name: ClassVar[str] = "replace"
    own: ClassVar[str] = REPLACE

    @property
    def given(self) -> str:
        return REPLACE

    def region(self, signals: Signals) -> Region | None:
        return self.inner.region(signals)
