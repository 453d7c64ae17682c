"""FastV: drops, after the first layers of the language model, the tokens that the prompt attends to least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import ORIGINAL, Context, Cut, Pruner, Stage
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite


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
        if layers <= self.K:
            raise NotApplicableError(
                f"fastv(K={self.K}) needs a language model of more than {self.K} layers:"
                f" this one has {layers}; use a smaller K"
            )
        k = self.budget(n)
        spare = layers * k - self.K * n
        if spare <= 0:
            least = self.K / layers
            raise NotApplicableError(
                f"fastv(K={self.K}) cannot keep {_percent(k / n)} of the tokens averaged over {layers}"
                f" layers: layers before the cut alone are {_percent(least)};"
                f" keep more than {_percent(least)} (ratio below {1 - least:.4g}) or use a smaller K"
            )
        return (Cut(self.K, max(1, math.floor(spare / (layers - self.K) + 0.5))),)

    def score(self, ctx: Context) -> Tensor:
        check_finite(ctx.features, "visual features")
        return given(ctx, "llm_attention", "fastv")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
