"""Which visual tokens the rows of a batch keep: chosen anew, or frozen as on the unperturbed request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vlmbench.engine.frozen import frozen, frozen_inside
from vlmbench.engine.origins import Before, Found, Origins, Shown
from vlmbench.engine.sight import Evidence, Seen, Sight
from vlmbench.errors import NotApplicableError
from vlmbench.models.features import ImageFeatures
from vlmbench.models.pruning import Applied, Visual, entering
from vlmbench.prune.base import FROZEN, Pruner

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared


@dataclass(frozen=True, eq=False)
class Choice:
    """What a method does to a batch; one entry per row."""

    applied: Applied
    evidence: tuple[Evidence, ...]
    """What each token sees of the asked region."""
    before: tuple[Seen | None, ...]
    """What the method kept of the unperturbed request, where there is one to compare with."""


def choose(
    sight: Sight, pruner: Pruner | None, ready: Sequence[Prepared], shown: Shown, origins: Origins
) -> Choice:
    """What `pruner` does to the requests of a batch."""
    whole = shown.features(ready)
    nothing = (None,) * len(ready)
    if pruner is None:
        return Choice(Applied(tuple(map(entering, whole))), nothing, nothing)
    evidence = tuple(sight.told(*pair).evidence for pair in zip(ready, whole, strict=True))
    found = origins.of(sight, pruner, ready, shown)
    if pruner.mask == FROZEN:
        return Choice(_frozen(sight, pruner, ready, whole, found, shown.newline), evidence, nothing)
    before = tuple(each.seen if isinstance(each, Before) else None for each in found)
    return Choice(shown.apply(sight, pruner, ready), evidence, before)


def overlap(
    sight: Sight, before: Seen | None, prepared: Prepared, features: ImageFeatures | None, kept: Tensor | None
) -> float | None:
    """The share of the tokens `kept` [k] that see the place of one kept `before`; None if it is unknown."""
    if before is None or features is None or kept is None:
        return None
    return sight.overlap(before, Seen(prepared, features, kept))


def _frozen(
    sight: Sight,
    pruner: Pruner,
    ready: Sequence[Prepared],
    whole: Sequence[ImageFeatures | None],
    found: Sequence[Found],
    newline: str,
) -> Applied:
    refused = {i: _reason(each) for i, each in enumerate(found) if not isinstance(each, Before)}
    befores = {i: each for i, each in enumerate(found) if isinstance(each, Before)}
    if pruner.stage == "llm":
        applied = frozen_inside(sight, pruner, befores, ready, whole, newline)
        visual = tuple(None if i in refused else part for i, part in enumerate(applied.visual))
        return Applied(visual, applied.positions, applied.inside, {**applied.refused, **refused})
    left: list[Visual] = [None] * len(ready)
    for i, before in befores.items():
        features = whole[i]
        assert features is not None  # what was chosen of the unperturbed image is compared with it
        try:
            left[i] = frozen(sight, pruner, before, ready[i], features, newline)
        except NotApplicableError as reason:
            refused[i] = reason
    return Applied(tuple(left), pruner.positions, None, refused)


def _reason(found: NotApplicableError | None) -> NotApplicableError:
    if found is not None:
        return found
    return NotApplicableError("a frozen mask is for a perturbed request: nothing was chosen on another one")
