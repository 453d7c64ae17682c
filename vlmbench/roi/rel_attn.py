"""Relative attention: where the model looks for this question more than for a general one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlmbench.roi.base import RoiMethod
from vlmbench.roi.given import layer_of, same_depth
from vlmbench.roi.regions import on_grid
from vlmbench.roi.windows import search

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Region, Signals

FLOOR = 1e-6
"""Of the general map's mean: what is below counts as that, so that no token wins by a division by nothing."""


@dataclass(frozen=True, kw_only=True)
class RelAttn(RoiMethod):
    """Attention of the last prompt token, divided token by token by the same under a general prompt.

    Mean over the heads of one layer. The box is ViCrop's search (see `windows`).

    Based on ViCrop (https://arxiv.org/abs/2502.17422).

    Parameters: layer, -1 for the relative depth of the authors' 14 of 32 (they take 22 of 36 for
    Qwen2.5-VL-3B); window, the smallest in source pixels, 0 for 14 per cell of the grid's side; give (see
    RoiMethod). Reads last_attention and general_attention.
    """

    layer: int = -1
    window: int = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"last_attention", "general_attention"})

    def layers(self, depth: int) -> tuple[int, ...]:
        return (same_depth(self.layer, depth, "rel-attn"),)

    def map(self, signals: Signals) -> Tensor | None:
        (layer,) = self.layers(signals.depth)
        asked = layer_of(signals.last_attention, layer, "last_attention", "rel-attn")
        general = layer_of(signals.general_attention, layer, "general_attention", "rel-attn")
        return on_grid(relative(asked.float().mean(0), general.float().mean(0)), signals)

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        return search(map, signals, self.window)


def relative(asked: Tensor, general: Tensor) -> Tensor:
    """asked / general, both of one shape and at least 0; `asked` itself where `general` is 0 throughout."""
    floor = FLOOR * general.mean()
    return torch.where(floor > 0, asked / general.clamp(min=floor), asked)
