"""Which visual tokens the rows of a batch keep: chosen anew, or frozen as on the unperturbed image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.engine.plan import prune_seeds
from vlmbench.engine.sight import Evidence, Seen, Sight
from vlmbench.errors import NotApplicableError
from vlmbench.models.before import Told
from vlmbench.models.features import ImageFeatures, VisualInput
from vlmbench.models.pruning import Applied, Visual
from vlmbench.prune.base import FROZEN, Pruner

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared


@dataclass(frozen=True, eq=False)
class Choice:
    """What a method does to a batch; one entry per row."""

    applied: Applied
    evidence: tuple[Evidence, ...]
    """What each token sees of the asked region."""
    overlaps: tuple[float | None, ...]
    """Share of what is kept that sees the place of a token kept of the unperturbed image."""


def choose(
    sight: Sight,
    pruner: Pruner | None,
    ready: Sequence[Prepared],
    by_group: Mapping[str, ImageFeatures],
    seed: int,
    newline: str,
) -> Choice:
    """by_group: the encoded pictures, by pixel group; with those of each row's `origin` if it has one."""
    whole = [by_group.get(p.request.pixels_group) for p in ready]
    nothing = (None,) * len(ready)
    if pruner is None:
        return Choice(Applied(tuple(whole)), nothing, nothing)
    told = [sight.told(*pair) for pair in zip(ready, whole, strict=True)]
    evidence = tuple(each.evidence for each in told)

    def apply(
        rows: Sequence[Prepared], features: Sequence[ImageFeatures | None], known: Sequence[Told]
    ) -> Applied:
        seeds = [prune_seeds(p.request, seed) for p in rows]
        return sight.adapter.apply(pruner, [p.row for p in rows], features, seeds, newline, known)

    before = _before(sight, pruner, ready, by_group, apply)
    if pruner.mask == FROZEN:
        return Choice(_frozen(sight, pruner, ready, whole, before), evidence, nothing)
    applied = apply(ready, whole, told)
    overlaps = tuple(
        sight.overlap(old, Seen(p, features, part.keep))
        if old is not None and features is not None and isinstance(part, VisualInput)
        else None
        for old, p, features, part in zip(before, ready, whole, applied.visual, strict=True)
    )
    return Choice(applied, evidence, overlaps)


def _before(
    sight: Sight,
    pruner: Pruner,
    ready: Sequence[Prepared],
    by_group: Mapping[str, ImageFeatures],
    apply: Callable[[Sequence[Prepared], Sequence[ImageFeatures | None], Sequence[Told]], Applied],
) -> list[Seen | None]:
    """What the method keeps of each row's unperturbed image; None where there is none to compare with, or
    where it chooses inside the language model or before the encoder."""
    found: list[Seen | None] = [None] * len(ready)
    rows = [i for i, p in enumerate(ready) if p.origin is not None]
    if not rows or pruner.stage not in {"encoder", "projector"}:
        return found
    origins = [origin for i in rows if (origin := ready[i].origin) is not None]
    whole = [by_group[origin.request.pixels_group] for origin in origins]
    applied = apply(origins, whole, [sight.told(*pair) for pair in zip(origins, whole, strict=True)])
    for i, origin, features, part in zip(rows, origins, whole, applied.visual, strict=True):
        if isinstance(part, VisualInput):
            found[i] = Seen(origin, features, part.keep)
    return found


def _frozen(
    sight: Sight,
    pruner: Pruner,
    ready: Sequence[Prepared],
    whole: Sequence[ImageFeatures | None],
    before: Sequence[Seen | None],
) -> Applied:
    visual: list[Visual] = []
    refused: dict[int, NotApplicableError] = {}
    for row, (prepared, features, old) in enumerate(zip(ready, whole, before, strict=True)):
        part = None
        try:
            if pruner.merges or old is None or features is None:
                raise NotApplicableError(_unfreezable(pruner))
            part = sight.frozen(old, prepared, features)
        except NotApplicableError as reason:
            refused[row] = reason
        visual.append(part)
    return Applied(tuple(visual), pruner.positions, None, refused)


def _unfreezable(pruner: Pruner) -> str:
    if pruner.merges:
        return "a frozen mask is for methods that select: this one makes new tokens"
    if pruner.stage == "llm":
        return "a frozen mask is for methods that choose before the language model"
    return "a frozen mask is for a perturbed image: nothing was chosen on another one"
