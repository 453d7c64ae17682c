"""Localisation heads: attention of the few heads that look at one spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlmbench.roi.base import Region, RoiMethod
from vlmbench.roi.given import checked, layer_of, pick, read_heads
from vlmbench.roi.heads import elbow
from vlmbench.roi.regions import box_around, on_grid
from vlmbench.roi.spatial import blur, components, spatial_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Signals

NAME = "attn-entropy"
FIRST = 2
"""Layers before this one hold no localisation heads: attention there is broad or on sinks."""


@dataclass(frozen=True, kw_only=True)
class AttnEntropy(RoiMethod):
    """Sum of the maps of the heads that attend to the image much, and to one spot of it.

    Of all heads from layer 2 on, those count whose attention to the image reaches the elbow of the sorted
    sums; of these the `count` of lowest spatial entropy, those that cover the whole bottom row last. Their
    maps are blurred and added; the region is the largest connected part above the mean.

    Based on arXiv 2503.06287, which chooses the heads once, by how often they are among the best on 1000
    items: give such heads (`vlmbench.roi.heads`) as `heads`. Chosen anew for each image they need no data.

    Parameters: heads, LAYER:HEAD/LAYER:HEAD.., empty to choose; count, how many to choose; give (see
    RoiMethod). Reads last_attention.
    """

    heads: str = ""
    count: int = 3

    def __post_init__(self) -> None:
        """Raises UsageError where heads cannot be read."""
        read_heads(self.heads, NAME)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"last_attention"})

    def layers(self, depth: int) -> tuple[int, ...]:
        if self.heads:
            return tuple(sorted({checked(layer, depth, NAME) for layer, _ in read_heads(self.heads, NAME)}))
        return tuple(range(min(FIRST, depth - 1), depth))

    def map(self, signals: Signals) -> Tensor | None:
        what = "last_attention"
        if self.heads:
            rows = pick(signals.last_attention, read_heads(self.heads, NAME), what, NAME)
            maps = torch.stack([on_grid(row, signals) for row in rows])
        else:
            layers = [
                layer_of(signals.last_attention, layer, what, NAME) for layer in self.layers(signals.depth)
            ]
            every = torch.stack([on_grid(row, signals) for row in torch.cat(layers)])
            maps = every[focused(every, self.count).to(every.device)]
        return on_grid(blur(maps).sum(0).flatten(), signals)

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        shown = signals.shown.view(signals.grid).to(map.device)
        seen = map[shown]
        parts = components((map > seen.mean()) & shown) if len(seen) else []
        box = box_around(parts[0], signals) if parts else None
        return None if box is None else Region(box)


def focused(maps: Tensor, count: int) -> Tensor:
    """Indices of up to `count` of the maps [A, H, W] whose sum reaches the elbow, lowest spatial entropy
    first; those above their mean on all of the bottom row come last, and the lowest index first at a tie."""
    sums = maps.flatten(1).double().sum(1).cpu()
    entropy = spatial_entropy(maps)
    bottom = (maps[:, -1] > maps.mean((1, 2))[:, None]).all(1).cpu()
    entropy = torch.where(bottom, torch.inf, entropy)
    entropy = torch.where(sums >= elbow(sums), entropy, torch.nan)
    order = entropy.argsort(stable=True)
    return order[: min(count, int((~entropy.isnan()).sum()))]
