"""The prompt read up to one layer of the language model, and what its next layers would be called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vlmbench.errors import UsageError
from vlmbench.models.inside import stopped_before
from vlmbench.models.inside_needs import Enough
from vlmbench.models.prefix import FirstPass, first_pass
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
    first: FirstPass | None = None
    """What a later prompt of the same beginning can take up; see `models.prefix`."""


@torch.no_grad()
def early_states(
    adapter: Adapter,
    rows: Sequence[RowInputs],
    encoded: EncoderOutput,
    whole: Sequence[ImageFeatures | None],
    layer: int,
    count: int = 1,
    keep: bool = False,
) -> EarlyStates:
    """Hidden states in front of `layer`, and the arguments of it and the `count` - 1 layers behind it.

    No layer from there on is run, but where the layers take turns (Gemma 3: of sliding and full attention)
    and a kind of them first comes behind `layer`. Unlike under inference mode a network can be trained on
    what this returns. With `keep` it also says what the answer's prompt can take up, where the model allows
    it: keys and values of all layers in front of `layer` stay in memory with it.
    """
    model = adapter.model
    decoder = model.base_model.get_decoder()
    depth = len(decoder.layers)
    if not (1 <= layer < depth and 1 <= count <= depth - layer):
        raise UsageError(f"layers {layer} to {layer + count - 1}: the language model has 0 to {depth - 1}")
    kinds = list(getattr(decoder.config, "layer_types", None) or [""] * depth)
    wanted = kinds[layer : layer + count]
    first = {kind: kinds.index(kind) for kind in wanted}
    keep = keep and set(kinds[layer:]) <= set(wanted)
    caches: list[Any] = []
    seen: dict[int, dict[str, Any]] = {}
    states: list[Tensor] = []
    inputs = adapter.model_inputs(rows, encoded, Applied(tuple(whole)))

    def look(number: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            named = {"hidden_states": args[0], **kwargs} if args else dict(kwargs)
            hidden = named.pop("hidden_states")
            if number == layer:
                states.append(hidden)
                caches.append(named.get("past_key_values"))
            seen[number] = named | {"past_key_values": None}

        return hook

    with ExitStack() as stack:
        for number in {layer, *first.values()}:
            handle = decoder.layers[number].register_forward_pre_hook(look(number), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(suppress(Enough))
        stack.enter_context(stopped_before(model, max(layer, *first.values())))
        # what `generate` makes of the inputs: its positions and masks some families need
        ready = model.prepare_inputs_for_generation(
            past_key_values=DynamicCache(config=model.config.get_text_config()),
            is_first_iteration=True,
            use_cache=True,
            **inputs,
        )
        model(**ready)
    arguments = [seen[first[kind]] for kind in (kinds[layer:] if keep else wanted)]
    taken_up = first_pass(model, inputs, rows, states[0], caches[0], arguments) if keep else None
    return EarlyStates(states[0], tuple(arguments[:count]), visual_columns(adapter, inputs), taken_up)
