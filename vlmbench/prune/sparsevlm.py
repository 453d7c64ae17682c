"""SparseVLM: drops tokens in stages by the attention of chosen words, and recycles part of the dropped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.alike import alike
from vlmbench.prune.base import Batched, Context, Cut, Reduced, Stage
from vlmbench.prune.density_peaks import density_peaks
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import TIE, check_all_finite
from vlmbench.prune.schedule import at_depths, meeting

_DEPTHS = (3 / 32, 7 / 32, 16 / 32)
"""Cuts lie behind layers 2, 6 and 15 of 32, that is before 3, 7 and 16."""

_PUBLISHED = {64: (66, 30, 17), 128: (303, 110, 36), 192: (300, 200, 110)}
"""Budget of 576 tokens -> tokens that each cut keeps, without the recycled ones."""
_OF = 576


@dataclass(frozen=True, kw_only=True)
class SparseVLM(Batched):
    """Visual tokens that the visually relevant words attend to, in three stages, with recycling.

    Raters are the text tokens whose share of softmax over text (V T^T), mean over all of the image's tokens,
    is above the mean; V, T what layer 0 received, so they are the same at every cut. Cuts lie at 3/32, 7/32
    and 16/32 of the language model's depth. Each keeps the tokens with the highest attention from the raters
    in the layer before the cut, mean over raters and heads. Of the n dropped, the s = int(.3 n) + 1 most
    attended are recycled: grouped around int(s / 10) + 1 density peaks, averaged and appended in the order of
    their peaks. A cut's count includes them.

    The paper's keeps for 64, 128 and 192 of 576 tokens, plus what is recycled, are shares of the image's
    tokens; between these budgets, down to 0 and up to all tokens, shares are interpolated linearly. With
    `exact_budget` that point of this line is taken whose average over all layers, recycled tokens
    included, is the budget; without it the budget's own, whose average is 82, 145 and 206.5 for the three
    published ones in 32 layers.

    Based on SparseVLM v1.5 (https://arxiv.org/abs/2410.04417).

    Parameters: ratio, keep, positions (see Pruner); exact_budget. Reads features [N, d], llm.text_attention
    [T, N], llm.all_inputs [n, d] and llm.text_inputs [T, d].
    """

    stage: ClassVar[Stage] = "llm"
    merges: ClassVar[bool] = True
    text_dependent: ClassVar[bool] = True

    exact_budget: bool = True
    """False: the published schedule, whose average is above the budget."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_text_attention", "llm_all_inputs"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        at, k = at_depths("sparsevlm", _DEPTHS, layers), self.budget(n)
        if self.exact_budget:
            return meeting("sparsevlm", n, k, layers, at, shares, "use divprune")
        return tuple(
            Cut(layer, max(1, int(share * n + 0.5))) for layer, share in zip(at, shares(k / n), strict=True)
        )

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        attention = given_many(contexts, "llm_text_attention", "sparsevlm")
        inputs = given_many(contexts, "llm_all_inputs", "sparsevlm")
        inners = [ctx.llm for ctx in contexts if ctx.llm is not None]
        text = [inner.text_inputs for inner in inners if inner.text_inputs is not None]
        if not all(map(len, text)):
            raise NotApplicableError("sparsevlm needs words in the prompt, which has none; use divprune")
        check_all_finite(text, "inputs of the language model")
        scores = [_rated(*of_image) for of_image in zip(attention, inputs, text, strict=True)]
        made: dict[int, Reduced] = {}
        for members in alike((ctx.features.shape, k) for ctx, k in zip(contexts, ks, strict=True)):
            features = [contexts[i].features for i in members]
            score = torch.stack([scores[i] for i in members])
            made |= zip(members, _recycled(features, score, ks[members[0]]), strict=True)
        return [made[i] for i in range(len(contexts))]


def raters(inputs: Tensor, text: Tensor) -> Tensor:
    """[T] bool from [n, d] and [T, d]; all of them where none stands out."""
    relevance = (inputs.float() @ text.float().T).softmax(1).mean(0)
    above = relevance - relevance.mean() > TIE
    return above | ~above.any()


def _rated(attention: Tensor, inputs: Tensor, text: Tensor) -> Tensor:
    """[N]: mean of attention [T, N] over the raters."""
    who = raters(inputs, text)
    # no product of matrices, which may sum equal columns in different orders
    return (attention.float() * who[:, None]).sum(0) / who.sum()


def _recycled(features: Sequence[Tensor], score: Tensor, k: int) -> list[Reduced]:
    """Of B images, each features [N, d] and a row of score [B, N]."""
    images, n = score.shape
    count = kept_of(k, n)
    order = score.argsort(dim=1, descending=True, stable=True)
    kept = own = order[:, :count].sort(1).values
    single = torch.ones_like(kept, dtype=torch.bool)
    weights = score.new_zeros(images, k, n)
    weights[:, :count].scatter_(2, kept[..., None], 1)
    made = [feature[row] for feature, row in zip(features, kept, strict=True)]
    if count < k:
        again = order[:, count : count + recycled_of(n - count)].sort(1).values
        states = [feature[row].float() for feature, row in zip(features, again, strict=True)]
        peaks, member = density_peaks(states, k - count)
        joined = score.new_zeros(images, k - count, again.shape[1]).scatter_(1, member[:, None], 1)
        size = joined.sum(2, keepdim=True)
        weights[:, count:].scatter_(2, again[:, None].expand_as(joined), joined / size)
        own = torch.cat([kept, again.gather(1, peaks)], dim=1)
        single = torch.cat([single, size[..., 0] == 1], dim=1)
        for i, state in enumerate(states):
            made[i] = torch.cat([made[i], (joined[i] @ state / size[i]).to(made[i].dtype)])
    source = torch.where(single, own, -1)
    return list(map(Reduced, made, source, weights, own))


def recycled_of(dropped: int) -> int:
    """Of the dropped tokens, how many are recycled."""
    return 3 * dropped // 10 + 1 if dropped else 0


def clusters_of(dropped: int) -> int:
    """How many tokens the recycled ones become."""
    return recycled_of(dropped) // 10 + 1 if dropped else 0


def kept_of(total: int, n: int) -> int:
    """The largest m with m + clusters_of(n - m) = total; 1 where the clusters alone exceed the total, which
    then leaves fewer of them."""
    return next((m for m in range(total, 1, -1) if m + clusters_of(n - m) == total), 1)


def _totals(keeps: tuple[int, ...]) -> tuple[float, ...]:
    """Shares of the image's tokens that the published keeps let through, with what they recycle."""
    totals = [_OF]
    for keep in keeps:
        totals.append(keep + clusters_of(totals[-1] - keep))
    return tuple(total / _OF for total in totals[1:])


_LINE = (
    (0.0, (0.0, 0.0, 0.0)),
    *((budget / _OF, _totals(keeps)) for budget, keeps in _PUBLISHED.items()),
    (1.0, (1.0, 1.0, 1.0)),
)


def shares(budget: float) -> tuple[float, ...]:
    """Share of the image's tokens in the paper's budget -> shares behind each cut."""
    for (low, below), (high, above) in itertools.pairwise(_LINE):
        if budget <= high:
            part = (budget - low) / (high - low)
            return tuple(a + part * (b - a) for a, b in zip(below, above, strict=True))
    raise ValueError(f"budget must be in [0, 1]: got {budget}")
