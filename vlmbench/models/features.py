"""Image features: encoded once per distinct image, then handed to as many requests as ask about it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.seeds import digest


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """One image of a request: where its visual tokens stand, and what pruners asked the encoder for.

    n counts all its placeholders; newline tokens, which no patch made, have row -1 in `grid` and zeros in
    what was captured. Captured fields are None unless asked for; see `prune.base.Context` for their meaning.
    """

    start: int
    stop: int
    """Its place among the request's visual tokens; n = stop - start."""
    grid: Tensor
    """[n, 3] int64: tile, row, column."""
    projector_in: Tensor | None = None
    """[n, P, c]."""
    attention: Tensor | None = None
    """[n]."""
    keys: Tensor | None = None
    """[n, d_k]."""
    received_attention: Tensor | None = None
    """[n]."""
    middle_attention: Tensor | None = None
    """[n]."""
    last_attention: Tensor | None = None
    """[n]."""
    last_keys: Tensor | None = None
    """[n, d_v]."""
    extra: Tensor | None = None
    """[E, P, c]."""
    absent: Tensor | None = None
    """[n] bool: placeholders that are given to no one, as of a region's crop what is not of the region; None
    where all count. They are no tokens: no budget counts them."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the language model receives for the images of one request."""

    rows: Tensor
    """[n, d]: feature i fills the i-th placeholder of the request."""
    deepstack: tuple[Tensor, ...] = ()
    """[n, d] each; only families that also add features inside the language model have them."""
    images: tuple[ImageTokens, ...] = ()
    """Empty unless the encoding was asked for pruning."""

    @property
    def count(self) -> int:
        return self.rows.shape[0]


@dataclass(frozen=True, eq=False)
class VisualInput:
    """What is left of a request's `ImageFeatures` after pruning, in the order of the prompt."""

    rows: Tensor
    """[k, d]."""
    deepstack: tuple[Tensor, ...]
    """[k, d] each."""
    keep: Tensor
    """[k] int64, ascending: the request's placeholders that remain; row i fills placeholder keep[i]."""
    position_from: Tensor
    """[k] int64: the placeholder whose original position id row i takes."""
    share: Tensor
    """[n] float32: how much of each token of the request is left: 1 kept as it is, 0 dropped, else the
    largest weight with which it went into a new token."""
    images: tuple[ImageTokens, ...] = ()
    """Those of the whole request, for a method that goes on inside the language model."""

    @property
    def kept_hash(self) -> str:
        """Names the choice."""
        return digest(self.keep.tolist(), self.position_from.tolist())


@dataclass(frozen=True)
class EncoderOutput:
    """Features of a batch, and how this family wants to be given them."""

    features: tuple[ImageFeatures, ...]
    kind: type
    as_tensor: bool
    """One tensor [1, total, d] (True) or a list with a tensor per request."""
    deepstack_as_tensor: bool = True
    """A layer's deepstack features are one tensor [total, d] (True) or a list with a tensor per request."""


def _flatten(pooled: Any) -> Tensor:
    """[total, d] from a tensor of any batch shape or from a list of tensors."""
    tensors = [pooled] if isinstance(pooled, Tensor) else list(pooled)
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])


@torch.inference_mode()
def encode(
    model: Any,
    vision: Mapping[str, Tensor],
    counts: Sequence[int],
    needs: frozenset[str] | None = None,
    interpolates: bool = False,
) -> EncoderOutput:
    """Vision tower and projector for merged vision tensors; `counts[i]` placeholders belong to request i.
    `interpolates`: for an input of another size than the tower's own.

    With `needs`, names out of `prune.base.NEEDS` or none of them, features also tell of their images; names
    that only the language model can serve are passed over. Hooks and taps exist during the call alone.

    Raises UsageError where the model has no image features to give, or the family not what is needed.
    """
    encoder = getattr(model.base_model, "get_image_features", None)
    if encoder is None:
        raise UsageError(
            f"{type(model).__name__} has no get_image_features: its images cannot be encoded apart"
        )
    wanted = inspect.signature(encoder).parameters
    arguments = {key: value for key, value in vision.items() if key in wanted}
    options = {"interpolate_pos_encoding": True} if interpolates else {}
    images: Sequence[tuple[ImageTokens, ...]] = [()] * len(counts)
    if needs is None:
        output = encoder(**arguments, **options, return_dict=True)
    else:
        from vlmbench.models.capture import Capture

        capture = Capture(model, needs)
        with capture.recording():
            output = encoder(**arguments, **options, return_dict=True)
        images = capture.images(arguments, output, counts)
    pooled = output.pooler_output
    rows = torch.split(_flatten(pooled), list(counts))
    layers = getattr(output, "deepstack_features", None) or ()
    deep = [torch.split(_flatten(layer), list(counts)) for layer in layers]
    features = tuple(
        ImageFeatures(rows[i], tuple(layer[i] for layer in deep), images[i]) for i in range(len(counts))
    )
    return EncoderOutput(
        features,
        type(output),
        as_tensor=isinstance(pooled, Tensor),
        deepstack_as_tensor=all(isinstance(layer, Tensor) for layer in layers),
    )


def for_requests(encoded: EncoderOutput, order: Sequence[ImageFeatures | VisualInput]) -> Any:
    """What `forward(mm_encoder_outputs={"image": ..})` takes; features in (batch, sequence) order."""
    rows = [features.rows for features in order]
    pooled: Any = torch.cat(rows)[None] if encoded.as_tensor else rows
    if not any(features.deepstack for features in order):
        return encoded.kind(pooler_output=pooled)
    layers: list[Any] = [*zip(*(features.deepstack for features in order), strict=True)]
    if encoded.deepstack_as_tensor:
        layers = [torch.cat(layer) for layer in layers]
    return encoded.kind(pooler_output=pooled, deepstack_features=layers)
