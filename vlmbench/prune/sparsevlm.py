"""SparseVLM: drops tokens in stages by the attention of chosen words, and recycles part of the dropped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import Context, Cut, Pruner, Reduced, Stage, top_k
from vlmbench.prune.density_peaks import density_peaks
from vlmbench.prune.given import given
from vlmbench.prune.greedy import TIE, check_finite
from vlmbench.prune.schedule import at_depths, meeting

_DEPTHS = (3 / 32, 7 / 32, 16 / 32)
"""Cuts lie behind layers 2, 6 and 15 of 32, that is before 3, 7 and 16."""

_PUBLISHED = {64: (66, 30, 17), 128: (303, 110, 36), 192: (300, 200, 110)}
"""Budget of 576 tokens -> tokens that each cut keeps, without the recycled ones."""
_OF = 576


@dataclass(frozen=True, kw_only=True)
class SparseVLM(Pruner):
    """Visual tokens that the visually relevant words attend to, in three stages, with recycling.

    Raters are the text tokens whose share of softmax over text (V T^T), mean over the image's tokens, is
    above the mean; V, T what layer 0 received. Cuts lie at 3/32, 7/32 and 16/32 of the language model's
    depth. Each keeps the tokens with the highest attention from the raters in the layer before the cut, mean
    over raters and heads. Of the n dropped, the s = int(.3 n) + 1 most attended are recycled: grouped around
    int(s / 10) + 1 density peaks, averaged and appended in the order of their peaks. A cut's count includes
    them.

    The paper's keeps for 64, 128 and 192 of 576 tokens, plus what is recycled, are shares of the image's
    tokens; between these budgets, down to 0 and up to all tokens, shares are interpolated linearly. With
    `exact_budget` that point of this line is taken whose average over all layers, recycled tokens
    included, is the budget; without it the budget's own, whose average is 82, 145 and 206.5 for the three
    published ones in 32 layers.

    Based on SparseVLM v1.5 (https://arxiv.org/abs/2410.04417). There raters are chosen once, before the first
    layer; here at every cut, by the tokens that are left.

    Parameters: ratio, keep, positions (see Pruner); exact_budget. Reads features [N, d], llm.text_attention
    [T, N], llm.inputs [N, d] and llm.text_inputs [T, d].
    """

    stage: ClassVar[Stage] = "llm"
    merges: ClassVar[bool] = True
    text_dependent: ClassVar[bool] = True

    exact_budget: bool = True
    """False: the published schedule, whose average is above the budget."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_text_attention", "llm_inputs"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        at, k = at_depths("sparsevlm", _DEPTHS, layers), self.budget(n)
        if self.exact_budget:
            return meeting("sparsevlm", n, k, layers, at, shares, "use divprune")
        return tuple(
            Cut(layer, max(1, int(share * n + 0.5))) for layer, share in zip(at, shares(k / n), strict=True)
        )

    def reduce(self, ctx: Context, k: int) -> Reduced:
        check_finite(ctx.features, "visual features")
        attention = given(ctx, "llm_text_attention", "sparsevlm").float()
        inputs, inner = given(ctx, "llm_inputs", "sparsevlm"), ctx.llm
        assert inner is not None  # `given` has seen it
        assert inner.text_inputs is not None
        if not len(attention):
            raise NotApplicableError("sparsevlm needs words in the prompt, which has none; use divprune")
        check_finite(inner.text_inputs, "inputs of the language model")
        score = attention[raters(inputs, inner.text_inputs)].mean(0)
        count = kept_of(k, ctx.n)
        kept = top_k(score, count)
        weights = score.new_zeros(k, ctx.n)
        weights[torch.arange(count, device=kept.device), kept] = 1
        if count == k:
            return Reduced(ctx.features[kept], source=kept, weights=weights, position_from=kept)
        left = torch.ones(ctx.n, dtype=torch.bool, device=kept.device)
        left[kept] = False
        dropped = left.nonzero()[:, 0]
        again = dropped[top_k(score[dropped], recycled_of(ctx.n - count))]
        states = ctx.features[again].float()
        peaks, member = density_peaks(states, k - count)
        size = torch.bincount(member, minlength=k - count)
        means = torch.zeros_like(states[peaks]).index_add(0, member, states) / size[:, None]
        weights[count + member, again] = 1 / size[member]
        own = torch.cat([kept, again[peaks]])
        single = torch.cat([torch.ones_like(kept), size]) == 1
        return Reduced(
            features=torch.cat([ctx.features[kept], means.to(ctx.features.dtype)]),
            source=torch.where(single, own, -1),
            weights=weights,
            position_from=own,
        )


def raters(inputs: Tensor, text: Tensor) -> Tensor:
    """[T] bool from [N, d] and [T, d]; all of them where none stands out."""
    relevance = (inputs.float() @ text.float().T).softmax(1).mean(0)
    above = relevance - relevance.mean() > TIE
    return above if bool(above.any()) else torch.ones_like(above)


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
