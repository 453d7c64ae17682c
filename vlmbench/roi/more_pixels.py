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

    What a crop must beat where the model can spend its tokens evenly. The picture is resized once, from the
    source pixels: to a larger size where the model sees pictures in their own, to a larger input where its
    vision tower interpolates the position embeddings, into more tiles where it cuts them. The count of tokens
    that this really makes is recorded; see `models.larger`.

    Control.

    Parameters: tokens, the visual tokens wanted, times those of the plain request.
    """

    enlarges: ClassVar[bool] = True
    """The engine's business."""

    tokens: float = 2.0

    def region(self, signals: Signals) -> Region | None:
        return None
