"""A method that repeats, on a perturbed request, what it said of the unperturbed one.

A selection is moved token by token to the same places of the source, a later cut within what the earlier one
left. What is merged keeps its weights, which move with the tokens that they weigh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vlmbench.engine.origins import Before, Said
from vlmbench.errors import NotApplicableError
from vlmbench.models.pruning import Applied, Inside, Visual
from vlmbench.prune.base import Context, Cut, Pruner, Reduced

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared
    from vlmbench.engine.sight import Sight
    from vlmbench.models.features import ImageFeatures, ImageTokens


def frozen(
    sight: Sight, pruner: Pruner, before: Before, prepared: Prepared, features: ImageFeatures, newline: str
) -> Visual:
    """What a method before the language model leaves. Raises NotApplicableError where that cannot be told."""
    if not pruner.merges:
        return sight.frozen(before.seen, prepared, features)
    said = moved_images(sight, before, prepared, features, _without_newlines)
    seeds = tuple(range(len(said)))
    again = replay(pruner, dict(zip(seeds, said, strict=True)))
    applied = sight.adapter.apply(again, [prepared.row], [features], [seeds], newline)
    return applied.served().visual[0]


def frozen_inside(
    sight: Sight,
    pruner: Pruner,
    befores: Mapping[int, Before],
    ready: Sequence[Prepared],
    whole: Sequence[ImageFeatures | None],
    newline: str,
) -> Applied:
    """The same inside the language model, for the rows that `befores` knows; the others are refused."""
    inside = Inside(pruner, (), newline)
    said: dict[int, Said] = {}
    seeds: list[tuple[int, ...]] = []
    refused: dict[int, NotApplicableError] = {}
    for row, (prepared, features) in enumerate(zip(ready, whole, strict=True)):
        own: Sequence[Said] = ()
        if row in befores and features is not None:
            try:
                own = moved_images(sight, befores[row], prepared, features, inside.tokens)
            except NotApplicableError as reason:
                refused[row] = reason
        # a seed is all that a method is told of whose image it sees
        seeds.append(tuple(range(len(said), len(said) + len(own))))
        said |= dict(zip(seeds[-1], own, strict=True))
    visual = tuple(None if row in refused else inside.enters(part) for row, part in enumerate(whole))
    return Applied(visual, pruner.positions, Inside(replay(pruner, said), seeds, newline), refused)


def moved_images(
    sight: Sight,
    before: Before,
    prepared: Prepared,
    features: ImageFeatures,
    tokens: Callable[[ImageTokens], Tensor],
) -> list[Said]:
    """What was said of each image, moved to the places of a perturbed one's tokens. `tokens`: which of the
    request's a method sees of an image, [n] ascending. Raises NotApplicableError."""
    found = []
    for old, new, said in zip(before.seen.features.images, features.images, before.said, strict=True):
        own, target = tokens(old), tokens(new)
        if not said:
            found.append(said)
            continue
        first = said[min(said)]
        to = torch.full((len(own),), -1)
        if isinstance(first, Reduced):
            # what is only weighed needs no place of its own: several may lend their weight to one token
            to = _among(target, sight.moved(before.seen, own, prepared, features, distinct=False))
        asked = (first.position_from if isinstance(first, Reduced) else first).cpu()
        to[asked] = _among(target, sight.moved(before.seen, own[asked], prepared, features))
        found.append(moved(said, to, len(target)))
    return found


def _among(target: Tensor, there: Tensor) -> Tensor:
    """[k]: where the request's tokens `there` stand among those of an image, `target` [n]."""
    at = torch.searchsorted(target, there).clamp(max=len(target) - 1)
    if not bool((target[at] == there).all()):
        raise NotApplicableError("a frozen mask needs a place for each image token in the perturbed image")
    return at


def _without_newlines(image: ImageTokens) -> Tensor:
    return image.start + (image.grid[:, 1].cpu() >= 0).nonzero()[:, 0]


def moved(said: Said, to: Tensor, m: int) -> Said:
    """What was said of n tokens, for others: token i is to[i] of those m; `to` [n] may hold anything for what
    is neither kept nor weighed. Raises NotApplicableError where made tokens would share a place."""
    found: dict[int, Tensor | Reduced] = {}
    for layer in sorted(said):
        answer = said[layer]
        if isinstance(answer, Reduced):
            found[layer], to = _moved_weights(answer, to, m)
        else:
            there = to[answer.cpu()]
            found[layer] = kept = torch.unique(there)
            to = torch.searchsorted(kept, there)
        m = len(to) if isinstance(answer, Reduced) else len(kept)
    return found


def _moved_weights(answer: Reduced, to: Tensor, m: int) -> tuple[Reduced, Tensor]:
    """The same weights on other tokens, and [k] where each row went.

    Rows that stood in the order of their places do so again.
    """
    weights, old = answer.weights.cpu(), answer.position_from.cpu()
    places, n = to[old], len(to)
    if len(torch.unique(places)) < len(places):
        raise NotApplicableError(
            "a frozen mask needs a place in the perturbed image for each token made of the unperturbed one"
        )
    extra = weights[:, n:].any(1)
    breaks = (old.diff() < 0) | extra[1:] | extra[:-1]
    run = torch.cat([breaks.new_zeros(1), breaks])[: len(old)].cumsum(0)
    order = places.argsort(stable=True)
    order = order[run[order].argsort(stable=True)]
    columns = torch.cat([to, torch.arange(m, m + weights.shape[1] - n)])
    there = weights.new_zeros(len(weights), m + weights.shape[1] - n).index_add_(1, columns, weights)
    source = answer.source.cpu()
    source = torch.where(source < 0, -1, to[source.clamp(min=0)])
    made = Reduced(answer.features[:0], source[order], there[order], places[order])
    return made, order.argsort()


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay(Pruner):
    """Says what was said before, of each image by its seed and of each cut by its layer."""

    adaptive = True
    text_dependent = True  # rows differ in more than in the picture

    pruner: Pruner
    said: Mapping[int, Said]

    def budget(self, n: int) -> int:
        answers = [answer for said in self.said.values() for answer in said.values()]
        made = [len(answer.weights) for answer in answers if isinstance(answer, Reduced)]
        return min(n, max([self.pruner.budget(n), *made]))

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        return tuple(Cut(layer, n) for layer in sorted({k for said in self.said.values() for k in said}))

    def select(self, ctx: Context, k: int) -> Tensor:
        chosen = self._of(ctx)
        assert chosen is None or isinstance(chosen, Tensor)
        return torch.arange(ctx.n) if chosen is None else chosen

    def reduce(self, ctx: Context, k: int) -> Reduced:
        made = self._of(ctx)
        device = ctx.features.device
        if made is None:
            every = torch.arange(ctx.n, device=device)
            return Reduced(ctx.features, every, torch.eye(ctx.n, device=device), every)
        assert isinstance(made, Reduced)
        rows = ctx.features
        if self.stage == "encoder":
            assert ctx.projector_in is not None
            rows = ctx.projector_in if ctx.extra is None else torch.cat([ctx.projector_in, ctx.extra])
        weights = made.weights.to(device)
        if weights.shape[1] > len(rows):
            raise NotApplicableError("a frozen mask needs the tiles that the unperturbed image is cut into")
        weights = torch.nn.functional.pad(weights, (0, len(rows) - weights.shape[1]))
        mixed = (weights @ rows.flatten(1).float()).to(rows.dtype).view(-1, *rows.shape[1:])
        return Reduced(mixed, made.source.to(device), weights, made.position_from.to(device))

    def _of(self, ctx: Context) -> Tensor | Reduced | None:
        return self.said[ctx.seed].get(0 if ctx.llm is None else ctx.llm.layer)


def replay(pruner: Pruner, said: Mapping[int, Said]) -> Replay:
    """`pruner`, saying what was said."""
    kind = cast("type[Replay]", type("Replay", (Replay,), {"stage": pruner.stage, "merges": pruner.merges}))
    return kind(pruner=pruner, said=said, positions=pruner.positions)
