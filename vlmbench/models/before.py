"""Pruning before the language model: encoded images + a method -> what is left of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.models.features import ImageFeatures, ImageTokens, VisualInput
from vlmbench.prune.base import Context
from vlmbench.prune.contract import check_reduced, check_selection, private

if TYPE_CHECKING:
    from vlmbench.prune.base import Pruner, Reduced
    from vlmbench.prune.projector import Projector


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of a request beside its prompt."""

    question: str = ""
    """The bare question, without template and instruction."""
    evidence: tuple[Tensor, ...] | None = None
    """Per image [n, b]: share of each box asked about that each token covers; None where none is known."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The encoded images of one request, and what else a method may look at."""

    features: ImageFeatures
    seeds: tuple[int, ...]
    """Of each image."""
    text: Tensor | None = None
    """[T, d]: input embeddings of the question's tokens; see `Context.text`."""
    evidence: tuple[Tensor, ...] | None = None
    """See `Told`."""
    relevance: tuple[Tensor, ...] | None = None
    """Per image [n]: cosine of each token to the question in the space of a CLIP."""


@dataclass(frozen=True, eq=False)
class _Image:
    """One image about to be pruned; indices count from its first token."""

    features: ImageFeatures
    """Of the whole request."""
    tokens: ImageTokens
    context: Context
    at: Tensor
    """[N] places of the image tokens."""
    newlines: Tensor
    """Places of the newline tokens that stay."""
    k: int
    """Image tokens that stay."""


@torch.inference_mode()
def prune(
    model: Any,
    projector: Projector | None,
    pruner: Pruner,
    subjects: Sequence[Subject],
    newline: str = "counted",
) -> list[VisualInput | NotApplicableError]:
    """What remains of each request's visual tokens; the reason in place of those that the method cannot do.

    Images of all requests are selected from together. Raises ItemError for features that are not finite.
    """
    family = str(model.config.model_type)
    prepared: list[list[_Image] | NotApplicableError] = []
    for subject in subjects:
        try:
            prepared.append(
                [
                    _image(subject, i, projector, pruner, newline, family)
                    for i in range(len(subject.features.images))
                ]
            )
        except NotApplicableError as reason:
            prepared.append(reason)
    some = [each for each in prepared if isinstance(each, list)]
    made: Iterator[list[VisualInput] | NotApplicableError]
    try:
        parts = iter(_parts(model, pruner, [image for each in some for image in each]))
        made = iter([[next(parts) for _ in each] for each in some])
    except NotApplicableError:  # of one image: the others are served
        made = iter([_parts_or_reason(model, pruner, each) for each in some])
    found = [each if isinstance(each, NotApplicableError) else next(made) for each in prepared]
    return [each if isinstance(each, NotApplicableError) else _joined(each) for each in found]


def _parts(model: Any, pruner: Pruner, images: Sequence[_Image]) -> list[VisualInput]:
    if pruner.merges:
        contexts = private(pruner, [image.context for image in images])
        made = pruner.reduce_many(contexts, [image.k for image in images])
        return [_merged(model, pruner, *each) for each in zip(images, made, strict=True)]
    chosen = _select(pruner, images)
    return [_selected(image, keep) for image, keep in zip(images, chosen, strict=True)]


def _parts_or_reason(
    model: Any, pruner: Pruner, images: Sequence[_Image]
) -> list[VisualInput] | NotApplicableError:
    try:
        return _parts(model, pruner, images)
    except NotApplicableError as reason:
        return reason


def _image(
    subject: Subject, index: int, projector: Projector | None, pruner: Pruner, newline: str, family: str
) -> _Image:
    tokens = subject.features.images[index]
    n = tokens.stop - tokens.start
    grid = tokens.grid.cpu()
    there = torch.ones(n, dtype=torch.bool) if tokens.absent is None else ~tokens.absent.cpu()
    n_there, real = int(there.sum()), grid[:, 1] >= 0
    at, lines = (real & there).nonzero()[:, 0], (~real & there).nonzero()[:, 0]
    if not pruner.budgeted:
        k, stay = pruner.budget(n_there), lines[: n_there * bool(pruner.budget(n_there))]
        k = min(k, len(at))
    elif newline == "counted":
        total = pruner.budget(n_there)
        k = min(total, len(at))
        stay = lines[: total - k]
    else:
        k = pruner.budget(len(at))
        stay = lines if newline == "kept" else lines[:0]
    device = subject.features.rows.device
    here = at.to(device)
    context = Context(
        features=_take(subject.features.rows[tokens.start : tokens.stop], here, n),
        grid=grid[at],
        projector_in=_take(tokens.projector_in, here, n),
        projector=projector,
        attention=_take(tokens.attention, here, n),
        keys=_take(tokens.keys, here, n),
        received_attention=_take(tokens.received_attention, here, n),
        middle_attention=_take(tokens.middle_attention, here, n),
        last_attention=_take(tokens.last_attention, here, n),
        last_keys=_take(tokens.last_keys, here, n),
        extra=tokens.extra,
        text=subject.text,
        evidence=_of_image(subject.evidence, index, here, n),
        relevance=_of_image(subject.relevance, index, here, n),
        family=family,
        seed=subject.seeds[index],
    )
    return _Image(subject.features, tokens, context, here, stay.to(device), k)


def _of_image(values: Sequence[Tensor] | None, index: int, at: Tensor, n: int) -> Tensor | None:
    return None if values is None else _take(values[index].to(at.device), at, n)


def _take(tensor: Any, at: Tensor, n: int) -> Any:
    return tensor if tensor is None or len(at) == n else tensor[at]


def _select(pruner: Pruner, images: Sequence[_Image]) -> list[Tensor]:
    """Per image the indices of the image tokens that stay."""
    some = [image for image in images if image.k]
    contexts = private(pruner, [image.context for image in some])
    found = pruner.select_many(contexts, [image.k for image in some]) if some else []
    for image, indices in zip(some, found, strict=True):
        check_selection(pruner, indices, image.k, len(image.at))
    chosen = iter(found)
    return [next(chosen).to(i.at.device) if i.k else i.at[:0] for i in images]


def _selected(image: _Image, chosen: Tensor) -> VisualInput:
    keep = torch.cat([image.at[chosen], image.newlines])
    if len(image.newlines):
        keep = keep.sort().values
    tokens, features = image.tokens, image.features
    return kept_input(features, keep + tokens.start, tokens)


def kept_input(features: ImageFeatures, keep: Tensor, of: ImageTokens | None = None) -> VisualInput:
    """The tokens `keep` [k], ascending, of a request as they are; `share` is that of the image `of` alone
    where it is given."""
    start, stop = (0, features.count) if of is None else (of.start, of.stop)
    share = torch.zeros(stop - start, device=features.rows.device)
    share[keep - start] = 1
    layers = tuple(layer[keep] for layer in features.deepstack)
    return VisualInput(features.rows[keep], layers, keep, keep, share)


def _merged(model: Any, pruner: Pruner, image: _Image, reduced: Reduced) -> VisualInput:
    """New tokens in their order, in the places of the tokens that they come from; newlines keep theirs."""
    from vlmbench.models import families

    context = image.context
    extra = len(context.extra) if pruner.stage == "encoder" and context.extra is not None else 0
    check_reduced(pruner, reduced, image.k, context.n, extra)
    tokens, features = image.tokens, image.features
    own = features.rows[tokens.start : tokens.stop]
    made = families.project(model, reduced.features) if pruner.stage == "encoder" else reduced.features
    origin = image.at[reduced.position_from.to(image.at.device)]
    order = torch.cat([origin.sort().values, image.newlines]).argsort()
    rows = torch.cat([made.to(own.dtype), own[image.newlines]])[order]
    position_from = torch.cat([origin, image.newlines])[order]
    deepstack = []
    for layer in features.deepstack:
        old = layer[tokens.start : tokens.stop]
        mixed = reduced.weights[:, : len(image.at)].to(old.dtype) @ old[image.at]
        deepstack.append(torch.cat([mixed, old[image.newlines]])[order])
    keep = position_from.sort().values + tokens.start
    share = rows.new_zeros(len(own), dtype=torch.float32)
    share[image.at] = reduced.weights[:, : len(image.at)].float().amax(0).clamp(0, 1).to(share.device)
    share[image.newlines] = 1
    return VisualInput(rows, tuple(deepstack), keep, position_from + tokens.start, share)


def _joined(parts: Sequence[VisualInput]) -> VisualInput:
    """The images of a request behind one another."""
    if len(parts) == 1:
        return parts[0]
    layers = zip(*(part.deepstack for part in parts), strict=True)
    return VisualInput(
        torch.cat([part.rows for part in parts]),
        tuple(torch.cat(layer) for layer in layers),
        torch.cat([part.keep for part in parts]),
        torch.cat([part.position_from for part in parts]),
        torch.cat([part.share for part in parts]),
    )
