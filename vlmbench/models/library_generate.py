"""A model under `pruning`: what becomes of each of its `generate` calls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models import families, features
from vlmbench.models.before import Subject, kept_input
from vlmbench.models.features import ImageFeatures, VisualInput
from vlmbench.models.inside import InsideLog, prune_inside, refuse_generate
from vlmbench.models.library_prompt import Prompt, fingerprints
from vlmbench.models.pruning import Applied, Visual, apply
from vlmbench.models.words import behind_images
from vlmbench.prune import KEEP, RATIO
from vlmbench.prune.base import COMPACT, Pruner
from vlmbench.seeds import seed_for

ENCODED = ("inputs_embeds", "mm_encoder_outputs")
"""Inputs whose images somebody has encoded already."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """What the last `generate` call under `pruning` did; rows are those of the batch."""

    before: tuple[int, ...]
    """Visual tokens of each row's prompt."""
    after: tuple[int, ...]
    """Those that reached the last layer of the language model."""
    kept: tuple[tuple[Tensor, ...], ...]
    """Per row and image [k] int64, ascending, on the CPU: which of the image's tokens stayed; for methods
    that merge, whose places the new tokens took. Newline tokens count as tokens."""
    seeds: tuple[tuple[int, ...], ...]
    """Per row and image."""


class Pruning:
    """A model under `pruning`."""

    def __init__(self, model: Any, pruner: Pruner, newline: str, seed: int) -> None:
        self.pruner = pruner
        self.last: Pruned | None = None
        """Of the last `generate` call; None before the first."""
        self._model, self._newline, self._seed = model, newline, seed
        self._turn = RLock()
        self._running = 0
        self._prompt: Prompt | None = None

    @functools.cached_property
    def _projector(self) -> Any:
        return families.projector(self._model)

    def generate(self, original: Callable[..., Any], **kwargs: Any) -> Any:
        """`original` under pruning; takes what `model.generate` takes."""
        with self._turn:  # what hooks hold belongs to one call
            vision = self._vision(kwargs)
            if vision is None:
                return self._without_images(original, kwargs)
            if self.pruner.stage != "llm":
                refuse_generate(self._model, kwargs, self.pruner.stage)
            places = self._places(kwargs)
            counts = places.sum(1).tolist()
            encoded = features.encode(
                self._model, vision, [count for count in counts if count], self.pruner.needs
            )
            left = iter(encoded.features)
            visual = [next(left) if count else None for count in counts]
            seeds = self._seeds(vision, visual)
            applied = self._apply(kwargs, places, visual, seeds)
            rest = {key: value for key, value in kwargs.items() if key != "pixel_values"}
            order = [part for part in applied.visual if part is not None]
            if any(len(part.rows) for part in order):
                rest["mm_encoder_outputs"] = {"image": features.for_requests(encoded, order)}
            with self._program(kwargs, places, applied) as log:
                output = original(**rest)
            kept = tuple(
                _kept(part, applied, row, log, whole)
                for row, (part, whole) in enumerate(zip(applied.visual, visual, strict=True))
            )
            self._log(visual, kept, seeds)
            return output

    def _apply(
        self,
        kwargs: Mapping[str, Any],
        places: Tensor,
        visual: Sequence[ImageFeatures | None],
        seeds: tuple[tuple[int, ...], ...],
    ) -> Applied:
        subjects = [
            None if part is None else Subject(part, own, self._text(kwargs, places, row))
            for row, (part, own) in enumerate(zip(visual, seeds, strict=True))
        ]
        projector = self._projector if "projector_in" in self.pruner.needs else None
        return apply(self._model, projector, self.pruner, subjects, self._newline).served()

    @contextmanager
    def _program(
        self, kwargs: Mapping[str, Any], places: Tensor, applied: Applied
    ) -> Iterator[InsideLog | None]:
        """The model for one call: with a shorter prompt, or with a method between its layers."""
        prompt: Prompt | None = None
        if applied.inside is None or any(isinstance(part, VisualInput) for part in applied.visual):
            token = self._model.config.image_token_id
            parts = [_all_of(part) if isinstance(part, ImageFeatures) else part for part in applied.visual]
            prompt = Prompt(token, parts, applied.positions == COMPACT)
        if applied.inside is None:
            with self._reading(prompt):
                yield None
            return
        if prompt is not None:
            places = prompt.places(places, kwargs.get("attention_mask"))
        spans = applied.inside.spans(places, applied.visual)
        layers = len(self._model.base_model.get_decoder().layers)
        cuts = [cut for row in spans for i in row for cut in self.pruner.schedule(len(i.index), layers)]
        refuse_generate(self._model, kwargs, "llm", min((cut.layer for cut in cuts), default=layers))
        with (
            prune_inside(self._model, self.pruner, spans, applied.positions) as log,
            self._reading(prompt),
        ):
            yield log

    def _vision(self, kwargs: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The image encoder's arguments; None without images."""
        wanted = inspect.signature(self._model.base_model.get_image_features).parameters
        given = {key: value for key, value in kwargs.items() if value is not None}
        for name in given:
            if "video" in name and name.startswith("pixel_values"):
                raise UsageError("vlmbench.pruning: videos cannot be pruned; pass their frames as images")
            unknown = name != "pixel_values" or name not in wanted or _ids(kwargs) is None
            if name in ENCODED or (name.startswith("pixel_values") and unknown):
                raise UsageError(
                    f"vlmbench.pruning: {name} cannot be pruned; pass input_ids and pixel_values, "
                    "as the processor makes them"
                )
        if "pixel_values" not in given:
            return None
        return {key: value for key, value in given.items() if key in wanted}

    def _places(self, kwargs: Mapping[str, Any]) -> Tensor:
        """[B, S] bool: the image's placeholders."""
        token, mask = self._model.config.image_token_id, kwargs.get("attention_mask")
        places: Tensor = _ids(kwargs) == token
        if mask is not None:
            places = places & mask.bool().to(places.device)
        if not places.any():
            raise UsageError(f"vlmbench.pruning: pixel_values, but no image token (id {token}) in input_ids")
        return places

    def _without_images(self, original: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
        ids = _ids(kwargs)
        rows = 1 if ids is None else len(ids)
        with self._reading(None):
            output = original(**kwargs)
        self.last = Pruned((0,) * rows, (0,) * rows, ((),) * rows, ((),) * rows)
        return output

    def _seeds(
        self, vision: Mapping[str, Tensor], visual: Sequence[ImageFeatures | None]
    ) -> tuple[tuple[int, ...], ...]:
        found = iter(fingerprints(vision, [part for part in visual if part is not None]))
        # the budget stays out, so that two ratios share their draw
        drawn = [f.name for f in fields(self.pruner) if f.name not in (RATIO.name, KEEP.name)]
        draw = (type(self.pruner).__name__, *((name, getattr(self.pruner, name)) for name in sorted(drawn)))
        return tuple(
            () if part is None else tuple(seed_for(self._seed, mark, *draw) for mark in next(found))
            for part in visual
        )

    def _text(self, kwargs: Mapping[str, Any], places: Tensor, row: int) -> Tensor | None:
        """[T, d]: input embeddings of a row's text behind its last image (all its text where none is), for
        methods that read: which of it is the question, `generate` is not told."""
        if "text" not in self.pruner.needs:
            return None
        ids, mask = _ids(kwargs)[row], kwargs.get("attention_mask")
        valid = torch.ones_like(places[row]) if mask is None else mask[row].bool().to(places.device)
        words = ids[behind_images(places[row], valid)]
        with torch.inference_mode():
            found: Tensor = self._model.get_input_embeddings()(words)
        return found

    def _log(
        self,
        visual: Sequence[ImageFeatures | None],
        kept: tuple[tuple[Tensor, ...], ...],
        seeds: tuple[tuple[int, ...], ...],
    ) -> None:
        before = tuple(0 if part is None else part.count for part in visual)
        self.last = Pruned(before, tuple(sum(map(len, row)) for row in kept), kept, seeds)

    @contextmanager
    def _reading(self, prompt: Prompt | None) -> Iterator[None]:
        before, self._prompt = self._prompt, prompt
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._prompt = before

    def forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook: shrinks what `generate` passes, refuses images that come another way."""
        named = kwargs
        if args:
            named = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        if self._prompt is not None:
            return (), self._prompt.shrink(named)
        for name, value in () if self._running else named.items():
            if value is not None and (name.startswith("pixel_values") or name in ENCODED):
                raise UsageError(
                    f"inside vlmbench.pruning call generate: a plain forward with {name} would not be pruned"
                )
        return None


def _all_of(features: ImageFeatures) -> VisualInput:
    return kept_input(features, torch.arange(features.count, device=features.rows.device))


def _ids(kwargs: Mapping[str, Any]) -> Any:
    ids = kwargs.get("input_ids")
    return kwargs.get("inputs") if ids is None else ids


def _kept(
    part: Visual, applied: Applied, row: int, log: InsideLog | None, whole: ImageFeatures | None
) -> tuple[Tensor, ...]:
    """Per image, the indices of its tokens that are left."""
    if whole is None:
        return ()
    if applied.inside is not None and log is not None:
        keep = applied.inside.kept(log, row, part or whole)
    else:
        assert isinstance(part, VisualInput)
        keep = part.keep.cpu()
    return tuple(keep[(keep >= i.start) & (keep < i.stop)] - i.start for i in whole.images)
