"""Swapped: what the model answers when it sees another item's image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner


@dataclass(frozen=True, kw_only=True)
class Swapped(Pruner):
    """All tokens of another item's image; the engine chooses that image.

    The second blind control: the prompt keeps its length and the visual tokens look like any others, but say
    nothing about the question.

    Control.

    It has no parameter and no budget.
    """

    budgeted: ClassVar[bool] = False
    other_image: ClassVar[bool] = True

    def budget(self, n: int) -> int:
        return n

    def select(self, ctx: Context, k: int) -> Tensor:
        return torch.arange(ctx.n, device=ctx.features.device)
