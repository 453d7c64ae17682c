"""The threshold of a network, and how good its maps are, on questions that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlmbench.prune.greedy import TIE, first_max
from vlmbench.roi.distilling.showing import shown_cells
from vlmbench.roi.distilling.teacher import Pointing, points
from vlmbench.roi.labels import FOREGROUND
from vlmbench.roi.spatial import blur

if TYPE_CHECKING:
    from vlmbench.roi.distilling.states import Lessons, Part

TAUS = tuple(i / 100 for i in range(1, 100))
"""Thresholds that are tried."""

Add = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes, in each."""


@dataclass(frozen=True)
class Quality:
    """Of the maps of some questions."""

    tau: float
    """The threshold of largest mean IoU, the lowest of equal ones."""
    iou: float
    """Mean over the questions, at that threshold, of predicted mask and foreground of the labels."""
    pointing: tuple[Pointing, ...] = ()
    """Per question, held against boxes where they are known; of this process's share."""


@torch.no_grad()
def measure(
    network: nn.Module, lessons: Lessons, parts: Sequence[Part], add: Add, told: bool = False
) -> Quality:
    """Over this process's `parts` and, by way of `add`, those of the others.

    told: whether the maps are held against boxes too, also of questions without labels.
    """
    device = next(network.parameters()).device
    total = torch.zeros(len(TAUS) + 1, dtype=torch.float64, device=device)
    pointing: list[Pointing] = []
    for part in parts:
        views = lessons.seen(part).views
        for i, view, logits in zip(part, views, lessons.logits(network, part), strict=True):
            shown = shown_cells(view)
            map = torch.where(shown, torch.sigmoid(logits).cpu(), 0.0)
            lesson = lessons.lessons[i]
            if lesson.cells:
                total[:-1] += mask_iou(map, lesson.labels == FOREGROUND, shown).to(device)
                total[-1] += 1
            if told:
                pointing.append(points(map, lesson.item.boxes, view))
    total = add(total).cpu()
    mean = total[:-1] / total[-1].clamp(min=1)
    best = int(first_max(mean, TIE))
    return Quality(TAUS[best], float(mean[best]), tuple(pointing))


def mask_iou(map: Tensor, foreground: Tensor, shown: Tensor) -> Tensor:
    """[T] float64: at each of `TAUS`, intersection over union of foreground [H, W] bool and the tokens where
    the blurred map [H, W] exceeds it; as `roi.regions` cuts it, but for its rules for components."""
    taus = torch.tensor(TAUS, dtype=torch.float32)
    predicted = (blur(map)[None] > taus[:, None, None]) & shown
    both = (predicted & foreground).sum((1, 2))
    either = (predicted | foreground).sum((1, 2))
    return both.double() / either.clamp(min=1)


def mean_of(values: Sequence[Pointing]) -> dict[str, float | int | None]:
    """Means over the questions with boxes, and how many these are."""
    hits = [each.pointing for each in values if each.pointing is not None]
    areas = [each.auroc for each in values if each.auroc is not None]
    return {
        "n": len(hits),
        "pointing": round(sum(hits) / len(hits), 6) if hits else None,
        "auroc": round(sum(areas) / len(areas), 6) if areas else None,
    }
