"""FasterVLM: keeps the tokens that the vision encoder's class token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.prune.base import Context, Pruner, top_k
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.tiles import tile_shares


@dataclass(frozen=True, kw_only=True)
class FasterVLM(Pruner):
    """The k tokens with the largest encoder attention.

    Attention of the class token in the encoder layer in front of the projector; of all tokens where there is
    no class token. Each tile gets an equal share of the budget. Choosing at the encoder's output keeps the
    same projected tokens as choosing behind a projector that works token by token, so the stage is
    `projector`.

    Based on FasterVLM (https://arxiv.org/abs/2412.01818v1).

    Parameters: ratio, keep, positions (see Pruner). Reads attention [N] and grid [N, 3].
    """

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention"})

    def select(self, ctx: Context, k: int) -> Tensor:
        attention = given(ctx, "attention", "fastervlm")
        check_finite(ctx.features, "visual features")
        kept = [members[top_k(attention[members], share)] for members, share in tile_shares(ctx, k)]
        return torch.cat(kept).sort().values
