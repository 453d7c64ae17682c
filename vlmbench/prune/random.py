"""Random: the control that several published methods do not beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.greedy import check_all_finite


@dataclass(frozen=True, kw_only=True)
class Random(Batched):
    """A random subset of the tokens, without replacement.

    The draw follows the seed of image and method alone: the same on every device, and the same under every
    perturbation of the image.

    Control.

    Parameters: ratio, keep, positions (see Pruner); draw, which of many subsets, for the spread over them.
    """

    draw: int = 0

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        return [_drawn(ctx, k).to(ctx.features.device) for ctx, k in zip(contexts, ks, strict=True)]


def _drawn(ctx: Context, k: int) -> Tensor:
    generator = torch.Generator().manual_seed(ctx.seed)
    return torch.randperm(ctx.n, generator=generator)[:k].sort().values
