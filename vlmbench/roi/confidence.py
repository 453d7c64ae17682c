"""Confidence: looks closer only where the plain answer is unsure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlmbench.roi.given import given
from vlmbench.roi.wrapped import Wrapped

if TYPE_CHECKING:
    from vlmbench.roi.base import Region, Signals


@dataclass(frozen=True, kw_only=True)
class Confidence(Wrapped):
    """The region of another method where the first token of the plain answer has a probability below `below`,
    none elsewhere: most answers stay as they are where most are sure. It saves second looks, not time: the
    plain answer is written first, and the other method reads every request.

    This project's control.

    Parameters: method, NAME or NAME(key=value,..); below; give (see RoiMethod). Reads probability and what
    the method does.
    """

    name: ClassVar[str] = "confidence"

    below: float = 0.8

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | {"probability"}

    def region(self, signals: Signals) -> Region | None:
        sure = given(signals.probability, "probability", self.name) >= self.below
        return None if sure else self.inner.region(signals)
