"""Widths of a model's parts, read off its modules: configurations leave some out and get others wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlmbench.errors import UsageError
from vlmbench.metrics.cost import LlmShape, VisionShape

_ATTENTION = ("self_attn", "attn", "attention")
_ATTENTION_OUT = ("o_proj", "out_proj", "proj", "projection_layer")
_MLP = ("mlp", "feed_forward")
_MLP_OUT = ("down_proj", "fc2", "linear_fc2")
_PROJECTOR = ("multi_modal_projector", "connector", "merger", "deepstack_merger_list")
_EXTRA = ("class_embedding", "cls_token")


@dataclass(frozen=True)
class _Layer:
    width: int
    q_width: int
    kv_width: int
    ffn: int
    gated: bool


def llm_shape(model: Any) -> LlmShape:
    """The language model's shape.

    Raises UsageError where its layers differ or are not attention and one FFN (mixtures of experts).
    """
    layer, count = _stack(model.base_model.get_decoder().layers, "language model")
    head = model.get_output_embeddings()
    vocabulary = int((head if head is not None else model.get_input_embeddings()).weight.shape[0])
    return LlmShape(
        count, layer.width, layer.q_width, layer.kv_width, layer.ffn, layer.gated, vocabulary=vocabulary
    )


def vision_shape(model: Any) -> VisionShape | None:
    """The shape of vision tower and projector; None where the model has no tower of equal layers."""
    base = model.base_model
    tower = base.get_encoder(modality="image")
    if tower is base:
        return None
    blocks = next((m for m in tower.modules() if isinstance(m, nn.ModuleList) and _is_block(m)), None)
    patch = next((m for m in tower.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    if blocks is None or patch is None:
        return None
    try:
        layer, count = _stack(blocks, "vision tower")
    except UsageError:
        return None
    names = [name.rpartition(".")[2] for name, _ in tower.named_parameters()]
    projectors = [getattr(owner, name, None) for owner in (base, tower) for name in _PROJECTOR]
    window, full_layers = _windows(tower.config)
    return VisionShape(
        count,
        layer.width,
        layer.q_width,
        layer.kv_width,
        layer.ffn,
        layer.gated,
        patch=patch.weight.numel(),
        extra=sum(name in _EXTRA for name in names),
        projector=sum(
            weight.numel()
            for part in projectors
            if part is not None
            for weight in part.parameters()
            if weight.ndim == 2
        ),
        window=window,
        full_layers=full_layers,
    )


def _windows(config: Any) -> tuple[int, int]:
    """(patches of a window, layers without windows) as Qwen2.5-VL has them, (0, 0) elsewhere."""
    full = getattr(config, "fullatt_block_indexes", None)
    if full is None:
        return 0, 0
    merge = config.spatial_merge_size
    side = config.window_size // config.patch_size // merge * merge
    return side * side, len(full)


def _stack(layers: nn.ModuleList, what: str) -> tuple[_Layer, int]:
    shapes = {_layer(layer, what) for layer in layers}
    if len(shapes) != 1:
        raise UsageError(f"the {what} has layers of {len(shapes)} shapes: its MACs are not known")
    return shapes.pop(), len(layers)


def _is_block(layers: nn.ModuleList) -> bool:
    return len(layers) > 0 and _child(layers[0], _ATTENTION) is not None


def _layer(layer: nn.Module, what: str) -> _Layer:
    """Widths from the two output maps; the input maps may be apart or fused."""
    attention, mlp = _child(layer, _ATTENTION), _child(layer, _MLP)
    out, down = _child(attention, _ATTENTION_OUT), _child(mlp, _MLP_OUT)
    if not (isinstance(out, nn.Linear) and isinstance(down, nn.Linear)):
        raise UsageError(
            f"the {what}'s {type(layer).__name__} is not attention and one FFN: its MACs are not known"
        )
    q_width, ffn = out.in_features, down.in_features
    keys_values, hidden = _outputs(attention) - out.out_features - q_width, _outputs(mlp) - down.out_features
    if keys_values <= 0 or keys_values % 2 or hidden not in (ffn, 2 * ffn):
        raise UsageError(f"the {what}'s {type(layer).__name__} has widths that do not fit one another")
    return _Layer(out.out_features, q_width, keys_values // 2, ffn, gated=hidden == 2 * ffn)


def _child(module: nn.Module | None, names: Sequence[str]) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((child for child in found if isinstance(child, nn.Module)), None)


def _outputs(module: nn.Module | None) -> int:
    """All output features of a block's linear maps."""
    return sum(m.out_features for m in module.modules() if isinstance(m, nn.Linear)) if module else 0
