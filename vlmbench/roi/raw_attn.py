"""Raw attention: the map that SD-RPN's pseudo-labels are made of, without the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from vlmbench.roi.base import TOKENS, RoiMethod
from vlmbench.roi.given import Heads, checked, given, layer_of, pick, read_heads
from vlmbench.roi.labels import cleaned
from vlmbench.roi.regions import by_components, on_grid
from vlmbench.roi.sinks import SINK_RULES, find_sinks
from vlmbench.roi.spatial import blur

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Region, Signals

NAME = "raw-attn"
AUTO, GENERATED, PREDICTING = "auto", "generated", "predicting"


@dataclass(frozen=True, kw_only=True)
class RawAttn(RoiMethod):
    """Where the answer's tokens attend, sinks taken out: what the network is distilled from.

    The answer has to be decoded first. A token's attention is its own once it is read again, as in the paper,
    or that which it was predicted from. The map is the mean over the grounding heads; the region is found as
    SD-RPN's, at a share of the blurred map's maximum, since attention has no scale of its own.

    Based on the teacher of SD-RPN (https://arxiv.org/abs/2509.16944).

    Parameters: heads and sink_heads, LAYER:HEAD/LAYER:HEAD..: the grounding heads, where empty all heads of
    the middle third of the layers, and those of the sink map, where empty nothing is zeroed; sinks, the rule
    of `sinks.SINK_RULES`; rows, `generated` or `predicting`, or `auto`: those of the network's teacher where
    there is one (see `settled`), else the paper's; tau, a share of the maximum; give (see RoiMethod). Reads
    response_attention or predicting_attention.
    """

    own: ClassVar[str] = TOKENS

    heads: str = ""
    sink_heads: str = ""
    sinks: str = "default"
    rows: str = AUTO
    tau: float = 0.2

    def __post_init__(self) -> None:
        """Raises UsageError where heads cannot be read."""
        self._heads(self.heads), self._heads(self.sink_heads)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self._read})

    @property
    def _read(self) -> str:
        return "predicting_attention" if self.rows == PREDICTING else "response_attention"

    def layers(self, depth: int) -> tuple[int, ...]:
        named = [layer for layer, _ in self._heads(self.heads) + self._heads(self.sink_heads)]
        wanted = {checked(layer, depth, NAME) for layer in named}
        return tuple(sorted(wanted | (set() if self.heads else set(middle(depth)))))

    def map(self, signals: Signals) -> Tensor | None:
        what = self._read
        maps = given(getattr(signals, what), what, NAME)
        if self.heads:
            mean = pick(maps, self._heads(self.heads), what, NAME).mean(0)
        else:
            every = [layer_of(maps, layer, what, NAME) for layer in middle(signals.depth)]
            mean = torch.cat(every).mean(0)
        map = on_grid(mean, signals)
        if not self.sink_heads:
            return map
        sink_map = on_grid(pick(maps, self._heads(self.sink_heads), what, NAME).mean(0), signals)
        shown = signals.shown.view(signals.grid).to(map.device)
        return cleaned(map, find_sinks(sink_map, SINK_RULES[self.sinks], shown))

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        return by_components(map, self.tau * float(blur(map).max()), signals)

    @staticmethod
    def _heads(text: str) -> Heads:
        return read_heads(text, NAME)


def middle(depth: int) -> range:
    """The middle third of the layers, at least one."""
    return range(depth // 3, max(depth // 3 + 1, depth - depth // 3))
