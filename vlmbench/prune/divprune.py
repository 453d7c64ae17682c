"""DivPrune: the tokens that differ most from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.centred import centred
from vlmbench.prune.given import given
from vlmbench.prune.greedy import greedy_many


@dataclass(frozen=True, kw_only=True)
class DivPrune(Batched):
    """Max-min diversity of the projected features.

    Starts with the token farthest from its nearest other one, then adds the token farthest from all chosen
    ones; far in 1 - cosine. Nothing says how much a token matters: only redundancy is removed. Tokens of all
    tiles of an image compete.

    Based on DivPrune (https://arxiv.org/abs/2503.02175).

    Parameters: ratio, keep, positions (see Pruner); cen. Reads features [N, d], with cen also projector_in
    [N, P, c].
    """

    cen: bool = False
    """The plug-in of `prune.centred`: centred features, and distance x unusualness."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in"} if self.cen else ())

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        if not self.cen:
            return greedy_many([ctx.features for ctx in contexts], [None] * len(contexts), ks)
        method = "divprune(cen=true)"
        pairs = [centred(ctx.features, None, given(ctx, "projector_in", method)) for ctx in contexts]
        return greedy_many([f for f, _ in pairs], [s for _, s in pairs], ks)
