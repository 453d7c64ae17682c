"""FastV: drops, after the first layers of the language model, the tokens that the prompt attends to least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmbench.prune.base import ORIGINAL, Context, Cut, Pruner, Stage
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.schedule import before_layer


@dataclass(frozen=True, kw_only=True)
class FastV(Pruner):
    """Most attended visual tokens of an early language-model layer.

    The first K layers see every token. Before layer K those stay that the last prompt token attends to most
    in layer K - 1, mean over heads. The budget is the average over all layers: what the first layers spend,
    the later ones save.

    Based on FastV (https://arxiv.org/abs/2403.06764).

    Parameters: ratio, keep, positions (see Pruner); K, the layer before which the cut lies. Reads
    llm.attention [N].
    """

    stage: ClassVar[Stage] = "llm"
    text_dependent: ClassVar[bool] = True

    positions: str = ORIGINAL
    K: int = 2

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_attention"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        return (before_layer(f"fastv(K={self.K})", n, self.budget(n), layers, self.K),)

    def score(self, ctx: Context) -> Tensor:
        check_finite(ctx.features, "visual features")
        return given(ctx, "llm_attention", "fastv")
