"""DART: drops, after the first layers of the language model, the tokens that repeat a few pivots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.alike import alike
from vlmbench.prune.base import ORIGINAL, Batched, Context, Cut, Stage, top_k_many
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite
from vlmbench.prune.schedule import before_layer
from vlmbench.prune.ties import descending


@dataclass(frozen=True, kw_only=True)
class Dart(Batched):
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

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        keys = given_many(contexts, "llm_keys", "dart")
        inners = [ctx.llm for ctx in contexts if ctx.llm is not None]
        text_keys = [inner.text_keys for inner in inners if inner.text_keys is not None]
        check_all_finite(text_keys, "keys of the language model")
        images = top_k_many([_norm(key) for key in keys], [min(self.pivots_image, k) for k in ks])
        texts = top_k_many(
            [_norm(key) for key in text_keys], [min(self.pivots_text, len(key)) for key in text_keys]
        )
        likeness = []
        for ctx, inner, image, text in zip(contexts, inners, images, texts, strict=True):
            states = inner.norm(ctx.features).float()
            pivots = torch.cat([states[image], inner.norm(inner.text[text]).float()])
            likeness.append(_cosine(pivots, states))
        chosen = list(images)
        for members in alike((cosine.shape, k) for cosine, k in zip(likeness, ks, strict=True)):
            rows = self._choose(
                torch.stack([likeness[i] for i in members]),
                torch.stack([images[i] for i in members]),
                ks[members[0]],
            )
            for i, row in zip(members, rows, strict=True):
                chosen[i] = row
        return chosen

    def _choose(self, likeness: Tensor, images: Tensor, k: int) -> Tensor:
        """Indices [B, k], ascending; likeness [B, p, N] of each token to the p pivots, of which `images`
        [B, m] are tokens."""
        batch, pivots, n = likeness.shape
        lowest = descending(-likeness)
        place = torch.arange(n, device=likeness.device)
        free = torch.ones(batch, n, dtype=torch.bool, device=likeness.device).scatter_(1, images, False)
        added: list[Tensor] = []

        def add(row: Tensor, count: int) -> None:
            spare = n - images.shape[1] - sum(each.shape[1] for each in added)
            # the places of the first that are free; there are enough, so n is none of them
            first = torch.where(free.gather(1, row), place, n).topk(min(count, spare), largest=False).values
            added.append(row.gather(1, first))
            free.scatter_(1, added[-1], False)

        for pivot in range(pivots):
            add(lowest[:, pivot], self._each(k))
        while (surplus := images.shape[1] + sum(each.shape[1] for each in added) - k) > 0:
            givers = [i for i in reversed(range(len(added))) if added[i].shape[1]][:surplus]
            added = [each[:, :-1] if i in givers else each for i, each in enumerate(added)]
        for turn in range(-surplus):
            add(lowest[:, turn % pivots], 1)
        return torch.cat([images, *added], dim=1).sort(1).values

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
