"""More pixels: one larger picture instead of a second one, of the same number of tokens together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlmbench.roi.base import Region, RoiMethod

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals


@dataclass(frozen=True, kw_only=True)
class MorePixels(RoiMethod):
    """No region: the model is shown the picture alone, enlarged to the tokens of two.

    What a crop must beat where the model can spend its tokens evenly. It needs a model that sees pictures in
    their own size; with a fixed input more pixels would not make more tokens.

    Control.
    """

    enlarges: ClassVar[bool] = True
    """The engine's business: the picture is resized so that its visual tokens number twice those of the plain
    request, and models of fixed input do not apply."""

    def region(self, signals: Signals) -> Region | None:
        return None
