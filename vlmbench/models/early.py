"""The prompt read up to one layer of the language model, and what its next layers would be called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.decoding import greedy_config
from vlmbench.models.inside import stopped_before
from vlmbench.models.inside_needs import Enough
from vlmbench.models.pruning import Applied
from vlmbench.models.responses import VisualColumns, visual_columns

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.features import EncoderOutput, ImageFeatures
    from vlmbench.models.inputs import RowInputs


@dataclass(frozen=True, eq=False)
class EarlyStates:
    """A left-padded batch of prompts in front of layer K; nothing in it asks for a gradient."""

    hidden: Tensor
    """[B, S, d]."""
    arguments: tuple[Mapping[str, Any], ...]
    """Of layer K and of those behind it that were asked for: mask, position embeddings and the like, for a
    call that keeps no cache."""
    columns: VisualColumns


@torch.no_grad()
def early_states(
    adapter: Adapter,
    rows: Sequence[RowInputs],
    encoded: EncoderOutput,
    whole: Sequence[ImageFeatures | None],
    layer: int,
    count: int = 1,
) -> EarlyStates:
    """Hidden states in front of `layer`, and the arguments of it and the `count` - 1 layers behind it.

    No layer from there on is run, but where the layers take turns (Gemma 3: of sliding and full attention)
    and a kind of them first comes behind `layer`. Unlike under inference mode a network can be trained on
    what this returns.
    """
    model = adapter.model
    decoder = model.base_model.get_decoder()
    depth = len(decoder.layers)
    if not (1 <= layer < depth and 1 <= count <= depth - layer):
        raise UsageError(f"layers {layer} to {layer + count - 1}: the language model has 0 to {depth - 1}")
    kinds = list(getattr(decoder.config, "layer_types", None) or [""] * depth)
    wanted = kinds[layer : layer + count]
    first = {kind: kinds.index(kind) for kind in wanted}
    seen: dict[int, dict[str, Any]] = {}
    states: list[Tensor] = []
    inputs = adapter.model_inputs(rows, encoded, Applied(tuple(whole)))

    def look(number: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            named = {"hidden_states": args[0], **kwargs} if args else dict(kwargs)
            hidden = named.pop("hidden_states")
            if number == layer:
                states.append(hidden)
            seen[number] = named | {"past_key_values": None}

        return hook

    with ExitStack() as stack:
        for number in {layer, *first.values()}:
            handle = decoder.layers[number].register_forward_pre_hook(look(number), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(suppress(Enough))
        stack.enter_context(stopped_before(model, max(layer, *first.values())))
        # by way of `generate`, whose positions and masks some families need
        model.generate(**inputs, generation_config=greedy_config(model, 1, adapter.pad_id))
    return EarlyStates(
        states[0], tuple(seen[first[kind]] for kind in wanted), visual_columns(adapter, inputs)
    )
