"""Inverse RMS: what ZOO-Prune's sensitivity comes down to behind a connector that normalises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vlmbench.prune.base import Context
from vlmbench.prune.given import given_many
from vlmbench.prune.norm import Norm

EPS = 1e-6
"""Added to the mean square, as normalisation layers do."""


@dataclass(frozen=True, kw_only=True)
class InvRms(Norm):
    """1 / RMS of the encoder's output x diversity.

    A connector that normalises its input and then maps it linearly answers to a step of fixed length by
    1 / RMS of what it received, and by nothing else: the ablation that asks whether sensitivity says more in
    the families whose connector begins with a norm. The greedy choice of `norm`, per tile, with the mean of
    1 / RMS over a token's patches; DivPrune's where that is the same within a thousandth.

    Based on ZOO-Prune's selection (https://arxiv.org/abs/2509.24837); the score is this project's control.

    Parameters: ratio, keep, positions (see Pruner). Reads features [N, d] and projector_in [N, P, c].
    """

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in"})

    def sizes(self, contexts: Sequence[Context]) -> list[Tensor]:
        given = given_many(contexts, "projector_in", "inv-rms")
        return [(x.float().square().mean(-1) + EPS).rsqrt().mean(-1) for x in given]
