"""The contract of a pruner: which of one image's visual tokens the language model gets to see.

A method is a frozen dataclass of its parameters that overrides exactly one of

- `score(ctx) -> [N]`: the base keeps the k largest;
- `select(ctx, k) -> [k]`: sorted indices;
- `reduce(ctx, k) -> Reduced`: new tokens, for methods that merge (`merges = True`).

Pure tensors: nothing here knows a model. All methods share one budget, `ratio`, the share of visual tokens
that is removed, or the same as a count, `keep`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from vlmbench.errors import ContractError, NotApplicableError
from vlmbench.prune.alike import alike
from vlmbench.prune.contract import check_needs, check_scores

if TYPE_CHECKING:
    from vlmbench.prune.projector import Projector

Stage = Literal["image", "encoder", "projector", "llm"]
"""Where tokens go: before the encoder (fewer pixels), between encoder and projector, between projector and
language model, or before one of its layers."""

NEEDS = (
    "projector_in",
    "attention",
    "keys",
    "received_attention",
    "middle_attention",
    "last_attention",
    "last_keys",
    "text",
    "clip_relevance",
    "evidence",
    "llm_attention",
    "llm_next_attention",
    "llm_text_attention",
    "llm_keys",
    "llm_inputs",
    "llm_all_inputs",
)
"""What the adapter captures only where a method asks for it."""

ORIGINAL, COMPACT = "original", "compact"
RESELECTED, FROZEN = "reselected", "frozen"


@dataclass(frozen=True, eq=False)
class Inner:
    """What a method inside the language model may look at, in front of its cut before layer k.

    T text tokens: those behind the image, which see it; all of the prompt's where none is behind it.
    Fields that a method did not ask for in `needs` are None, but for `layer`, `layers`, `text` and `norm`.
    """

    layer: int
    """k."""
    layers: int
    """Of the language model."""
    text: Tensor
    """[T, d]: hidden states of the text tokens."""
    norm: Callable[[Tensor], Tensor]
    """The language model's final norm, [.., d] -> [.., d]."""
    attention: Tensor | None = None
    """[N] (`llm_attention`): from the last prompt token in layer k - 1, mean over heads."""
    next_attention: Tensor | None = None
    """[N] (`llm_next_attention`): the same with the queries and keys of layer k itself."""
    text_attention: Tensor | None = None
    """[T, N] (`llm_text_attention`): from each text token in layer k - 1, mean over heads."""
    keys: Tensor | None = None
    """[N, d_k] (`llm_keys`): of layer k - 1, position embeddings applied, heads side by side."""
    text_keys: Tensor | None = None
    """[T, d_k] (`llm_keys`): the text tokens'."""
    inputs: Tensor | None = None
    """[N, d] (`llm_inputs`): what layer 0 received for the visual tokens that are left; for merged ones the
    same weighted sum of it."""
    all_inputs: Tensor | None = None
    """[n, d] (`llm_all_inputs`): what layer 0 received for all n visual tokens of the image, the same at
    every cut."""
    text_inputs: Tensor | None = None
    """[T, d] (`llm_inputs` or `llm_all_inputs`): what layer 0 received for the text tokens."""


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may look at: ONE image of N visual tokens.

    Fields that a method did not ask for in `needs` are None.
    """

    features: Tensor
    """[N, d]: Z, the projector's output, what the language model would receive."""
    grid: Tensor
    """[N, 3] int: tile, row and column of each token; one tile where the image is not cut."""
    projector_in: Tensor | None = None
    """[N, P, c]: X, what the projector receives; P patches of width c make one token."""
    projector: Projector | None = None
    """M: X -> Z, in float32, with its closed form where one is known."""
    attention: Tensor | None = None
    """[N]: attention that a token gets in the encoder layer behind X: in the row of the class token where
    there is one, else the mean over all rows; summed over heads, averaged over a token's patches."""
    keys: Tensor | None = None
    """[N, d_k]: that layer's keys, averaged over heads and over a token's patches."""
    received_attention: Tensor | None = None
    """[N]: as `attention`, but from all rows also where there is a class token, its own among them."""
    middle_attention: Tensor | None = None
    """[N]: as `received_attention`, in the encoder layer at 3/8 of its depth (CLIP's 9 of 24)."""
    last_attention: Tensor | None = None
    """[N]: as `attention`, in the encoder's last layer with its heads joined into one."""
    last_keys: Tensor | None = None
    """[N, d_v]: the last layer's keys, heads side by side, averaged over a token's patches."""
    extra: Tensor | None = None
    """[E, P, c]: encoder outputs that belong to no place of the image (the class token), in X's space."""
    text: Tensor | None = None
    """[T, d]: input embeddings of the question's tokens in the prompt: the item's question as it is shown,
    without options, instruction and template. Where it is unknown (`vlmbench.pruning`), of all text tokens
    behind the last image, or of the whole prompt where none is behind it."""
    relevance: Tensor | None = None
    """[N] (`clip_relevance`): cosine of each token's CLIP patch feature to the question, from the text tower
    of the method's own CLIP checkpoint."""
    evidence: Tensor | None = None
    """[N, b] in [0, 1]: share of each box asked about that each token's cell covers; None where none is
    known."""
    llm: Inner | None = None
    """Only at stage `llm`, where `features` are the hidden states [N, d] in front of the cut."""
    family: str = ""
    """The model's `model_type` (`qwen2_5_vl`), for settings that papers give by family; may be empty."""
    seed: int = 0
    """Of this image and method; the same under every perturbation of the image."""

    @property
    def n(self) -> int:
        return int(self.features.shape[0])

    @property
    def tiles(self) -> int:
        return int(self.grid[:, 0].max()) + 1


@dataclass(frozen=True, eq=False)
class Reduced:
    """New tokens, made of the old ones, in the order in which the language model gets them."""

    features: Tensor
    """[k, P, c] in X's space for stage `encoder` (still to be projected), [k, d] in Z's for `projector`,
    [k, d] hidden states for `llm`."""
    source: Tensor
    """[k] int: the token that a row is an unmerged copy of, -1 where there is none."""
    weights: Tensor
    """[k, N + E]: `features` = weights @ [X; extra] (stage encoder) or weights @ `Context.features` (the
    others, E = 0)."""
    position_from: Tensor
    """[k] int, distinct: the token whose position id a row takes where positions stay `original`; together
    they are also the k placeholders of the prompt that remain."""


@dataclass(frozen=True)
class Cut:
    """Before language-model layer `layer` (>= 1), `keep` visual tokens of an image go on."""

    layer: int
    keep: int


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Base of every method. The class variables say what a method is, the fields how it is set."""

    stage: ClassVar[Stage] = "projector"
    merges: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    """Whether the number of kept tokens follows the image and not the budget alone."""
    averages: ClassVar[bool] = False
    """Of methods that merge: whether all tokens enter plain means, so that none is kept and none dropped."""
    other_image: ClassVar[bool] = False
    """Whether the request is shown another item's image: the engine's business, for a control."""
    text_dependent: ClassVar[bool] = False
    budgeted: ClassVar[bool] = True
    """False for controls that have no budget: identity, blind runs."""

    ratio: float = 0.0
    """Share of the image's visual tokens that is removed, in [0, 1)."""
    keep: int = 0
    """The same budget as a count; 0 leaves it to `ratio`."""
    positions: str = COMPACT
    """Position ids in the language model: the tokens' `original` ones, or renumbered without gaps."""
    mask: str = RESELECTED
    """Under a perturbation: tokens chosen anew, or `frozen`, those at the places of the ones that were chosen
    on the unperturbed input. The engine's business: a method always chooses from what it is given."""

    def __post_init__(self) -> None:
        """Raises ContractError for unknown `needs`; a method with checks of its own calls this too."""
        check_needs(self, NEEDS)

    @property
    def needs(self) -> frozenset[str]:
        """Names out of `NEEDS`."""
        return frozenset()

    def budget(self, n: int) -> int:
        """Tokens kept of `n`: k = max(1, floor((1 - ratio) n + 1/2 + 1e-9)), or `keep`.

        Raises NotApplicableError where the image has fewer tokens than are to be kept.
        """
        if self.keep:
            if self.keep > n:
                raise NotApplicableError(f"keep={self.keep} exceeds the image's {n} visual tokens")
            return self.keep
        return max(1, math.floor((1 - self.ratio) * n + 0.5 + 1e-9))

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        """For stage `llm`: the cuts that reach the budget as an average over the `layers` layers.

        Raises NotApplicableError, naming the smallest reachable share, where no schedule does.
        """
        raise self._lacks("schedule")

    def score(self, ctx: Context) -> Tensor:
        """[N], larger is kept. Raises ItemError for features that are not finite; what calls it does so for
        scores that are not."""
        raise self._lacks("score or select")

    def select(self, ctx: Context, k: int) -> Tensor:
        """Indices [k] of the kept tokens, ascending, no duplicates; 1 <= k <= N."""
        return top_k(self._scores([ctx])[0], k)

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        """`select` for several images; methods that can do them at once override this."""
        if type(self).select is Pruner.select:
            return top_k_many(self._scores(contexts), ks)
        return [self.select(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]

    def reduce(self, ctx: Context, k: int) -> Reduced:
        """For methods that merge: k new tokens; fewer only where `adaptive`."""
        raise self._lacks("reduce")

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        """`reduce` for several images; methods that can do them at once override this."""
        return [self.reduce(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]

    def _scores(self, contexts: Sequence[Context]) -> list[Tensor]:
        scores = [self.score(ctx) for ctx in contexts]
        check_scores(self, scores, [ctx.n for ctx in contexts])
        return scores

    def _lacks(self, what: str) -> ContractError:
        return ContractError(
            f"pruner {type(self).__name__} does not define {what}; see vlmbench/prune/base.py"
        )


@dataclass(frozen=True, kw_only=True)
class Batched(Pruner):
    """Base of methods that do several images at once: they override `select_many` or `reduce_many`."""

    def select(self, ctx: Context, k: int) -> Tensor:
        return self.select_many([ctx], [k])[0]

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        raise self._lacks("select_many")

    def reduce(self, ctx: Context, k: int) -> Reduced:
        return self.reduce_many([ctx], [k])[0]

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        raise self._lacks("reduce_many")


def top_k(score: Tensor, k: int) -> Tensor:
    """Indices [.., k] of the k largest of score [.., N], ascending; the lowest index wins a tie."""
    order = torch.argsort(score, dim=-1, descending=True, stable=True)
    return order[..., :k].sort(-1).values


def top_k_many(scores: Sequence[Tensor], ks: Sequence[int]) -> list[Tensor]:
    """`top_k` of the scores [N] of several images; those of equal N and k are sorted together."""
    found: list[Tensor] = [torch.empty(0)] * len(scores)
    keys = [(score.shape, score.dtype, score.device, k) for score, k in zip(scores, ks, strict=True)]
    for members in alike(keys):
        rows = top_k(torch.stack([scores[i] for i in members]), ks[members[0]])
        for i, row in zip(members, rows, strict=True):
            found[i] = row
    return found
