"""What a method does to the unperturbed requests behind a batch: the tokens it keeps, and how at each cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from vlmbench.engine.plan import prune_seeds
from vlmbench.engine.recorder import Recorder
from vlmbench.engine.sight import Seen, Sight
from vlmbench.errors import NotApplicableError
from vlmbench.models.features import EncoderOutput, ImageFeatures, VisualInput
from vlmbench.models.inside_left import without_features
from vlmbench.prune.base import FROZEN, RESELECTED, Pruner, Reduced

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared
    from vlmbench.models.pruning import Applied

Said = Mapping[int, Tensor | Reduced]
"""Layer -> a selection, or what was merged, from the tokens of one image in front of it; 0 is in front of the
language model."""


@dataclass(frozen=True, eq=False)
class Before:
    """An unperturbed request, and what a method did to it."""

    seen: Seen
    said: tuple[Said, ...] = ()
    """Of each image; empty where the kept tokens tell everything."""


Found = Before | NotApplicableError | None
"""None without an unperturbed request, or where the method chooses no tokens; the reason where it cannot
serve that request."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What the rows of a batch are shown."""

    by_group: Mapping[str, ImageFeatures]
    """The encoded pictures, by pixel group; with those of each row's `origin` if it has one."""
    encoded: EncoderOutput | None
    rows: int
    """Of the batch, filled up."""
    seed: int
    """The run's."""
    newline: str

    def features(self, ready: Sequence[Prepared]) -> list[ImageFeatures | None]:
        return [self.by_group.get(p.group) for p in ready]

    def apply(self, sight: Sight, pruner: Pruner, ready: Sequence[Prepared]) -> Applied:
        """The method on what these requests are shown."""
        whole = self.features(ready)
        told = [sight.told(*pair) for pair in zip(ready, whole, strict=True)]
        seeds = [prune_seeds(p.request, self.seed, len(p.pixels.images)) for p in ready]
        return sight.adapter.apply(pruner, [p.row for p in ready], whole, seeds, self.newline, told)


@dataclass(frozen=True, eq=False)
class Origins:
    """Remembers the last batch that was read by the language model: the same serves the tokens chosen anew
    and the frozen ones, which follow one another."""

    memo: OrderedDict[Any, dict[Any, Found]] = field(default_factory=OrderedDict, repr=False)

    def of(self, sight: Sight, pruner: Pruner, ready: Sequence[Prepared], shown: Shown) -> list[Found]:
        """Of each row."""
        distinct = {_key(p.origin): p.origin for p in ready if p.origin is not None}
        if not distinct or pruner.stage == "image" or not pruner.budgeted:  # which choose no tokens
            return [None] * len(ready)
        origins = list(distinct.values())
        found: Mapping[Any, Found]
        if pruner.stage == "llm":
            # the rows of the reading are fixed, so that what is remembered is what would be read again
            key = replace(pruner, mask=RESELECTED), tuple(distinct), shown.rows
            if key not in self.memo:
                self.memo.clear()
                self.memo[key] = dict(zip(distinct, _read(sight, pruner, origins, shown), strict=True))
            found = self.memo[key]
        elif pruner.merges and pruner.mask == FROZEN:
            found = {k: _merged(sight, pruner, p, shown) for k, p in distinct.items()}
        else:
            found = dict(zip(distinct, _selected(sight, pruner, origins, shown), strict=True))
        return [None if p.origin is None else found[_key(p.origin)] for p in ready]


def _key(origin: Prepared | None) -> Any:
    return origin and (
        origin.request.task,
        origin.request.item.id,
        origin.prompt_hash,
        origin.request.pixels_group,
    )


def _selected(sight: Sight, pruner: Pruner, origins: Sequence[Prepared], shown: Shown) -> list[Found]:
    """Before the language model."""
    applied = shown.apply(sight, pruner, origins)
    return [
        _before(origin, features, part.keep) if isinstance(part, VisualInput) else applied.refused.get(i)
        for i, (origin, features, part) in enumerate(
            zip(origins, shown.features(origins), applied.visual, strict=True)
        )
    ]


def _merged(sight: Sight, pruner: Pruner, origin: Prepared, shown: Shown) -> Found:
    """The same with the weights of what is merged."""
    recorder = Recorder(pruner)
    (found,) = _selected(sight, cast("Pruner", recorder), [origin], shown)
    if not isinstance(found, Before):
        return found
    return replace(found, said=tuple({0: without_features(made)} for _, _, made in recorder.reduced))


def _read(sight: Sight, pruner: Pruner, origins: Sequence[Prepared], shown: Shown) -> list[Found]:
    """Inside the language model, which reads the prompts as one batch of fixed rows."""
    applied = shown.apply(sight, pruner, origins)
    found: list[Found] = [applied.refused.get(i) for i in range(len(origins))]
    going = [i for i, reason in enumerate(found) if reason is None]
    if not going:
        return found
    filled = [*going, *[going[-1]] * (shown.rows - len(going))]
    taken = applied.take(filled)
    log = sight.adapter.read([origins[i].row for i in filled], shown.encoded, taken)
    assert taken.inside is not None
    whole = shown.features(origins)
    for row, i in enumerate(going):
        part = applied.visual[i]
        if part is not None:
            kept = taken.inside.kept(log, row, part)
            found[i] = replace(_before(origins[i], whole[i], kept), said=tuple(log.said[row]))
    return found


def _before(origin: Prepared, features: ImageFeatures | None, kept: Tensor) -> Before:
    assert features is not None
    return Before(Seen(origin, features, kept))
