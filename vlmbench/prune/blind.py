"""Blind: what the model answers without seeing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner


@dataclass(frozen=True, kw_only=True)
class Blind(Pruner):
    """No visual token at all.

    What it still answers comes from the question alone; retention above blind leaves that out.

    Control.

    It has no parameter and no budget.
    """

    budgeted: ClassVar[bool] = False

    def budget(self, n: int) -> int:
        return 0

    def select(self, ctx: Context, k: int) -> Tensor:
        return torch.empty(0, dtype=torch.long, device=ctx.features.device)
