"""What a request costs in arithmetic and memory: MACs of its stages, bytes of its KV cache.

Pure arithmetic on shapes; `models.shape` reads them off a model. 1 MAC is 2 FLOPs; everything here is MACs,
per request unless a batch is asked for. Counted are matrix products only: norms, activations, rotations and
softmax are left out, as in the papers and in torch's FlopCounterMode, with which these counts agree.
Attention counts every pair of tokens, although a causal kernel may skip half of them, and takes a sliding
window for full attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LlmShape:
    """A language model of equal decoder layers.

    q_width and kv_width are all heads together: q_width differs from `width` where the head size is chosen
    freely (Gemma, Qwen3), kv_width where heads share keys. `gated`: the FFN has three matrices, not two.
    """

    layers: int
    width: int
    q_width: int
    kv_width: int
    ffn: int
    gated: bool
    vocabulary: int

    @property
    def macs_per_token(self) -> int:
        """Of one layer's linear maps: q and o, k and v, FFN."""
        return _linear_macs(self.width, self.q_width, self.kv_width, self.ffn, self.gated)


@dataclass(frozen=True)
class VisionShape:
    """A vision tower of equal layers, with the projector behind it."""

    layers: int
    width: int
    q_width: int
    kv_width: int
    ffn: int
    gated: bool
    patch: int
    """MACs that make one patch of its pixels."""
    extra: int
    """Tokens besides the patches, per image or tile: the class token."""
    projector: int
    """MACs of one visual token: elements of the projector's matrices, each of which meets a token once."""
    window: int = 0
    """Patches of an attention window, 0 where every layer attends to the whole image."""
    full_layers: int = 0
    """Layers that attend to the whole image although there are windows."""


def prefill_macs(shape: LlmShape, tokens_per_layer: Sequence[int]) -> int:
    """MACs of the prefill: `tokens_per_layer[l]` tokens, text and visual, enter layer l.

    Per layer of n tokens, width d: 2 n d q_width (q, o) + 2 n d kv_width (k, v) + 2 n^2 q_width (scores and
    values) + 3 n d ffn (2 n d ffn without a gate). The LM head, which a prefill applies to its last token
    only, is `head_macs`. Raises ValueError unless there is one count for every layer.
    """
    tokens = _checked(shape, tokens_per_layer)
    return sum(n * shape.macs_per_token + 2 * n * n * shape.q_width for n in tokens)


def decode_macs(shape: LlmShape, tokens_per_layer: Sequence[int], new_tokens: int) -> int:
    """MACs of the decoder layers for `new_tokens` output tokens after a prefill of `tokens_per_layer`.

    The prefill gives the first of them, so that new_tokens - 1 steps remain; step t attends to the t tokens
    decoded so far besides the prompt. One `head_macs(shape)` per output token comes on top.
    """
    tokens = _checked(shape, tokens_per_layer)
    if new_tokens < 0:
        raise ValueError(f"new_tokens must be at least 0: got {new_tokens}")
    steps = max(new_tokens - 1, 0)
    # sum over t = 1 .. steps of 2 (n + t) q_width
    attention = sum(2 * n * steps + steps * (steps + 1) for n in tokens) * shape.q_width
    return steps * shape.layers * shape.macs_per_token + attention


def head_macs(shape: LlmShape, positions: int = 1) -> int:
    """MACs of the LM head for `positions` tokens."""
    return positions * shape.width * shape.vocabulary


def kv_bytes(
    shape: LlmShape, tokens_per_layer: Sequence[int], bytes_per_value: int = 2, batch: int = 1
) -> int:
    """Bytes of the KV cache after the prefill of `batch` equal requests; a value has 2 in bf16 and fp16."""
    return 2 * sum(_checked(shape, tokens_per_layer)) * shape.kv_width * bytes_per_value * batch


def vit_macs(shape: VisionShape, patches: Sequence[int]) -> int:
    """MACs of the vision tower, without the projector; `patches[i]` of image or tile i, encoded apart.

    All layers are counted, those behind the one whose output is used too, because they run. A windowed layer
    counts full windows, an upper bound where the image's edge cuts them.
    """
    linear = _linear_macs(shape.width, shape.q_width, shape.kv_width, shape.ffn, shape.gated)
    total = 0
    for count in patches:
        n = count + shape.extra
        seen = min(n, shape.window) if shape.window else n
        windowed = shape.layers - shape.full_layers if shape.window else 0
        pairs = n * ((shape.layers - windowed) * n + windowed * seen)
        total += count * shape.patch + shape.layers * n * linear + 2 * pairs * shape.q_width
    return total


def projector_macs(shape: VisionShape, tokens: int) -> int:
    """MACs of the projector for `tokens` visual tokens, merging of patches included."""
    return tokens * shape.projector


def layer_average(visual_per_layer: Sequence[int]) -> float:
    """Mean over the layers of the visual tokens that enter them: the budget most papers print."""
    if not visual_per_layer:
        raise ValueError("a count of visual tokens for every layer is needed: got none")
    return sum(visual_per_layer) / len(visual_per_layer)


def after_last_cut(visual_per_layer: Sequence[int]) -> int:
    """Visual tokens that enter the last layer: what is left when all cuts are done."""
    if not visual_per_layer:
        raise ValueError("a count of visual tokens for every layer is needed: got none")
    return visual_per_layer[-1]


def _linear_macs(width: int, q_width: int, kv_width: int, ffn: int, gated: bool) -> int:
    return width * (2 * q_width + 2 * kv_width + (3 if gated else 2) * ffn)


def _checked(shape: LlmShape, tokens_per_layer: Sequence[int]) -> Sequence[int]:
    if len(tokens_per_layer) != shape.layers:
        raise ValueError(
            f"tokens_per_layer must have a count for each of {shape.layers} layers: "
            f"got {len(tokens_per_layer)}"
        )
    if min(tokens_per_layer, default=0) < 0:
        raise ValueError(f"tokens_per_layer must not be negative: got {min(tokens_per_layer)}")
    return tokens_per_layer
