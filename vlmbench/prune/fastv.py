"""FastV: drops, after the first layers of the language model, the tokens that the prompt attends to least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vlmbench.prune.base import ORIGINAL, Batched, Context, Cut, Stage, top_k_many
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite
from vlmbench.prune.schedule import before_layer


@dataclass(frozen=True, kw_only=True)
class FastV(Batched):
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

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        return top_k_many(given_many(contexts, "llm_attention", "fastv"), ks)
