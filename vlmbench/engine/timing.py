"""The separate timing pass, from which every speed of a table comes.

A seeded sample of a task's items makes one batch, which each condition goes through from pixels to the last
token, nothing reused, several times. All conditions take turns in every repeat, clean among them, in an order
drawn anew, so that what disturbs the machine disturbs all alike; speed-ups are ratios within a repeat.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from vlmbench.engine import timing_graph
from vlmbench.engine.timing_bound import bound_of, launch_share, measure_probe
from vlmbench.engine.timing_stages import GraphPrefill, Ready, Stages, before_llm, inside, run_once
from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.metrics.cost import LlmShape, head_macs, prefill_macs
from vlmbench.models.shape import llm_shape
from vlmbench.schema import Estimate, Speed
from vlmbench.seeds import seed_for

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter

OPS, GRAPH = "ops", "graph"
LEAST_REPEATS = 5

Key = TypeVar("Key")
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class TimingSettings:
    """How the timing pass measures. Raises UsageError for what cannot be meant."""

    batch: int = 1
    new_tokens: int = 8
    """Of every answer, whatever it says."""
    repeats: int = 7
    """Six are the fewest whose extremes are a 95 % interval of the median."""
    warmup: int = 1
    """Passes of each condition that are not counted."""
    seed: int = 0
    newline: str = "counted"
    graph: bool = True
    """Whether rows of mode `graph` are tried where the device is CUDA."""

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("new_tokens", 1), ("repeats", LEAST_REPEATS), ("warmup", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"timing: {name} must be {least} or more: got {getattr(self, name)}")


@dataclass(frozen=True)
class Timing:
    """Speeds by condition id, one per mode, and what could not be measured."""

    speeds: Mapping[str, list[Speed]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Way:
    """What takes turns: a condition in a mode."""

    condition: str
    mode: str


def time_ready(adapter: Adapter, ready: Mapping[str, Ready], settings: TimingSettings) -> Timing:
    """Speeds of conditions that are ready; the first is the reference, clean. All have equally many rows.

    A condition that fails is left out with a note, for which the run goes on; without clean there are none.
    """
    if not ready:
        return Timing()
    notes: list[str] = []
    reference = next(iter(ready))
    graphs: dict[str, GraphPrefill] = {}
    ways: list[_Way] = []
    shares: dict[_Way, float | None] = {}

    def once(way: _Way) -> Stages:
        graph = graphs[way.condition] if way.mode == GRAPH else None
        return run_once(adapter, ready[way.condition], settings.new_tokens, graph)

    for condition in ready:
        way = _Way(condition, OPS)
        try:
            for _ in range(max(1, settings.warmup)):
                once(way)
            shares[way] = _launch_share(adapter, ready[condition])
        except (RuntimeError, ValueError, IndexError, TypeError, ItemError, NotApplicableError) as error:
            notes.append(f"speed: {condition} was not timed: {' '.join(str(error).split())[:200]}")
            if condition == reference:
                return Timing({}, tuple(notes))
        else:
            ways.append(way)
    if settings.graph and adapter.device.type == "cuda":
        graphs |= _graphs(adapter, {way.condition: ready[way.condition] for way in ways}, notes)
        for condition in graphs:
            way = _Way(condition, GRAPH)
            shares[way] = _launch_share(adapter, ready[condition], graphs[condition])
            ways.append(way)
    samples = interleave(ways, once, settings.repeats, settings.seed)
    shape, probe = _shape(adapter), measure_probe(adapter.device, adapter.model.dtype)
    weights = _weight_bytes(adapter)
    speeds: dict[str, list[Speed]] = {}
    for way in ways:
        own, clean = samples[way], samples[_Way(reference, way.mode)]
        macs = None if shape is None else _macs(shape, own[0].lengths) * settings.batch
        # the least disturbed, as the probe's
        seconds = min(s.prefill for s in own) / 1e3
        bound = bound_of(seconds, macs, weights, probe, shares[way])
        speed = summarise(own, clean, ready[way.condition].stage, settings, way.mode, bound)
        speeds.setdefault(way.condition, []).append(speed)
    return Timing(speeds, tuple(notes))


def interleave(
    keys: Sequence[Key], measure: Callable[[Key], Measured], repeats: int, seed: int
) -> dict[Key, list[Measured]]:
    """`repeats` measurements of each key; in every repeat each has its turn, in an order drawn by seed."""
    found: dict[Key, list[Measured]] = {key: [] for key in keys}
    order = list(keys)
    draw = random.Random(seed_for(seed, "timing"))
    with _no_garbage_collection():
        for _ in range(repeats):
            draw.shuffle(order)
            for key in order:
                found[key].append(measure(key))
    return found


def summarise(
    own: Sequence[Stages],
    clean: Sequence[Stages],
    stage: str | None,
    settings: TimingSettings,
    mode: str = OPS,
    bound: str = "",
) -> Speed:
    """The row of one condition; `own[i]` and `clean[i]` are of one repeat.

    `method_ms` counts the pruner and what taking its tokens out of the prompt adds to assembling clean's;
    null where the method works in the language model (its time is in the prefill) or on the image (before
    all that is timed). `ttft_ms` counts the assembling too. Prefills of mode graph give no answer, so that
    their totals are null.
    """
    assemble = statistics.median(s.assemble for s in clean)
    ttft = median_estimate([s.ttft for s in own])
    peaks = [s.peak_bytes for s in own if s.peak_bytes is not None]
    return Speed(
        batch=settings.batch,
        new_tokens=settings.new_tokens,
        repeats=len(own),
        mode=mode,
        bound=bound,
        visual_tokens=own[0].visual_tokens,
        encode_ms=statistics.median(s.encode for s in own),
        method_ms=None
        if stage in {"llm", "image"}
        else statistics.median(s.prune + s.assemble for s in own) - assemble,
        prefill_ms=statistics.median(s.prefill for s in own),
        ttft_ms=ttft,
        total_ms=median_estimate([s.total for s in own]),
        prefill_speedup=_speedup([s.prefill for s in clean], [s.prefill for s in own]),
        ttft_speedup=_speedup([s.ttft for s in clean], [s.ttft for s in own]),
        total_speedup=_speedup([s.total for s in clean], [s.total for s in own]),
        peak_bytes=max(peaks) if peaks else None,
    )


def median_estimate(values: Sequence[float | None]) -> Estimate:
    """Median with a 95 % interval of order statistics; no value where one is missing."""
    known = sorted(value for value in values if value is not None)
    if not known or len(known) < len(values):
        return Estimate(value=None)
    rank = interval_rank(len(known))
    return Estimate(
        value=statistics.median(known), low=known[rank - 1], high=known[len(known) - rank], n=len(known)
    )


def interval_rank(n: int) -> int:
    """The largest r for which the r-th smallest to the r-th largest of n values holds the median of any
    continuous distribution with probability 1 - 2 P(Binomial(n, 1/2) < r) >= .95; at least 1.

    Below six values even smallest to largest reaches less: .9375 with five.
    """
    rank, below = 1, 0.5**n
    while True:
        below += math.comb(n, rank) * 0.5**n
        if 2 * below > 0.05:
            return rank
        rank += 1


def _speedup(clean: Sequence[float | None], own: Sequence[float | None]) -> Estimate:
    pairs = zip(clean, own, strict=True)
    return median_estimate([None if a is None or b is None else a / b for a, b in pairs])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Its pauses would fall on whatever condition has its turn."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@torch.inference_mode()
def _launch_share(adapter: Adapter, ready: Ready, graph: GraphPrefill | None = None) -> float | None:
    """Of a prefill; None on a CPU. `generate` itself waits for the device: the model is called directly."""
    if adapter.device.type != "cuda":
        return None
    batch = before_llm(adapter, ready)

    def run() -> object:
        if graph is not None:
            return graph(batch.inputs)
        with inside(adapter, ready, batch):
            return adapter.model.base_model(**batch.inputs, use_cache=True)

    run()
    return launch_share(run, adapter.device)


@torch.inference_mode()
def _graphs(adapter: Adapter, ready: Mapping[str, Ready], notes: list[str]) -> dict[str, GraphPrefill]:
    """Prefills of one launch, for clean and the conditions that allow it; empty, with a note, where clean
    does not. What is selected inside the language model cannot be one: its choice waits for the device."""
    found: dict[str, GraphPrefill] = {}
    maker: Any = None
    for condition, each in ready.items():
        if each.stage == "llm":
            continue
        try:
            inputs = before_llm(adapter, each).inputs
            if maker is None:
                maker = timing_graph.find_maker(adapter.model, inputs, notes)
                if maker is None:
                    return {}
            graph = maker(adapter.model, inputs)
            run_once(adapter, each, 1, graph)
            found[condition] = graph
        except Exception as error:
            notes.append(
                f"speed: {condition} has no prefill of mode graph: {' '.join(str(error).split())[:200]}"
            )
            if not found:
                return {}
    return found


def _shape(adapter: Adapter) -> LlmShape | None:
    try:
        return llm_shape(adapter.model)
    except UsageError:  # a mixture of experts
        return None


def _macs(shape: LlmShape, lengths: Sequence[int]) -> int:
    return prefill_macs(shape, lengths) + head_macs(shape)


def _weight_bytes(adapter: Adapter) -> int:
    """Of the language model and its head, without the embeddings, of which a prefill reads a few rows."""
    model = adapter.model
    decoder = model.base_model.get_decoder()
    weights = {id(p): p for layer in decoder.layers for p in layer.parameters()}
    weights |= {id(p): p for p in model.get_output_embeddings().parameters()}
    return sum(p.numel() * p.element_size() for p in weights.values())
