"""Identity: keeps all tokens, by the full way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner


@dataclass(frozen=True, kw_only=True)
class Identity(Pruner):
    """All tokens.

    Goes through encoding, selection and the pruned prefill like any method, so that its answers must equal
    the full model's and its time is the cost of the machinery.

    Control.

    Parameters: positions (see Pruner); it has no budget.
    """

    budgeted: ClassVar[bool] = False

    def budget(self, n: int) -> int:
        return n

    def select(self, ctx: Context, k: int) -> Tensor:
        return torch.arange(ctx.n, device=ctx.features.device)
