"""What a method is given and must answer: checked wherever one is asked, for it may be a third party's.

Unsorted or repeated ids would give the model tokens in the wrong places, silently. Methods are told apart by
`__class__`, which a stand-in of the engine shares with the method behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vlmbench.errors import ContractError, ItemError, did_you_mean

if TYPE_CHECKING:
    from vlmbench.prune.base import Context, Inner, Pruner, Reduced

    Seen = TypeVar("Seen", Context, Inner)

_OWN = "vlmbench."
"""What the modules of methods begin with that are known to write in no tensor they are given."""


def private(pruner: Pruner, contexts: Sequence[Context]) -> Sequence[Context]:
    """The same, with tensors of their own for a method of a third party: encodings are shared by all methods
    of a run, and what one writes in place would change the answers of the others."""
    if pruner.__class__.__module__.startswith(_OWN):
        return contexts
    return [replace(_copied(ctx), llm=None if ctx.llm is None else _copied(ctx.llm)) for ctx in contexts]


def _copied(seen: Seen) -> Seen:
    values = {field.name: getattr(seen, field.name) for field in fields(seen)}
    own: dict[str, Any] = {name: each.clone() for name, each in values.items() if isinstance(each, Tensor)}
    return replace(seen, **own)


def check_needs(pruner: Pruner, known: Collection[str]) -> None:
    """Raises ContractError unless `needs` is a frozenset of known names: others are never captured."""
    who = f"pruner {pruner.__class__.__name__} broke its contract"
    if not isinstance(pruner.needs, frozenset):
        raise ContractError(f"{who}: needs must be a frozenset of names: got {str(pruner.needs)[:80]}")
    unknown = sorted(map(str, pruner.needs - frozenset(known)))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        every = f" known: {', '.join(known)}" if hint.endswith("?") else ""
        raise ContractError(f"{who}: needs names {', '.join(map(repr, unknown))}, unknown{hint}{every}")


def check_scores(pruner: Pruner, scores: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Raises ContractError unless `score` gave each image one number per token, and ItemError where these are
    not finite: sorted, they would keep the first tokens, whatever the image shows."""
    who = f"pruner {pruner.__class__.__name__}"
    for score, n in zip(scores, sizes, strict=True):
        if not isinstance(score, Tensor) or score.shape != (n,):
            got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise ContractError(f"{who} broke its contract: score must return a tensor [{n}]: got {got}")
    finite = [score.isfinite() for score in scores]
    # at once: each bool() waits for the device
    if finite and not bool(torch.cat(finite).all()):
        bad, n = next((int((~each).sum()), len(each)) for each in finite if not bool(each.all()))
        raise ItemError(f"{who}: score is not finite for {bad} of an image's {n} tokens")


def check_selection(pruner: Pruner, indices: Tensor, k: int, n: int) -> None:
    """Raises ContractError unless `indices` of `select` are those of k of n tokens, ascending and distinct;
    an `adaptive` method may choose their number."""
    good = indices.ndim == 1 and len(indices) > 0 and (len(indices) == k or pruner.adaptive)
    # in one expression: each bool() waits for the device
    if not good or bool((indices.diff() <= 0).any() | (indices[0] < 0) | (indices[-1] >= n)):
        raise ContractError(
            f"pruner {pruner.__class__.__name__} broke its contract: select must return {k} indices "
            f"below {n}, ascending and distinct: got {str(indices.tolist())[:80]}"
        )


def check_reduced(pruner: Pruner, reduced: Reduced, k: int, n: int, extra: int = 0) -> None:
    """Raises ContractError unless `reduce` made k tokens of n and `extra` ones, in distinct places of the
    n; an `adaptive` method may make fewer."""
    made, at = len(reduced.features), reduced.position_from
    problem = ""
    if made != k and not (pruner.adaptive and 0 < made < k):
        problem = f"{made} tokens"
    elif reduced.weights.shape != (made, n + extra):
        problem = f"weights of shape {list(reduced.weights.shape)} for {made} x {n + extra}"
    elif reduced.source.shape != (made,) or at.shape != (made,):
        problem = f"{list(reduced.source.shape)} sources and {list(at.shape)} positions for {made} tokens"
    elif made:
        ids = at.sort().values
        if bool((ids.diff() <= 0).any() | (ids[0] < 0) | (ids[-1] >= n)):
            problem = f"position_from {str(at.tolist())[:80]}"
    if problem:
        raise ContractError(
            f"pruner {pruner.__class__.__name__} broke its contract: reduce must return {k} tokens with "
            f"position_from distinct and below {n}, and weights for each token: got {problem}"
        )
