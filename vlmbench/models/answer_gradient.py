"""How likely the first answer token is, as a function of where the model looks and of what it sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models import features
from vlmbench.models.decoding import greedy_config
from vlmbench.models.gradient import frozen_weights
from vlmbench.models.inputs import merge_vision
from vlmbench.models.inside_needs import LAST
from vlmbench.models.pruning import Applied
from vlmbench.models.responses import attention_modules, visual_columns
from vlmbench.models.taps import AttentionCall, attention_tap

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.features import EncoderOutput, ImageFeatures
    from vlmbench.models.inputs import RowInputs


@dataclass(frozen=True, eq=False)
class AttentionGradient:
    """Of one request, for the token that greedy decoding writes first."""

    attention: Mapping[int, Tensor]
    """Layer -> [A, n] float32 on the CPU: softmax row of the last prompt token, the n visual tokens of it."""
    gradient: Mapping[int, Tensor]
    """The same shape: d log p / d attention, each weight on its own, with all that follows from it in later
    layers."""


def attention_gradients(
    adapter: Adapter,
    rows: Sequence[RowInputs],
    encoded: EncoderOutput,
    whole: Sequence[ImageFeatures | None],
    layers: Sequence[int],
) -> list[AttentionGradient]:
    """One per row; p is the probability of the likeliest first answer token.

    The output of an attention row is its weights times the values, so the gradient of a weight is that of
    the output times a value: the model keeps its fast attention, and no graph reaches back beyond the first
    of `layers`.
    """
    inputs = adapter.model_inputs(rows, encoded, Applied(tuple(whole)))
    wanted, columns = attention_modules(adapter.model, layers), visual_columns(adapter, inputs)
    calls: dict[int, tuple[Tensor, Tensor]] = {}
    leaves: dict[int, Tensor] = {}

    def observe(module: nn.Module, call: AttentionCall) -> None:
        with torch.no_grad():
            calls[wanted[module]] = call.weights(LAST)[:, :, 0], call.value.detach()

    with ExitStack() as stack:
        stack.enter_context(attention_tap(list(wanted), observe))
        for module, layer in wanted.items():
            stack.enter_context(_leaf(module, leaves, layer))
        log_p = stack.enter_context(_first_token(adapter, inputs))
        found = dict(zip(leaves, torch.autograd.grad(log_p.sum(), list(leaves.values())), strict=True))
    attention = {layer: columns.of(weights) for layer, (weights, _) in calls.items()}
    gradient = {layer: columns.of(_per_weight(found[layer], calls[layer][1])) for layer in calls}
    pairs = zip(columns.split(attention), columns.split(gradient), strict=True)
    return [AttentionGradient(*pair) for pair in pairs]


@contextmanager
def _leaf(module: nn.Module, leaves: dict[int, Tensor], layer: int) -> Iterator[None]:
    """For the duration: nothing, as a variable, is added to what attention gives the last prompt token."""
    out = getattr(module, "o_proj", None)
    if not isinstance(out, nn.Module):
        raise UsageError(
            f"{type(module).__name__} has no o_proj: the gradient of its attention cannot be read; "
            "use another method"
        )

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        leaves[layer] = torch.zeros_like(args[0][:, -1:]).requires_grad_()
        return torch.cat([args[0][:, :-1], args[0][:, -1:] + leaves[layer]], dim=1), *args[1:]

    handle = out.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _per_weight(gradient: Tensor, value: Tensor) -> Tensor:
    """[B, H, K] float32 from d log p / d output [B, 1, H D] and values [B, H_k, K, D]."""
    shared, width = value.shape[1], value.shape[-1]
    of_heads = gradient[:, 0].float().reshape(len(gradient), shared, -1, width)
    return torch.einsum("bgrd,bgkd->bgrk", of_heads, value.float()).flatten(1, 2)


def pixel_gradients(adapter: Adapter, rows: Sequence[RowInputs]) -> list[Tensor]:
    """Per row d log p / d pixels, float32 on the CPU, shaped as the row's own `pixel_values`: see `picture`.

    p is the probability of the likeliest first answer token; pixels are those of the model's input, as the
    processor normalised them. Memory is that of a training step with frozen weights.
    """
    device, dtype = adapter.device, adapter.model.dtype
    merged = {
        key: value.to(device, dtype if value.is_floating_point() else None)
        for key, value in merge_vision([row.vision for row in rows]).items()
    }
    pixels = merged["pixel_values"] = merged["pixel_values"].detach().clone().requires_grad_()
    counts = [row.visual_tokens for row in rows]
    with ExitStack() as stack:
        stack.enter_context(frozen_weights(adapter.model))
        stack.enter_context(torch.enable_grad())
        # `encode` is wrapped in inference_mode; what it wraps is not
        encode: Any = features.encode
        encoded = encode.__wrapped__(adapter.model, merged, counts)
        inputs = adapter.model_inputs(rows, encoded, Applied(encoded.features))
        log_p = stack.enter_context(_first_token(adapter, inputs))
        (found,) = torch.autograd.grad(log_p.sum(), [pixels])
    parts = torch.split(found.float().cpu(), [len(row.vision["pixel_values"]) for row in rows])
    own = [row.vision["pixel_values"].shape for row in rows]
    return [part[tuple(slice(n) for n in shape)] for part, shape in zip(parts, own, strict=True)]


def picture(
    config: Any, vision: Mapping[str, Tensor], values: Tensor, tiles: Sequence[int], image: int, tile: int
) -> Tensor:
    """[c, h, w]: one of the pictures in `values`, which are shaped as the `pixel_values` of a row.

    `config` is the model's, `vision` the row's tensors.

    `tiles` are those of each of its images, as the visual tokens count them; `image` and `tile` choose one.
    Values of a picture that enters twice, as the frames of a film, are added up. Raises NotApplicableError
    for a layout that is not known.
    """
    grid = vision.get("image_grid_thw")
    if grid is not None:
        sizes = grid.prod(1).tolist()
        own = config.vision_config
        shape = own.spatial_merge_size, own.temporal_patch_size, own.patch_size
        return _unfolded(torch.split(values, sizes)[image], grid[image].tolist(), *shape)
    if values.ndim == 5 and len(values) == len(tiles):
        return values[image, tile]
    if values.ndim not in (4, 5):
        raise NotApplicableError("the pixels of this model are no pictures: their gradient has no place")
    found = values.reshape(-1, *values.shape[-3:])[sum(tiles[:image]) + tile]
    if "image_sizes" in vision and values.ndim == 4:
        high, wide = vision["image_sizes"][image].tolist()
        return found[:, :high, :wide]
    return found


def _unfolded(patches: Tensor, grid: Sequence[int], merge: int, times: int, side: int) -> Tensor:
    """Patches [frames high wide, c times side side], those of a token behind one another -> [c, h, w]."""
    frames, high, wide = grid
    split = patches.reshape(frames, high // merge, wide // merge, merge, merge, -1, times, side, side)
    return split.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).flatten(0, 1).sum(0).reshape(-1, high * side, wide * side)


class _First(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log probability of the first token, with its graph."""

    log_p: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.log_p = scores.log_softmax(-1).amax(-1)
        return scores.detach()


@contextmanager
def _first_token(adapter: Adapter, inputs: Mapping[str, Any]) -> Iterator[Tensor]:
    """[B]: log p of the first answer token with its graph, of which no weight is a part."""
    model: Any = adapter.model
    first, config = _First(), greedy_config(model, 1, adapter.pad_id)
    with frozen_weights(model), torch.enable_grad():
        # `generate` is wrapped in no_grad; what it wraps is not
        generate = type(model).generate.__wrapped__
        generate(model, **inputs, generation_config=config, logits_processor=LogitsProcessorList([first]))
        yield first.log_p
