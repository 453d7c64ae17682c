"""One interface to every vision-language model of transformers: render, prepare, encode, answer.

The generic path serves all families; nothing is kept on the model, and nothing of it is patched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.models import decoding, families, features, pruning
from vlmbench.models.decoding import Generation
from vlmbench.models.features import EncoderOutput, ImageFeatures, VisualInput
from vlmbench.models.geometry import (
    NativeResolution,
    Size,
    input_sizes,
    keeps_shape,
    pixels_per_patch,
    resized_size,
)
from vlmbench.models.inputs import RowInputs, bucket, merge_vision, pad_left, split_inputs
from vlmbench.models.inside import InsideLog, prune_inside
from vlmbench.models.pruning import Inside, Subject
from vlmbench.models.replay import SeenImages
from vlmbench.models.shrink import keep_columns, kept_positions, shrink
from vlmbench.prune.base import COMPACT
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.models.loading import LoadedModel
    from vlmbench.prune.base import Pruner
    from vlmbench.prune.projector import Projector


@dataclass(frozen=True)
class Adapter:
    """A loaded model with its processor. Immutable; safe to prepare rows in another thread."""

    loaded: LoadedModel

    @property
    def model(self) -> Any:
        return self.loaded.model

    @property
    def processor(self) -> Any:
        return self.loaded.processor

    @cached_property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @cached_property
    def image_token_id(self) -> int:
        token: int | None = getattr(self.model.config, "image_token_id", None)
        if token is None:
            raise UsageError(
                f"{self.loaded.id}: config.image_token_id is missing; is this a vision-language model?"
            )
        return token

    @cached_property
    def image_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    @cached_property
    def _image_mark(self) -> str:
        """What a prompt holds in place of an image; Gemma 3 has a token of its own for that."""
        return str(getattr(self.processor, "boi_token", None) or self.image_token)

    @cached_property
    def pad_id(self) -> int:
        """The pad token, else an end token: padding is masked, so any valid id serves."""
        for token in (self.tokenizer.pad_token_id, self.model.generation_config.eos_token_id, 0):
            if token is not None:
                return int(token[0] if isinstance(token, (list, tuple)) else token)
        raise AssertionError

    @cached_property
    def context(self) -> int | None:
        """Longest sequence that the language model has positions for."""
        length: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return length

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def render(self, text: str, n_images: int) -> str:
        """The prompt as the checkpoint's chat template writes it. Raises ItemError for unusable text."""
        if not text.strip():
            raise ItemError("empty question")
        for token in (self.image_token, self._image_mark):
            if token in text:
                raise ItemError(f"the question contains the image token {token!r}")
        if getattr(self.processor, "chat_template", None) is None:
            return _plain_prompt(self.loaded.family, self._image_mark, n_images, text)
        content = [*({"type": "image"} for _ in range(n_images)), {"type": "text", "text": text}]
        return str(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )

    def prepare(
        self, prompt: str, images: Sequence[Image.Image], max_new_tokens: int, seen: SeenImages | None = None
    ) -> RowInputs:
        """Processor output of one request on the CPU; `seen` belongs to these images and is filled here.

        Raises ItemError where the request cannot be run.
        """
        bos = self.tokenizer.bos_token
        options: dict[str, Any] = {"return_tensors": "pt"}
        if bos and prompt.startswith(bos):
            options["add_special_tokens"] = False
        try:
            if images:
                processor = seen.processor(self.processor) if seen else self.processor
                batch = processor(text=[prompt], images=[list(images)], **options)
            else:
                batch = self.tokenizer([prompt], **options)
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError, IndexError) as error:
            raise ItemError(f"the processor refused the input: {_one_line(error)}") from error
        sequence, vision = split_inputs(batch)
        length = sequence["input_ids"].shape[1]
        if self.context is not None and length + max_new_tokens > self.context:
            raise ItemError(
                f"{length} prompt + {max_new_tokens} new tokens exceed the model's context of {self.context}"
            )
        count = int((sequence["input_ids"] == self.image_token_id).sum())
        return RowInputs(sequence, vision, count, input_sizes(vision, self.model.config))

    def encode(self, rows: Sequence[RowInputs], needs: frozenset[str] | None = None) -> EncoderOutput:
        """Features of the images of each row: call it once per distinct image, not once per question.

        needs: what pruners want captured (see `prune.base.NEEDS`); None leaves the layout out too.
        """
        vision = self._to_device(merge_vision([row.vision for row in rows]))
        return features.encode(self.model, vision, [row.visual_tokens for row in rows], needs)

    @cached_property
    def projector(self) -> Projector:
        """The projector in float32, with its closed form where one is known; its matrices are kept here."""
        return families.projector(self.model)

    def prune(
        self, pruner: Pruner, subjects: Sequence[Subject], newline: str = "counted"
    ) -> list[VisualInput | NotApplicableError]:
        """What remains of each request's visual tokens; see `models.pruning.prune`."""
        projector = self.projector if "projector_in" in pruner.needs else None
        return pruning.prune(self.model, projector, pruner, subjects, newline)

    def answer(
        self,
        rows: Sequence[RowInputs],
        encoded: EncoderOutput | None,
        visual: Sequence[ImageFeatures | VisualInput | None],
        max_new_tokens: int,
        positions: Sequence[str] = (),
        inside: Inside | None = None,
    ) -> list[Generation]:
        """Greedy answers; `visual[i]` is given to the model in place of row i's pixels, None without any.

        positions: per row `original` or `compact` ids of what pruning left; original where not given.
        inside: a method that drops tokens between the layers of the language model.
        """
        inputs = self.model_inputs(rows, encoded, visual, positions)
        with self._program(inside, inputs, visual) as log:
            generations = decoding.generate(self.model, self.tokenizer, inputs, max_new_tokens, self.pad_id)
        return [
            self._with_tokens(*each, row, log)
            for row, each in enumerate(zip(generations, visual, strict=True))
        ]

    def model_inputs(
        self,
        rows: Sequence[RowInputs],
        encoded: EncoderOutput | None,
        visual: Sequence[ImageFeatures | VisualInput | None],
        positions: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Keyword arguments of `generate` for a batch whose images are encoded and, it may be, pruned."""
        length = bucket(max(row.length for row in rows))
        inputs: dict[str, Any] = self._to_device(pad_left(rows, length, self.pad_id))
        ids = self.position_ids(rows, inputs)
        # M-RoPE families would rebuild positions from these and the pixels' grid, which generate never sees
        inputs.pop("mm_token_type_ids", None)
        if any(isinstance(part, VisualInput) for part in visual):
            left = [row.length - _gone(row, part) for row, part in zip(rows, visual, strict=True)]
            valid = inputs["attention_mask"].bool()
            places = (inputs["input_ids"] == self.image_token_id) & valid
            kept = keep_columns(places, valid, visual, bucket(max(left)))
            compact = [choice == COMPACT for choice in positions] or [False] * len(rows)
            ids = kept_positions(ids, kept, places, visual, compact)
            inputs = shrink(inputs, kept, self.pad_id)
        inputs["position_ids"] = ids
        order = [part for part in visual if part is not None]
        if encoded is not None and any(len(part.rows) for part in order):
            inputs["mm_encoder_outputs"] = {"image": features.for_requests(encoded, order)}
        return inputs

    @contextmanager
    def _program(
        self,
        inside: Inside | None,
        inputs: Mapping[str, Tensor],
        visual: Sequence[ImageFeatures | VisualInput | None],
    ) -> Iterator[InsideLog | None]:
        """The language model with a method inside it, or as it is."""
        if inside is None:
            yield None
            return
        spans = inside.spans((inputs["input_ids"] == self.image_token_id), visual)
        with prune_inside(self.model, inside.pruner, spans, inside.pruner.positions) as log:
            yield log

    @cached_property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.model.base_model.get_decoder().layers)

    def _with_tokens(
        self,
        generation: Generation,
        part: ImageFeatures | VisualInput | None,
        row: int,
        log: InsideLog | None,
    ) -> Generation:
        """The generation with the visual tokens that each layer of the language model got to see."""
        count = 0 if part is None else len(part.rows)
        if log is not None:
            kept = [indices.tolist() for indices in log.kept[row]]
            entered = tuple(layer[row] for layer in log.entered)
            return replace(generation, visual_tokens=entered, kept_hash=digest("inside", kept))
        name = (
            digest(part.keep.tolist(), part.position_from.tolist()) if isinstance(part, VisualInput) else None
        )
        return replace(generation, visual_tokens=(count,) * self.layers, kept_hash=name)

    def position_ids(self, rows: Sequence[RowInputs], sequence: Mapping[str, Tensor]) -> Tensor:
        """What `generate` would use: [B, S], or [4, B, S] for families with M-RoPE."""
        grids = merge_vision(
            [{k: v for k, v in row.vision.items() if k.endswith("_grid_thw")} for row in rows if row.vision]
        )
        kwargs = {**sequence, **self._to_device(grids)}
        positions: Tensor = self.model._prepare_position_ids_for_generation(sequence["input_ids"], kwargs)
        return positions

    def resized(self, source: Size) -> Size | None:
        """Pixels to which the processor brings an image of `source` size; None where it makes tiles."""
        if source not in self._resized:
            # through the whole processor: some tell their image processor to tile or not to
            row = self.prepare(self.render("?", 1), [Image.new("RGB", source, "white")], 0)
            self._resized[source] = resized_size(
                self.processor.image_processor, source, row.input_size, keeps_shape(row.vision)
            )
        return self._resized[source]

    @cached_property
    def _resized(self) -> dict[Size, Size | None]:
        return {}

    def native_resolution(self, source: Size) -> NativeResolution:
        """How the model sees an image of `source` size whole. Raises NotApplicableError where it resizes all
        images to one size or cuts them into tiles."""
        if source not in self._native:
            row = self.prepare(self.render("?", 1), [Image.new("RGB", source, "white")], 0)
            if not keeps_shape(row.vision) or len(row.input_size) != 1:
                raise NotApplicableError(
                    "the model has a fixed resolution: fewer pixels would not mean fewer tokens; use pool"
                )
            self._native[source] = NativeResolution(row.input_size[0], row.visual_tokens)
        return self._native[source]

    @cached_property
    def _native(self) -> dict[Size, NativeResolution]:
        return {}

    def source_pixels_per_patch(self, source: Size) -> int | None:
        """Source pixels under one patch where that is a whole number: a shift by it moves whole patches."""
        resized = self.resized(source)
        patch = getattr(getattr(self.model.config, "vision_config", None), "patch_size", None)
        if isinstance(patch, (list, tuple)) and len(set(patch)) == 1:
            patch = patch[0]
        if resized is None or not isinstance(patch, int):
            return None
        return pixels_per_patch(source, resized, patch)

    def resize_like_processor(self, image: Image.Image) -> Image.Image:
        """The image at the size that the model sees. Raises UsageError for families that cut tiles."""
        size = self.resized(image.size)
        if size is None:
            raise UsageError(f"--space model: {self.loaded.id} cuts images into tiles; use --space source")
        resample = getattr(self.processor.image_processor, "resample", None)
        return image.resize(size, Image.Resampling.BICUBIC if resample is None else resample)

    def synchronize(self) -> None:
        """Waits for the device, so that stage times mean something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        dtype = self.model.dtype
        return {
            key: value.to(self.device, dtype if value.is_floating_point() else None)
            for key, value in tensors.items()
        }


def _plain_prompt(family: str, image_mark: str, n_images: int, text: str) -> str:
    """For checkpoints without a chat template: the images, then the text."""
    # PaliGemma's processor itself puts BOS after the images and a line break after the text
    between = "" if family == "paligemma" else "\n"
    return image_mark * n_images + between * bool(n_images) + text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _gone(row: RowInputs, part: ImageFeatures | VisualInput | None) -> int:
    """Visual tokens of a row that pruning took."""
    return row.visual_tokens - len(part.keep) if isinstance(part, VisualInput) else 0
