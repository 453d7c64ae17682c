"""Random: a box anywhere on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlmbench.roi.base import Region, RoiMethod
from vlmbench.roi.center import SHARE, placed

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals


@dataclass(frozen=True, kw_only=True)
class Random(RoiMethod):
    """A box of the picture's aspect at a random place, every place on the picture as likely.

    The place follows the seed of item and method alone: the same under every perturbation and for every size.

    Control.

    Parameters: share, of the picture's area; draw, which of many places; give (see RoiMethod).
    """

    share: float = SHARE
    draw: int = 0

    def region(self, signals: Signals) -> Region | None:
        generator = torch.Generator().manual_seed(signals.seed)
        across, down = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        return placed(signals.size, self.share, across, down)
