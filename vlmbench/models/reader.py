"""What a loaded model reads: prompts, the processor's tensors, and the sizes at which it sees pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.models.geometry import (
    NativeResolution,
    Size,
    input_sizes,
    keeps_shape,
    pixels_per_patch,
    resized_size,
)
from vlmbench.models.inputs import RowInputs, split_inputs
from vlmbench.models.larger import Larger, Showing, find
from vlmbench.models.replay import SeenImages
from vlmbench.models.words import question_ids

if TYPE_CHECKING:
    from vlmbench.models.loading import LoadedModel


@dataclass(frozen=True)
class Reader:
    """A loaded model and its processor, up to the tensors of one request. Immutable; safe in any thread."""

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
        self,
        prompt: str,
        images: Sequence[Image.Image],
        max_new_tokens: int,
        seen: SeenImages | None = None,
        showing: Showing | None = None,
    ) -> RowInputs:
        """Processor output of one request on the CPU; `seen` belongs to these images, shown as in `showing`,
        and is filled here.

        Raises ItemError where the request cannot be run.
        """
        showing = showing or Showing()
        bos = self.tokenizer.bos_token
        options: dict[str, Any] = {"return_tensors": "pt"}
        if bos and prompt.startswith(bos):
            options["add_special_tokens"] = False
        try:
            if images:
                processor = showing.processor(self.processor)
                processor = seen.processor(processor) if seen else processor
                batch = processor(text=[prompt], images=[list(images)], **options, **showing.options)
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
        sizes = input_sizes(vision, self.model.config)
        return RowInputs(sequence, vision, count, sizes, prompt, showing.interpolates)

    @cached_property
    def question_ids(self) -> Callable[[str, str], tuple[int, ...]]:
        """(prompt, question) -> ids of the question's tokens in the prompt; the last few are remembered."""
        return lru_cache(1024)(partial(question_ids, self.tokenizer, self._image_mark))

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
            whole = keeps_shape(row.vision) and len(row.input_size) == 1
            self._native[source] = NativeResolution(row.input_size[0], row.visual_tokens) if whole else None
        found = self._native[source]
        if found is None:
            raise NotApplicableError(
                "the model has a fixed resolution: fewer pixels would not mean fewer tokens; use pool"
            )
        return found

    @cached_property
    def _native(self) -> dict[Size, NativeResolution | None]:
        return {}

    def larger(self, source: Size, factor: float) -> Larger:
        """How an image of `source` size is shown with about `factor` times its visual tokens. Raises
        NotApplicableError where no way comes near, ItemError where the processor refuses such images."""
        key = source, factor
        if key not in self._larger:
            try:
                self._larger[key] = find(self, source, factor)
            except NotApplicableError as reason:
                self._larger[key] = str(reason)
        found = self._larger[key]
        if isinstance(found, str):
            raise NotApplicableError(found)
        return found

    @cached_property
    def _larger(self) -> dict[tuple[Size, float], Larger | str]:
        """With the reason in place of a way where there is none."""
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


def _plain_prompt(family: str, image_mark: str, n_images: int, text: str) -> str:
    """For checkpoints without a chat template: the images, then the text."""
    # PaliGemma's processor itself puts BOS after the images and a line break after the text
    between = "" if family == "paligemma" else "\n"
    return image_mark * n_images + between * bool(n_images) + text


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
