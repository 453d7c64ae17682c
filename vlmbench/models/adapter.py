"""One interface to every vision-language model of transformers: render, prepare, encode, answer.

The generic path serves all families; nothing is kept on the model, and nothing of it is patched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from vlmbench.errors import ItemError, UsageError
from vlmbench.models import decoding, features
from vlmbench.models.decoding import Generation
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.geometry import Size, input_sizes, keeps_shape, pixels_per_patch, resized_size
from vlmbench.models.inputs import RowInputs, bucket, merge_vision, pad_left, split_inputs
from vlmbench.models.replay import SeenImages

if TYPE_CHECKING:
    from vlmbench.models.loading import LoadedModel


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

    def encode(self, rows: Sequence[RowInputs]) -> EncoderOutput:
        """Features of the images of each row: call it once per distinct image, not once per question."""
        vision = self._to_device(merge_vision([row.vision for row in rows]))
        return features.encode(self.model, vision, [row.visual_tokens for row in rows])

    def answer(
        self,
        rows: Sequence[RowInputs],
        encoded: EncoderOutput | None,
        order: Sequence[ImageFeatures],
        max_new_tokens: int,
    ) -> list[Generation]:
        """Greedy answers; `order[i]` are the features of row i, given to the model in place of pixels."""
        length = bucket(max(row.length for row in rows))
        inputs: dict[str, Any] = self._to_device(pad_left(rows, length, self.pad_id))
        inputs["position_ids"] = self.position_ids(rows, inputs)
        # M-RoPE families would rebuild positions from these and the pixels' grid, which generate never sees
        inputs.pop("mm_token_type_ids", None)
        if encoded is not None:
            inputs["mm_encoder_outputs"] = {"image": features.for_requests(encoded, order)}
        return decoding.generate(self.model, self.tokenizer, inputs, max_new_tokens, self.pad_id)

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
