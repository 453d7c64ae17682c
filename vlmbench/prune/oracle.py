"""Oracle: the tokens of the boxes that the question is about, told by the task, then diversity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import TIE, first_max, greedy, greedy_many, unit_length
from vlmbench.prune.rows import CosineRows
from vlmbench.prune.ties import descending


@dataclass(frozen=True, kw_only=True)
class Oracle(Batched):
    """Tokens that see the boxes asked about, then those that differ most from all kept ones.

    First every token whose cell overlaps one of the item's boxes. Where they are too many, the boxes choose
    in turn: each keeps the token that covers most of it, then each its second, and so on; a token that has
    been kept for another box serves both. The rest of the budget goes to the token farthest (1 - cosine) from
    its nearest kept one, again and again, as in DivPrune. No real method is told the boxes: this is the
    ceiling of any that reads the question, and where it loses answers, it was not the boxes' tokens that were
    missing.

    This project's control; diversity as in DivPrune (https://arxiv.org/abs/2503.02175).

    Parameters: ratio, keep, positions (see Pruner). Reads features [N, d] and evidence [N, b]; an image
    without any, beside another that has the boxes, is DivPrune's.
    """

    text_dependent: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"evidence"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        told = given_many(contexts, "evidence", "oracle")
        evidence = [share.to(ctx.features.device) for ctx, share in zip(contexts, told, strict=True)]
        boxes = max((share.shape[1] for share in evidence), default=0)
        evidence = [pad(share, (0, boxes - share.shape[1])) for share in evidence]  # of boxes that none sees
        some = torch.stack([(share > 0).any() for share in evidence]).tolist()
        seen = [share if any_ else None for share, any_ in zip(evidence, some, strict=True)]
        return greedy_many([ctx.features for ctx in contexts], seen, ks, _boxes_then_diversity)


def _boxes_then_diversity(features: Tensor, evidence: Tensor | None, k: int) -> Tensor:
    """Indices [B, k], ascending; features [B, N, d], evidence [B, N, b], with a token above 0 in each image,
    or None where no image has any."""
    if evidence is None:
        return greedy(features, None, k)
    unit = unit_length(features)
    order, counts = in_turn(evidence)
    steps = _steps_on_cpu if unit.device.type == "cpu" else _steps
    return steps(unit, order, counts.clamp(max=k), k).sort(1).values


def in_turn(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """order [B, N] and counts [B]: the first `counts` of an image's `order` are the tokens that see a box,
    ordered as the boxes choose them in turn; evidence [B, N, b]."""
    sees = evidence.mT > 0
    _, boxes, n = sees.shape
    # -1: a sliver of a box is no tie with nothing
    place = descending(torch.where(sees, evidence.mT, -1.0))
    rank = torch.empty_like(place).scatter_(2, place, torch.arange(n, device=place.device).expand_as(place))
    turn = rank * boxes + torch.arange(boxes, device=place.device)[:, None]
    first = torch.where(sees, turn, n * boxes).amin(1)
    return first.argsort(dim=1, stable=True), sees.any(1).sum(1)


def _steps_on_cpu(unit: Tensor, order: Tensor, counts: Tensor, k: int) -> Tensor:
    """[B, k]: image by image in NumPy, for the reason given at `greedy._steps_on_cpu`."""
    chosen = order[:, :k].clone().numpy()
    tie = np.float32(TIE)
    for image, count in enumerate(counts.tolist()):
        if count == k:
            continue
        region = order[image, :count]
        far = 1 - (unit[image, region] @ unit[image].T).amax(0).numpy()
        far[region.numpy()] = -np.inf
        rows = CosineRows(unit[image])
        for step in range(count, k):
            token = int((far >= far.max() - tie).argmax())
            chosen[image, step] = token
            if step + 1 < k:
                np.minimum(far, 1 - rows.row(token, far), out=far)
                far[token] = -np.inf
    return torch.from_numpy(chosen)


def _steps(unit: Tensor, order: Tensor, counts: Tensor, k: int) -> Tensor:
    """[B, k]: all images at once, on any device."""
    least = int(counts.min())
    chosen = order[:, :k].clone()
    if least == k:
        return chosen
    images = torch.arange(len(unit), device=unit.device)
    place = torch.arange(k, device=unit.device)
    region = place < counts[:, None]
    # rows of an image's region beyond its count repeat its first token, which is always in it
    first = torch.where(region, chosen, order[:, :1])[:, : int(counts.max())]
    nearest = 1 - (unit.gather(1, first[..., None].expand(-1, -1, unit.shape[2])) @ unit.mT).amax(1)
    nearest.scatter_(1, first, -torch.inf)
    for step in range(least, k):
        mine = counts <= step
        token = torch.where(mine, first_max(nearest), chosen[:, step])
        chosen[:, step] = token
        row = 1 - torch.bmm(unit, unit[images, token][:, :, None])[:, :, 0]
        nearest = torch.where(mine[:, None], torch.minimum(nearest, row), nearest)
        nearest.scatter_(1, token[:, None], -torch.inf)
    return chosen
