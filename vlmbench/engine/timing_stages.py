"""One measurement of one condition: a batch through vision tower, method, prefill and decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vlmbench.engine.timing_bound import launch_share
from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.metrics.cost import head_macs, prefill_macs
from vlmbench.models.before import Told
from vlmbench.models.decoding import greedy_config
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.inside import InsideLog
from vlmbench.models.prefix import Begun
from vlmbench.models.pruning import Applied, entering
from vlmbench.models.shape import llm_shape

if TYPE_CHECKING:
    from vlmbench.engine.timing_look import Look
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs
    from vlmbench.prune.base import Pruner

GraphPrefill = Callable[[Mapping[str, Any]], None]
"""Reads the prompt whose arguments of `generate` it is given, without an answer."""

FAILURES = (RuntimeError, ValueError, IndexError, TypeError, ItemError, NotApplicableError)
"""What leaves a condition out of a batch, for which the run goes on."""


@dataclass(frozen=True, eq=False)
class Ready:
    """One condition on the requests of one timed batch."""

    rows: Sequence[RowInputs]
    pruner: Pruner | None = None
    """None for clean."""
    seeds: Sequence[tuple[int, ...]] = ()
    """Per row, a seed per image; empty for clean."""
    newline: str = "counted"
    told: Sequence[Told] = ()
    """Per row, for methods that read or know the question; see `Adapter.apply`."""
    look: Look | None = None
    """Where a RoI method looks again before the answer."""

    @property
    def stage(self) -> str | None:
        return None if self.pruner is None else self.pruner.stage


@dataclass(frozen=True)
class Stages:
    """What one pass of a batch took, in milliseconds; the device was waited for at the end of each stage."""

    encode: float
    prune: float
    """Estimator, selection and gathering of features; 0 where nothing is done before the language model."""
    assemble: float
    """Padding, position ids and, behind a method, taking its columns out of the prompt."""
    prefill: float
    """From there to the first token; behind a look, what it has read of the prompt is not read again."""
    total: float | None
    """From the start to the last token; None where only the prompt was read."""
    visual_tokens: float
    """Per request, entering the language model."""
    lengths: tuple[int, ...]
    """Columns that each of its layers works on, padding included."""
    new_tokens: int
    peak_bytes: int | None
    look: float | None = None
    """The pass that says where to look again, the crop and its encoding; None without a RoI method."""
    zoomed: float | None = None
    """Share of the rows that were shown a region."""

    @property
    def ttft(self) -> float:
        return self.encode + (self.look or 0.0) + self.prune + self.assemble + self.prefill


class _FirstToken(StoppingCriteria):  # type: ignore[misc]
    """Notes when the first token is there; never stops anything."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self.at is None:
            self.at = self.now()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def run_once(
    adapter: Adapter,
    ready: Ready,
    new_tokens: int,
    graph: GraphPrefill | None = None,
    seconds: Callable[[], float] = time.perf_counter,
) -> Stages:
    """The whole way of a batch without any reuse: every row's image is encoded with what THIS method needs.

    The answer has exactly `new_tokens` tokens; with `graph` in place of the prefill there is none.
    `seconds` is the clock. Raises NotApplicableError where the method cannot serve a row.
    """

    def now() -> float:
        adapter.synchronize()
        return seconds() * 1e3

    held = _reset_peak(adapter.device)
    start = now()
    encoded = encode(adapter, ready)
    encoding = now()
    asked = looked(adapter, ready, encoded, new_tokens)
    ready = asked.ready
    looking = now()
    applied = apply(adapter, ready, encoded, asked.features)
    pruning = now()
    inputs = adapter.model_inputs(ready.rows, encoded, applied)
    assembling = now()
    log: InsideLog | None = None
    total: float | None = None
    made = 0
    if graph is None:
        inputs = adapter.resumed(inputs, ready.rows, encoded, applied, asked.begun)
        first = _FirstToken(now)
        with adapter.program(inputs, applied) as log:
            made = _generate(adapter, inputs, new_tokens, first)
        end = now()
        assert first.at is not None
        prefill, total = first.at - assembling, end - start
    else:
        graph(inputs)
        prefill = now() - assembling
    return Stages(
        encode=encoding - start,
        prune=pruning - looking,
        assemble=assembling - pruning,
        prefill=prefill,
        total=total,
        visual_tokens=sum(len(part.rows) for part in applied.visual if part) / len(applied.visual),
        lengths=_lengths(adapter, inputs, log, asked.begun),
        new_tokens=made,
        peak_bytes=None if held is None else torch.cuda.max_memory_allocated(adapter.device) - held,
        look=None if ready.look is None else looking - encoding,
        zoomed=asked.zoomed,
    )


@torch.inference_mode()
def before_llm(adapter: Adapter, ready: Ready) -> tuple[dict[str, Any], Applied]:
    """The batch as it enters the language model, read from its first token on, and what goes on inside it."""
    encoded = encode(adapter, ready)
    asked = looked(adapter, ready, encoded)
    applied = apply(adapter, asked.ready, encoded, asked.features)
    return adapter.model_inputs(asked.ready.rows, encoded, applied), applied


def encode(adapter: Adapter, ready: Ready) -> EncoderOutput:
    pruner = ready.pruner
    needs = None if pruner is None or pruner.stage == "image" else pruner.needs
    if ready.look is not None:
        needs = needs or frozenset()
    return adapter.encode(ready.rows, needs)


@dataclass(frozen=True, eq=False)
class Asked:
    """A batch as it is to be answered."""

    ready: Ready
    features: Sequence[ImageFeatures]
    begun: Sequence[Begun | None] = ()
    zoomed: float | None = None


def looked(adapter: Adapter, ready: Ready, encoded: EncoderOutput, new_tokens: int = 0) -> Asked:
    """With the regions given back, where a RoI method looks; as it is where none does.

    Raises NotApplicableError where it cannot serve a row, or the prompt with the region is too long.
    """
    if ready.look is None:
        return Asked(ready, encoded.features)
    # as the engine looks: some methods need gradients, which inference mode forbids
    with torch.inference_mode(False), torch.no_grad():
        found = ready.look(encoded)
    rows = [each.prepared.row for each in found]
    longest = max(row.length for row in rows) + new_tokens
    if adapter.context is not None and longest > adapter.context:
        raise NotApplicableError(f"{longest} prompt and new tokens exceed the context of {adapter.context}")
    again = replace(ready, rows=rows, **ready.look.for_pruner(ready.pruner, found))
    zoomed = sum(each.region is not None for each in found) / len(found)
    begun = [each.begun if ready.pruner is None else None for each in found]
    return Asked(again, [each.features for each in found], begun, zoomed)


def apply(
    adapter: Adapter, ready: Ready, encoded: EncoderOutput, features: Sequence[ImageFeatures] | None = None
) -> Applied:
    """What the language model is given; `features` behind a look. Raises NotApplicableError where a row
    cannot be served."""
    whole = encoded.features if features is None else features
    if ready.pruner is None:
        return Applied(tuple(map(entering, whole)))
    return adapter.apply(ready.pruner, ready.rows, whole, ready.seeds, ready.newline, ready.told).served()


@torch.inference_mode()
def prefill_launch_share(adapter: Adapter, ready: Ready, graph: GraphPrefill | None = None) -> float | None:
    """`launch_share` of a prefill; None on a CPU. `generate` itself waits for the device: the model is called
    directly."""
    if adapter.device.type != "cuda":
        return None
    inputs, applied = before_llm(adapter, ready)

    def run() -> object:
        if graph is not None:
            return graph(inputs)
        with adapter.program(inputs, applied):
            return adapter.model.base_model(**inputs, use_cache=True)

    run()
    return launch_share(run, adapter.device)


def warm_up(
    adapter: Adapter, samples: dict[int, Ready], new_tokens: int, passes: int, failures: list[str]
) -> float | None:
    """Passes, one at least, of the first sample that works, and its launch share; those before it are taken
    out, and in `failures` why."""
    for i, ready in list(samples.items()):
        try:
            for _ in range(max(1, passes)):
                run_once(adapter, ready, new_tokens)
            return prefill_launch_share(adapter, ready)
        except FAILURES as error:
            failures.append(told(error))
            del samples[i]
    return None


def told(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def prefill_macs_of(adapter: Adapter, lengths: Sequence[int], rows: int) -> int | None:
    """Of a batch's prefill and head; None for a mixture of experts."""
    try:
        shape = llm_shape(adapter.model)
    except UsageError:
        return None
    return rows * (prefill_macs(shape, lengths) + head_macs(shape))


def weight_bytes(adapter: Adapter) -> int:
    """Of the language model and its head, without the embeddings, of which a prefill reads a few rows."""
    model = adapter.model
    decoder = model.base_model.get_decoder()
    weights = {id(p): p for layer in decoder.layers for p in layer.parameters()}
    weights |= {id(p): p for p in model.get_output_embeddings().parameters()}
    return sum(p.numel() * p.element_size() for p in weights.values())


def exact_length(model: Any, new_tokens: int, pad_id: int) -> GenerationConfig:
    """Greedy decoding of exactly `new_tokens` tokens: an end token is never chosen before."""
    config = greedy_config(model, new_tokens, pad_id)
    config.min_new_tokens = new_tokens
    return config


def _generate(adapter: Adapter, inputs: Mapping[str, Any], new_tokens: int, first: _FirstToken) -> int:
    """Tokens generated per row."""
    sequences = adapter.model.generate(
        **inputs,
        generation_config=exact_length(adapter.model, new_tokens, adapter.pad_id),
        stopping_criteria=StoppingCriteriaList([first]),
    )
    return int(sequences.shape[1] - inputs["input_ids"].shape[1])


def _lengths(
    adapter: Adapter, inputs: Mapping[str, Tensor], log: InsideLog | None, begun: Sequence[Begun | None] = ()
) -> tuple[int, ...]:
    width = int(inputs["input_ids"].shape[1])
    if "past_key_values" in inputs and begun and begun[0] is not None:
        read = len(begun[0].first.cache)
        return (width,) * read + (int(inputs["attention_mask"].shape[1]),) * (adapter.layers - read)
    if log is None:
        return (width,) * adapter.layers
    return tuple(width - max(log.entered[0]) + max(entered) for entered in log.entered)


def _reset_peak(device: torch.device) -> int | None:
    """Bytes allocated now, from which the peak is counted; None where the device does not tell."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
