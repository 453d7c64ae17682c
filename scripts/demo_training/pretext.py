"""Dense vision pretext: every patch says what lies on it and where. The heads are thrown away.

Without it the vision tower learns nothing from one-word answers in any affordable time. The absolute
targets (own position, the object's centre) matter: with offsets alone, position does not survive the
projector and no relation is ever learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_training.views import SIDE
from vlmbench.demo.scenes import COLOURS, SHAPES

PATCH = 12
GRID = SIDE // PATCH
CELLS = PATCH // 2
"""Mask cells (2 pixels) along a patch."""
_SPLIT = (len(COLOURS) + 1, len(SHAPES), 11, 1, 2, 2, 2, 1)
NAMES = ("colour", "shape", "digit", "middle", "offset", "centre", "own", "radius")


@dataclass(frozen=True)
class PatchTruth:
    """Targets per patch, all [n, 144] or [n, 144, k]; `on`: patches of an object, `known`: those to learn."""

    on: Tensor
    known: Tensor
    colour: Tensor
    shape: Tensor
    digit: Tensor
    middle: Tensor
    offset: Tensor
    centre: Tensor
    radius: Tensor
    masks: Tensor


def own_positions(device: torch.device) -> Tensor:
    """Patch middles as x, y in [0, 1]; [144, 2]"""
    line = (torch.arange(GRID, device=device) + 0.5) / GRID
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def patch_truth(objects: Tensor, masks: Tensor) -> PatchTruth:
    """Give each patch the nearest object that covers it. objects [n, 6, 6], masks [n, 2, 72, 72]."""
    spots = own_positions(objects.device) * SIDE
    centre, radius = objects[..., :2], objects[..., 2]
    distance = (spots[None, :, None] - centre[:, None]).norm(dim=-1)
    covered = distance - (1.15 * radius + 4)[:, None]
    covered = covered.masked_fill(radius[:, None] <= 0, 1e4)
    margin, nearest = covered.min(-1)
    on = margin < 0
    chosen = torch.gather(objects, 1, nearest[..., None].expand(-1, -1, objects.shape[-1]))
    inside = ((chosen[..., :2] > 0) & (chosen[..., :2] < SIDE)).all(-1)
    centre = chosen[..., :2] / SIDE
    offset = (chosen[..., :2] - spots) / 48
    n = len(objects)
    cells = masks.reshape(n, 2, GRID, CELLS, GRID, CELLS).permute(0, 2, 4, 1, 3, 5)
    return PatchTruth(
        on=on & inside,
        known=~on | inside,
        colour=torch.where(on, chosen[..., 3].long(), len(COLOURS)),
        shape=chosen[..., 4].long().clamp(min=0),
        digit=torch.where(chosen[..., 5] >= 0, chosen[..., 5].long(), 10),
        middle=((chosen[..., :2] - spots).abs().amax(-1) <= PATCH / 2).float(),
        offset=offset,
        centre=centre,
        radius=chosen[..., 2:3] / 48,
        masks=cells.reshape(n, GRID * GRID, -1).float(),
    )


class PretextHeads(nn.Module):
    """Linear heads on the last layer, on the one before (weight .4) and mask heads on the first two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(_SPLIT)))
        self.early = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(_SPLIT)))
        self.masks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * CELLS * CELLS)) for _ in range(2)
        )

    def forward(self, hidden: tuple[Tensor, ...], truth: PatchTruth) -> tuple[Tensor, dict[str, float]]:
        """hidden: every layer's, [n, 145, width] each, class token first. Returns loss and accuracies."""
        loss, report = patch_loss(self.last(hidden[-1][:, 1:]), truth)
        loss = loss + 0.4 * patch_loss(self.early(hidden[-2][:, 1:]), truth)[0]
        for layer, head in enumerate(self.masks, start=1):
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(head(hidden[layer][:, 1:]), truth.masks)
        return loss, report


def patch_loss(output: Tensor, truth: PatchTruth) -> tuple[Tensor, dict[str, float]]:
    part = dict(zip(NAMES, output.float().split(_SPLIT, -1), strict=True))
    on, known = truth.on, truth.known
    weights = torch.ones(len(COLOURS) + 1, device=output.device)
    weights[-1] = 0.3
    loss = F.cross_entropy(part["colour"][known], truth.colour[known], weights)
    loss = loss + F.cross_entropy(part["shape"][on], truth.shape[on])
    loss = loss + F.cross_entropy(part["digit"][on], truth.digit[on])
    loss = loss + 2 * F.binary_cross_entropy_with_logits(part["middle"][..., 0][on], truth.middle[on])
    for name, target, weight in (("offset", truth.offset, 1.0), ("centre", truth.centre, 4.0),
                                 ("radius", truth.radius, 1.0)):  # fmt: skip
        loss = loss + weight * F.smooth_l1_loss(part[name][on], target[on], beta=0.05)
    own = own_positions(output.device).expand_as(part["own"])
    loss = loss + F.smooth_l1_loss(part["own"], own, beta=0.05)
    with torch.no_grad():
        inked = on & (truth.digit < 10)
        report = {
            "colour": (part["colour"][on].argmax(-1) == truth.colour[on]).float().mean().item(),
            "shape": (part["shape"][on].argmax(-1) == truth.shape[on]).float().mean().item(),
            "digit": (part["digit"][inked].argmax(-1) == truth.digit[inked]).float().mean().item(),
            "centre": (part["centre"][on] - truth.centre[on]).abs().mean().item() * SIDE,
        }
    return loss, report
