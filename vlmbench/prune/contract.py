"""What a method's answer must be: checked wherever one is asked, for it may be a third party's.

Unsorted or repeated ids would give the model tokens in the wrong places, silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from vlmbench.errors import ContractError

if TYPE_CHECKING:
    from vlmbench.prune.base import Pruner, Reduced


def check_selection(pruner: Pruner, indices: Tensor, k: int, n: int) -> None:
    """Raises ContractError unless `indices` of `select` are those of k of n tokens, ascending and distinct;
    an `adaptive` method may choose their number."""
    good = indices.ndim == 1 and len(indices) > 0 and (len(indices) == k or pruner.adaptive)
    # in one expression: each bool() waits for the device
    if not good or bool((indices.diff() <= 0).any() | (indices[0] < 0) | (indices[-1] >= n)):
        raise ContractError(
            f"pruner {type(pruner).__name__} broke its contract: select must return {k} indices below {n}, "
            f"ascending and distinct: got {str(indices.tolist())[:80]}"
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
            f"pruner {type(pruner).__name__} broke its contract: reduce must return {k} tokens with "
            f"position_from distinct and below {n}, and weights for each token: got {problem}"
        )
