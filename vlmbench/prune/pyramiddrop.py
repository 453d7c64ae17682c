"""PyramidDrop: drops tokens in stages, more of them the deeper the language model has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmbench.prune.base import Batched, Context, Cut, Stage, top_k_many
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite
from vlmbench.prune.schedule import at_depths, meeting


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(Batched):
    """Most attended visual tokens in three stages, a geometric series of them.

    Cuts lie at a quarter, a half and three quarters of the language model's depth (before layers 8, 16 and
    24 of 32). Each keeps the tokens that the last prompt token attends to most with the queries and keys of
    the layer that comes next, mean over heads, in raster order. The cuts keep shares f, f^2 and f^3 of the
    image's tokens, f in (0, 1] such that the average over all layers is the budget: f = 1/2, the paper's,
    is 270 of 576. A quarter of the layers sees every token, so no budget up to 25 % is reachable.

    Based on PyramidDrop (https://arxiv.org/abs/2410.17247).

    Parameters: ratio, keep, positions (see Pruner). Reads llm.next_attention [N].
    """

    stage: ClassVar[Stage] = "llm"
    text_dependent: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_next_attention"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        at = at_depths("pyramiddrop", (1 / 4, 1 / 2, 3 / 4), layers)
        return meeting("pyramiddrop", n, self.budget(n), layers, at, _shares, "use divprune")

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        return top_k_many(given_many(contexts, "llm_next_attention", "pyramiddrop"), ks)


def _shares(factor: float) -> tuple[float, float, float]:
    return factor, factor**2, factor**3
