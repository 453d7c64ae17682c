"""The tensors of one request, and how several become a batch. Nothing here knows a model family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEQUENCE_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Processor outputs of shape [1, tokens]; everything else but `UNUSED` belongs to the images."""

UNUSED = frozenset({"labels"})
"""What some processors add for training; `generate` would compute a loss with it."""


@dataclass(frozen=True)
class RowInputs:
    """One request as CPU tensors: its token sequence, and what the vision encoder needs for its images."""

    sequence: Mapping[str, Tensor]
    """[1, S] each, unpadded."""
    vision: Mapping[str, Tensor]
    """As the processor made it for this row's images alone."""
    visual_tokens: int
    """Placeholders in `input_ids` that image features will fill."""
    input_size: tuple[tuple[int, int], ...]
    """Width and height in pixels of every picture that enters the vision encoder (tiles one by one)."""
    prompt: str = ""
    """As rendered, before the processor put placeholders in."""
    interpolates: bool = False
    """Whether the vision tower must be told that its input is not of the size that it knows."""

    @property
    def length(self) -> int:
        return self.sequence["input_ids"].shape[1]


def split_inputs(batch: Mapping[str, object]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A processor's output for ONE row -> (sequence tensors, vision tensors)."""
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor) and key not in UNUSED}
    sequence = {key: tensors.pop(key) for key in SEQUENCE_KEYS if key in tensors}
    return sequence, tensors


def pad_left(rows: Sequence[RowInputs], length: int, pad_id: int) -> dict[str, Tensor]:
    """[B, length] per sequence key; padding on the left, where decoding expects it.

    Rows without images may lack the token types that mark images in other rows: theirs are all 0, text.
    """
    padded: dict[str, Tensor] = {}
    for key in dict.fromkeys(key for row in rows for key in row.sequence):
        value = pad_id if key == "input_ids" else 0
        tensors = [row.sequence.get(key, torch.zeros_like(row.sequence["input_ids"])) for row in rows]
        padded[key] = torch.cat(
            [
                torch.nn.functional.pad(tensor, (length - tensor.shape[1], 0), value=value)
                for tensor in tensors
            ]
        )
    return padded


def merge_vision(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Vision tensors of several rows along dimension 0; smaller trailing dimensions are padded with zeros.

    Zero padding at the end is what the processors themselves do for tiles of differing number and for
    pictures of differing size; the models undo it from `image_sizes`, masks or all-zero tiles.
    """
    return {key: _concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}


def _concatenate(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_grow(tensor, shape) for tensor in tensors])


def _grow(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    missing = [wanted - have for wanted, have in zip(shape, tensor.shape[1:], strict=True)]
    if not any(missing):
        return tensor
    pads = [amount for lack in reversed(missing) for amount in (0, lack)]
    return torch.nn.functional.pad(tensor, pads)


def bucket(length: int, step: int = 8) -> int:
    """The next multiple of `step`: few distinct shapes, so that equal requests meet equal kernels."""
    return -(-length // step) * step
