"""Gradient-weighted attention: where looking made the answer likelier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.roi.base import RoiMethod
from vlmbench.roi.given import layer_of, same_depth
from vlmbench.roi.regions import on_grid
from vlmbench.roi.windows import search

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Region, Signals


@dataclass(frozen=True, kw_only=True)
class GradAttn(RoiMethod):
    """Attention of the last prompt token times what more of it would do for the answer, where that is good.

    A * max(d log p / dA, 0) with p the probability of the likeliest first token, mean over the heads of one
    layer. The box is ViCrop's search (see `windows`).

    Based on ViCrop (https://arxiv.org/abs/2502.17422).

    Parameters: layer and window as of rel-attn; give (see RoiMethod). Reads last_attention and
    attention_gradient.
    """

    layer: int = -1
    window: int = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"last_attention", "attention_gradient"})

    def layers(self, depth: int) -> tuple[int, ...]:
        return (same_depth(self.layer, depth, "grad-attn"),)

    def map(self, signals: Signals) -> Tensor | None:
        (layer,) = self.layers(signals.depth)
        attention = layer_of(signals.last_attention, layer, "last_attention", "grad-attn")
        slope = layer_of(signals.attention_gradient, layer, "attention_gradient", "grad-attn")
        return on_grid((attention.float() * slope.float().clamp(min=0)).mean(0), signals)

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        return search(map, signals, self.window)
