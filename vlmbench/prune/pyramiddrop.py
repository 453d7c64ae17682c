"""PyramidDrop: drops tokens in stages, more of them the deeper the language model has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmbench.prune.base import Context, Cut, Pruner, Stage
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.schedule import at_depths, meeting


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(Pruner):
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

    def score(self, ctx: Context) -> Tensor:
        check_finite(ctx.features, "visual features")
        return given(ctx, "llm_next_attention", "pyramiddrop")


def _shares(factor: float) -> tuple[float, float, float]:
    return factor, factor**2, factor**3
