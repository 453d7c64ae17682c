"""SD-RPN, the region proposal network: a few layers of the language model, copied and trained to point.

Based on Self-Distilled RoI Predictors (arXiv 2509.16944). The frozen model reads the prompt up to layer K;
copies of layers K .. K+T-1 go on from there. T - 1 of them run whole; of the last only the first norm and the
projections to queries and keys are left, and how well the last prompt token's query meets the key of a
visual token is that token's logit.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.families import smallest_cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlmbench.models.early import EarlyStates

LAYERS = 3
"""T of the paper."""


@dataclass(frozen=True)
class RpnShape:
    """What of a language model a network is made of."""

    start: int
    """K: the frozen model runs layers 0 .. K-1."""
    layers: int
    """T, the last of them a head of queries and keys."""
    norm: bool
    """Whether a trainable norm, at first the language model's final one, stands in front of the head."""
    rotary: bool
    """Whether the head's queries and keys are rotated by their positions."""


def rpn_shape(model: Any, start: int | None = None, layers: int | None = None) -> RpnShape:
    """For a model: from half of its depth (floored), three layers or what is left of it, unless told.

    Models whose visual tokens have a row and a column among their position ids (M-RoPE) keep the rotation in
    the head, as the paper's Qwen2.5-VL; others get the norm in its place, as its LLaVA-1.5: along a line
    of tokens the rotation tells little of their distance in the picture. Raises UsageError for layers that
    the model does not have.
    """
    depth = len(model.base_model.get_decoder().layers)
    least = smallest_cut(model)
    start = min(max(least, depth // 2), depth - 1) if start is None else start
    layers = min(LAYERS, depth - start) if layers is None else layers
    if not least <= start < depth:
        raise UsageError(f"the network must start at a layer from {least} to {depth - 1}: got {start}")
    if not 1 <= layers <= depth - start:
        raise UsageError(
            f"from layer {start} of {depth} the network can have 1 to {depth - start} layers: got {layers}"
        )
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    planar = "mrope_section" in rope
    return RpnShape(start, layers, norm=not planar, rotary=planar)


class Head(nn.Module):
    """What is left of the last layer: normed states -> queries, keys -> logits."""

    def __init__(self, layer: nn.Module, rotary: bool) -> None:
        super().__init__()
        attention = cast("Any", layer.self_attn)
        parts = [
            getattr(layer, "input_layernorm", None),
            *(getattr(attention, name, None) for name in ("q_proj", "k_proj")),
        ]
        rotate = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
        if any(part is None for part in parts) or (rotary and rotate is None):
            raise UsageError(
                f"no region proposal network for {type(layer).__name__}: its attention is not made of "
                "input_layernorm, q_proj, k_proj and apply_rotary_pos_emb"
            )
        self.input_layernorm, self.q_proj, self.k_proj = (_copy(part) for part in parts)
        # Gemma 3 and Qwen3 norm queries and keys
        self.q_norm, self.k_norm = (_copy(getattr(attention, name, None)) for name in ("q_norm", "k_norm"))
        self._width = int(attention.head_dim)
        self._rotate: Callable[..., tuple[Tensor, Tensor]] | None = rotate if rotary else None

    def forward(self, last: Tensor, visual: Tensor, rotary: tuple[Tensor, Tensor], index: Tensor) -> Tensor:
        """[B, n] float32: mean over heads of q k / sqrt(D).

        last [B, d] and visual [B, n, d] are states of the prompt, which `rotary`, cos and sin [B or 1, S, D],
        speaks of; `index` [B, n] are the columns of `visual`.
        """
        query = self._heads(self.q_proj(self.input_layernorm(last[:, None])), self.q_norm)
        key = self._heads(self.k_proj(self.input_layernorm(visual)), self.k_norm)
        if self._rotate is not None:
            cos, sin = (part.expand(len(index), -1, -1) for part in rotary)
            at = index[..., None].expand(-1, -1, cos.shape[-1])
            query = self._rotate(query, query, cos[:, -1:], sin[:, -1:])[0]
            key = self._rotate(key, key, cos.gather(1, at), sin.gather(1, at))[1]
        heads, shared = query.shape[1], key.shape[1]
        # the mean over heads of products is the product with the sum over the heads that share a key
        summed = query.reshape(len(query), shared, heads // shared, self._width).sum(2)
        logits: Tensor = torch.einsum("bhd,bhnd->bn", summed.float(), key.float())
        return logits / (heads * math.sqrt(self._width))

    def _heads(self, projected: Tensor, norm: nn.Module | None) -> Tensor:
        """[B, s, H D] -> [B, H, s, D]."""
        heads: Tensor = projected.reshape(*projected.shape[:2], -1, self._width)
        heads = heads if norm is None else norm(heads)
        return heads.transpose(1, 2)


class Rpn(nn.Module):
    """The copies: in eval mode, on the model's device and in its dtype until a trainer moves them."""

    def __init__(self, model: Any, shape: RpnShape) -> None:
        super().__init__()
        decoder = model.base_model.get_decoder()
        own = decoder.layers[shape.start : shape.start + shape.layers]
        self.shape = shape
        self.layers = nn.ModuleList(_copy(layer) for layer in own[:-1])
        self.norm = _copy(_final_norm(decoder)) if shape.norm else None
        self.head = Head(own[-1], shape.rotary)
        self.requires_grad_(True).eval()

    def forward(self, early: EarlyStates) -> tuple[Tensor, ...]:
        """Per row [n] float32: a logit for each of its visual tokens, in their order in the prompt.

        `early` are the base model's states in front of layer K with the arguments of T layers. Gradients
        reach the copies alone.
        """
        parameter = self.head.q_proj.weight
        arguments = [_moved(_bounded(each, parameter.dtype), parameter) for each in early.arguments]
        hidden = _moved(early.hidden, parameter)
        for layer, own in zip(self.layers, arguments, strict=False):
            output = layer(hidden, **own)
            hidden = output[0] if isinstance(output, tuple) else output
        index = early.columns.index.to(hidden.device)
        last, visual = hidden[:, -1], hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.norm is not None:
            last, visual = self.norm(last), self.norm(visual)
        logits = self.head(last, visual, arguments[-1]["position_embeddings"], index)
        return tuple(row[:n] for row, n in zip(logits, early.columns.counts, strict=True))


def _final_norm(decoder: Any) -> nn.Module:
    norm = getattr(decoder, "norm", None)
    if not isinstance(norm, nn.Module):
        raise UsageError(f"no region proposal network for {type(decoder).__name__}: it has no final norm")
    return norm


def _copy(module: Any) -> Any:
    """Without the hooks of the original, and of the weights alone: masks come from the model in the form that
    its configuration names."""
    if module is None:
        return None
    configs = [each.config for each in module.modules() if hasattr(each, "config")]
    copied = copy.deepcopy(module, {id(config): config for config in configs})
    if any(hasattr(each, "_hf_hook") for each in copied.modules()):  # of a model spread over devices
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(copied, recurse=True)
    for each in copied.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(each, name).clear()
    return copied


def _bounded(arguments: Mapping[str, Any], dtype: torch.dtype) -> Mapping[str, Any]:
    """An additive mask holds the smallest number of its own dtype, which in a narrower one is -inf: rows of
    padding, which see nothing, would become NaN."""
    mask = arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return arguments
    return {**arguments, "attention_mask": mask.clamp(min=torch.finfo(dtype).min)}


def _moved(value: Any, like: Tensor) -> Any:
    """Tensors, also within a mapping or tuple, on another's device, and floats in its dtype."""
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype if value.is_floating_point() else None)
    if isinstance(value, tuple):
        return tuple(_moved(each, like) for each in value)
    return {key: _moved(each, like) for key, each in value.items()} if isinstance(value, Mapping) else value
