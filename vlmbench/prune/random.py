"""Random: the control that several published methods do not beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner
from vlmbench.prune.greedy import check_finite


@dataclass(frozen=True, kw_only=True)
class Random(Pruner):
    """A random subset of the tokens, without replacement.

    The draw follows the seed of image and method alone: the same on every device, and the same under every
    perturbation of the image.

    Control.

    Parameters: ratio, keep, positions (see Pruner); draw, which of many subsets, for the spread over them.
    """

    draw: int = 0

    def select(self, ctx: Context, k: int) -> Tensor:
        check_finite(ctx.features, "visual features")
        generator = torch.Generator().manual_seed(ctx.seed)
        chosen = torch.randperm(ctx.n, generator=generator)[:k].sort().values
        return chosen.to(ctx.features.device)
