"""DART: drops, after the first layers of the language model, the tokens that repeat a few pivots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import ORIGINAL, Context, Cut, Pruner, Stage, top_k
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite
from vlmbench.prune.schedule import before_layer
from vlmbench.prune.ties import descending


@dataclass(frozen=True, kw_only=True)
class Dart(Pruner):
    """Visual tokens least like a few pivots, before an early language-model layer.

    Pivots are the image's and the text's tokens with the largest L1 norm of keys in layer K - 1. In order of
    the sequence, each pivot adds the b // pivots tokens of lowest cosine to it that nobody has added, b the
    cut's count; cosines of hidden states behind the language model's final norm. The image's pivots stay
    too, so the paper keeps another number than b: pivots_image + pivots * (b // pivots), 132 for 128. With
    `exact_budget` it is b: where there are too many, the last pivots give back one token each, their highest
    cosine; where there are too few, the pivots in turn add their next lowest. The budget is the average over
    all layers, as FastV's.

    Based on DART (https://arxiv.org/abs/2502.11494).

    Parameters: ratio, keep, positions (see Pruner); K, pivots_image, pivots_text, exact_budget. Reads
    features [N, d], llm.keys [N, d_k], llm.text_keys [T, d_k], llm.text [T, d] and llm.norm.
    """

    stage: ClassVar[Stage] = "llm"
    text_dependent: ClassVar[bool] = True

    positions: str = ORIGINAL
    K: int = 2
    """The cut lies before this layer."""
    pivots_image: int = 4
    pivots_text: int = 4
    """All of the text tokens where there are fewer."""
    exact_budget: bool = True
    """False: as many as the paper's rule keeps."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_keys"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        cut = before_layer(f"dart(K={self.K})", n, self.budget(n), layers, self.K)
        if self.exact_budget:
            return (cut,)
        pivots = self.pivots_image + self.pivots_text
        return (Cut(self.K, min(n, self.pivots_image + pivots * (cut.keep // pivots))),)

    def select(self, ctx: Context, k: int) -> Tensor:
        check_finite(ctx.features, "visual features")
        keys, inner = given(ctx, "llm_keys", "dart"), ctx.llm
        assert inner is not None  # `given` has seen it
        assert inner.text_keys is not None
        check_finite(inner.text_keys, "keys of the language model")
        images = top_k(_norm(keys), min(self.pivots_image, k))
        texts = top_k(_norm(inner.text_keys), min(self.pivots_text, len(inner.text_keys)))
        states = inner.norm(ctx.features).float()
        pivots = torch.cat([states[images], inner.norm(inner.text[texts]).float()])
        lowest = descending(-_cosine(pivots, states))
        free = torch.ones(ctx.n, dtype=torch.bool, device=states.device)
        free[images] = False
        added: list[Tensor] = []

        def add(row: Tensor, count: int) -> None:
            added.append(row[free[row]][:count])
            free[added[-1]] = False

        for row in lowest:
            add(row, self._each(k))
        while (surplus := len(images) + sum(map(len, added)) - k) > 0:
            givers = [i for i in reversed(range(len(added))) if len(added[i])][:surplus]
            added = [a[:-1] if i in givers else a for i, a in enumerate(added)]
        for turn in range(-surplus):
            add(lowest[turn % len(lowest)], 1)
        return torch.cat([images, *added]).sort().values

    def _each(self, k: int) -> int:
        """Tokens that a pivot adds, of k that are kept."""
        pivots = self.pivots_image + self.pivots_text
        return (k if self.exact_budget else max(0, k - self.pivots_image)) // pivots


def _norm(keys: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(keys.float(), 1, dim=-1)
    return norm


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """[p, d], [N, d] -> [p, N]; a zero vector has cosine 0 to all."""
    lengths = [torch.linalg.vector_norm(x, dim=-1).clamp(min=1e-12) for x in (a, b)]
    cosine: Tensor = (a / lengths[0][:, None]) @ b.T / lengths[1]
    return cosine
