"""How the margin of an answer changes with the visual tokens: one greedy answer, one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from vlmbench.models.decoding import answer_lengths, greedy_config
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.pruning import Applied

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs


@dataclass(frozen=True, eq=False)
class MarginGradient:
    """Of one greedy answer."""

    margin: float
    """Smallest gap between the two largest logits over its tokens, the end token included."""
    gradient: tuple[Tensor, ...]
    """Of that gap with respect to the visual tokens: [n, d], then [n, d] per layer of deepstack features."""

    def forecast(self, before: ImageFeatures, after: ImageFeatures) -> float | None:
        """The margin that the first-order expansion gives for other visual tokens; below 0 the answer is
        expected to change. None where their number differs."""
        if before.rows.shape != after.rows.shape:
            return None
        moved = zip(self.gradient, _layers(before), _layers(after), strict=True)
        return self.margin + sum(float((g * (b - a).float()).sum()) for g, a, b in moved)


class _Gaps(LogitsProcessor):  # type: ignore[misc]
    """Keeps the gap between the two largest logits of every step, with its graph."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        top = scores.float().topk(2, dim=-1).values
        self.steps.append(top[:, 0] - top[:, 1])
        return scores.detach()


def margin_gradients(
    adapter: Adapter,
    rows: Sequence[RowInputs],
    encoded: EncoderOutput,
    whole: Sequence[ImageFeatures],
    max_new_tokens: int,
) -> list[MarginGradient]:
    """One per row; `whole[i]` are the encoded images of row i, of which it needs one at least.

    The language model's own `generate` runs with gradients on, so that every family's masks and positions
    are those of its answers. Memory is that of a training step with frozen weights.
    """
    model: Any = adapter.model
    leaves = [_leaf(features) for features in whole]
    inputs = adapter.model_inputs(rows, encoded, Applied(tuple(leaves)))
    gaps, config = _Gaps(), greedy_config(model, max_new_tokens, adapter.pad_id)
    with frozen_weights(model), torch.enable_grad():
        # `generate` is wrapped in no_grad; what it wraps is not
        generate = type(model).generate.__wrapped__
        sequences = generate(
            model, **inputs, generation_config=config, logits_processor=LogitsProcessorList([gaps])
        )
        lengths = answer_lengths(sequences[:, inputs["input_ids"].shape[1] :].cpu(), config.eos_token_id)
        margins = torch.stack(gaps.steps, dim=1)
        within = torch.arange(margins.shape[1]) < torch.tensor(lengths)[:, None]
        smallest = margins.masked_fill(~within.to(margins.device), torch.inf).amin(1)
        wanted = [tensor for leaf in leaves for tensor in _layers(leaf)]
        found = iter(torch.autograd.grad(smallest.sum(), wanted))
    return [
        MarginGradient(float(margin), tuple(next(found).float() for _ in _layers(leaf)))
        for margin, leaf in zip(smallest.detach(), leaves, strict=True)
    ]


@torch.inference_mode()
def last_states(
    adapter: Adapter,
    rows: Sequence[RowInputs],
    encoded: EncoderOutput | None,
    whole: Sequence[ImageFeatures | None],
) -> Tensor:
    """[B, d] float32 on the CPU: the last prompt token's hidden state behind the final norm, from which the
    first answer token is read."""
    inputs = adapter.model_inputs(rows, encoded, Applied(tuple(whole)))
    seen: list[Tensor] = []
    # by way of `generate`, whose mask some families need; the hook lives during this call alone
    head = adapter.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        adapter.model.generate(**inputs, generation_config=greedy_config(adapter.model, 1, adapter.pad_id))
    finally:
        handle.remove()
    return seen[0][:, -1].float().cpu()


def _layers(features: ImageFeatures) -> tuple[Tensor, ...]:
    return features.rows, *features.deepstack


def _leaf(features: ImageFeatures) -> ImageFeatures:
    rows, *deep = (tensor.detach().clone().requires_grad_() for tensor in _layers(features))
    return replace(features, rows=rows, deepstack=tuple(deep))


@contextmanager
def frozen_weights(model: torch.nn.Module) -> Iterator[None]:
    """For the duration no weight asks for a gradient, so that none of their inputs is kept for one."""
    asked = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
