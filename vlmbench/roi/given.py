"""What a method asked for and must have been given, and the heads and layers that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch

from vlmbench.errors import NotApplicableError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Heads = tuple[tuple[int, int], ...]
"""(layer, head), both from 0."""

_WHY = {
    "response_attention": "the attention of the generated tokens",
    "predicting_attention": "the attention that the answer is predicted from",
    "last_attention": "the attention of the last prompt token",
    "general_attention": "the attention under the general prompt",
    "attention_gradient": "gradients with respect to attention",
    "pixel_gradient": "gradients with respect to pixels",
    "pixels": "the pixels of the model's input",
    "rpn": "a region proposal network (distil one and name its folder by --rpn)",
    "probability": "the probability of the plain answer",
}


def given(value: T | None, what: str, method: str) -> T:
    """`value`. Raises NotApplicableError where it is None, naming the method and what it lacks."""
    if value is None:
        raise NotApplicableError(f"{method} needs {_WHY[what]}, which this model or run does not give")
    return value


def layer_of(maps: Mapping[int, Tensor] | None, layer: int, what: str, method: str) -> Tensor:
    """[heads, N] of that layer. Raises NotApplicableError where it was not read."""
    return given(given(maps, what, method).get(layer), what, method)


def same_depth(layer: int, depth: int, method: str) -> int:
    """Layer that ViCrop reads of a language model of `depth` layers: `layer`, or where that is negative the
    one at the relative depth of layer 14 of LLaVA-1.5-7B's 32, rounded half up.

    The authors take 22 for Qwen2.5-VL-3B, of 36, and leave others to be tried. Raises UsageError for a layer
    that the model does not have.
    """
    if layer < 0:
        return min(depth - 1, math.floor(14 / 32 * depth + 0.5))
    return checked(layer, depth, method)


def checked(layer: int, depth: int, method: str) -> int:
    """`layer`. Raises UsageError where the language model has none of that number."""
    if layer >= depth:
        raise UsageError(
            f"{method}: layer {layer} does not exist, the language model has {depth}: 0 to {depth - 1}"
        )
    return layer


def read_heads(text: str, method: str) -> Heads:
    """`14:13/14:24` -> ((14, 13), (14, 24)), ascending. Raises UsageError for anything else."""
    pairs = [pair.split(":") for pair in text.split("/")] if text else []
    if any(len(pair) != 2 or not all(number.strip().isdecimal() for number in pair) for pair in pairs):
        raise UsageError(f"{method}: cannot read heads {text!r}: expected LAYER:HEAD/LAYER:HEAD..")
    return tuple(sorted({(int(layer), int(head)) for layer, head in pairs}))


def pick(maps: Mapping[int, Tensor] | None, heads: Heads, what: str, method: str) -> Tensor:
    """[len(heads), N] of the attention of these heads. Raises UsageError where a layer has fewer heads."""
    rows = []
    for layer, head in heads:
        attention = layer_of(maps, layer, what, method)
        if head >= len(attention):
            raise UsageError(
                f"{method}: head {head} does not exist, layer {layer} has {len(attention)}: "
                f"0 to {len(attention) - 1}"
            )
        rows.append(attention[head])
    return torch.stack(rows)
