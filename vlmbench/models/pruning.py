"""Pruning before the language model: encoded images + a method -> what the language model is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.errors import ContractError, NotApplicableError
from vlmbench.models.features import ImageFeatures, ImageTokens, VisualInput
from vlmbench.models.inside import ImageSpan
from vlmbench.prune.base import Context

if TYPE_CHECKING:
    from vlmbench.prune.base import Pruner
    from vlmbench.prune.projector import Projector


@dataclass(frozen=True, eq=False)
class Subject:
    """The encoded images of one request, with a seed per image and, for methods that read, its text."""

    features: ImageFeatures
    seeds: tuple[int, ...]
    text: Tensor | None = None
    """[T, d]: input embeddings of the prompt's text tokens."""


@dataclass(frozen=True, eq=False)
class Inside:
    """A method that drops tokens between the layers of the language model, for one batch."""

    pruner: Pruner
    seeds: Sequence[tuple[int, ...]]
    """Per row, a seed per image."""
    newline: str = "counted"
    """`kept` leaves newline tokens alone; else they are tokens like any other in here."""

    def spans(
        self, places: Tensor, visual: Sequence[ImageFeatures | VisualInput | None]
    ) -> list[list[ImageSpan]]:
        """Per row and image the columns of its visual tokens in the padded prompt; `places`: bool [B, S]."""
        rows = []
        for row, (part, seeds) in enumerate(zip(visual, self.seeds, strict=True)):
            images = part.images if isinstance(part, ImageFeatures) else ()
            columns = places[row].nonzero()[:, 0]
            rows.append([self._span(columns, *pair) for pair in zip(images, seeds, strict=False)])
        return rows

    def _span(self, columns: Tensor, tokens: ImageTokens, seed: int) -> ImageSpan:
        own, grid = columns[tokens.start : tokens.stop], tokens.grid
        if self.newline == "kept":
            real = grid[:, 1] >= 0
            own, grid = own[real.to(own.device)], grid[real]
        return ImageSpan(index=own, grid=grid, seed=seed)


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
    prepared: list[list[_Image] | NotApplicableError] = []
    for subject in subjects:
        try:
            prepared.append(
                [_image(subject, i, projector, pruner, newline) for i in range(len(subject.features.images))]
            )
        except NotApplicableError as reason:
            prepared.append(reason)
    images = [image for each in prepared if isinstance(each, list) for image in each]
    if pruner.merges:
        parts = iter([_merged(model, pruner, image) for image in images])
    else:
        chosen = _select(pruner, images)
        parts = iter([_selected(image, keep) for image, keep in zip(images, chosen, strict=True)])
    return [
        each if isinstance(each, NotApplicableError) else _joined([next(parts) for _ in each])
        for each in prepared
    ]


def _image(subject: Subject, index: int, projector: Projector | None, pruner: Pruner, newline: str) -> _Image:
    tokens = subject.features.images[index]
    n = tokens.stop - tokens.start
    grid = tokens.grid.cpu()
    real = grid[:, 1] >= 0
    at, lines = real.nonzero()[:, 0], (~real).nonzero()[:, 0]
    if not pruner.budgeted:
        k, stay = pruner.budget(n), lines[: n * bool(pruner.budget(n))]
        k = min(k, len(at))
    elif newline == "counted":
        total = pruner.budget(n)
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
        extra=tokens.extra,
        text=subject.text,
        seed=subject.seeds[index],
    )
    return _Image(subject.features, tokens, context, here, stay.to(device), k)


def _take(tensor: Any, at: Tensor, n: int) -> Any:
    return tensor if tensor is None or len(at) == n else tensor[at]


def _select(pruner: Pruner, images: Sequence[_Image]) -> list[Tensor]:
    """Per image the indices of the image tokens that stay."""
    some = [image for image in images if image.k]
    found = pruner.select_many([i.context for i in some], [i.k for i in some]) if some else []
    for image, indices in zip(some, found, strict=True):
        _check_selection(pruner, indices, image.k, len(image.at))
    chosen = iter(found)
    return [next(chosen).to(i.at.device) if i.k else i.at[:0] for i in images]


def _check_selection(pruner: Pruner, indices: Tensor, k: int, n: int) -> None:
    """Raises ContractError where a method, perhaps a third party's, breaks the contract of `select`: unsorted
    or repeated ids would give the model tokens in the wrong places, silently."""
    rising = indices.ndim == 1 and bool((indices.diff() > 0).all())
    inside = rising and len(indices) > 0 and bool((indices[0] >= 0) & (indices[-1] < n))
    if not inside or (len(indices) != k and not pruner.adaptive):
        raise ContractError(
            f"pruner {type(pruner).__name__} broke its contract: select must return {k} indices below {n}, "
            f"ascending and distinct: got {str(indices.tolist())[:80]}"
        )


def _selected(image: _Image, chosen: Tensor) -> VisualInput:
    keep = torch.cat([image.at[chosen], image.newlines])
    if len(image.newlines):
        keep = keep.sort().values
    tokens, features = image.tokens, image.features
    keep = keep + tokens.start
    return VisualInput(features.rows[keep], tuple(layer[keep] for layer in features.deepstack), keep, keep)


def _merged(model: Any, pruner: Pruner, image: _Image) -> VisualInput:
    """New tokens in their order, in the places of the tokens that they come from; newlines keep theirs."""
    from vlmbench.models import families

    reduced = pruner.reduce(image.context, image.k)
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
    return VisualInput(rows, tuple(deepstack), keep, position_from + tokens.start)


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
    )
