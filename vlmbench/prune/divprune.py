"""DivPrune: the tokens that differ most from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlmbench.prune.base import Context, Pruner
from vlmbench.prune.greedy import greedy_many


@dataclass(frozen=True, kw_only=True)
class DivPrune(Pruner):
    """Max-min diversity of the projected features.

    Starts with the token farthest from its nearest other one, then adds the token farthest from all chosen
    ones; far in 1 - cosine. Nothing says how much a token matters: only redundancy is removed. Tokens of all
    tiles of an image compete.

    Based on DivPrune (https://arxiv.org/abs/2503.02175).

    Parameters: ratio, keep, positions (see Pruner). Reads features [N, d].
    """

    def select(self, ctx: Context, k: int) -> Tensor:
        return self.select_many([ctx], [k])[0]

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        return greedy_many([ctx.features for ctx in contexts], [None] * len(contexts), ks)
