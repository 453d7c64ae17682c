"""The prefill as one launch: a CUDA graph of the language model, else what torch.compile makes of it.

Models check their inputs in ways that wait for the device, which no graph allows. So the model runs as usual
up to its decoder, where a hook takes the arguments over; decoder, head and choice of the token are the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vlmbench.engine.timing_stages import GraphPrefill

Maker = Callable[[Any, Mapping[str, Any]], GraphPrefill]
"""(model, arguments of generate) -> its prefill for inputs of these shapes."""

WARMUP = 3


class _Reached(BaseException):
    """The decoder was called."""


def decoder_arguments(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the model calls its decoder with for these arguments of `generate`."""
    found: dict[str, Any] = {}

    def take_over(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            raise TypeError(f"{type(module).__name__} is called with positional arguments")
        found.update(kwargs)
        raise _Reached

    handle = model.base_model.get_decoder().register_forward_pre_hook(take_over, with_kwargs=True)
    try:
        model.base_model(**inputs, use_cache=True)
    except _Reached:
        pass
    finally:
        handle.remove()
    # each run fills a cache of its own
    return {**found, "past_key_values": None, "use_cache": True}


def first_token(model: Any, arguments: Mapping[str, Any]) -> Tensor:
    """[B, 1]: decoder, head of the last column, greedy choice."""
    hidden = model.base_model.get_decoder()(**arguments).last_hidden_state
    token: Tensor = model.get_output_embeddings()(hidden[:, -1:]).argmax(-1)
    return token


def cuda_graphs() -> Maker:
    """Captures graphs that share one pool of memory: they never run at the same time."""
    pool: Any = torch.cuda.graph_pool_handle()

    def make(model: Any, inputs: Mapping[str, Any]) -> GraphPrefill:
        static = _copied(decoder_arguments(model, inputs))
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                first_token(model, static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            first_token(model, static)

        def replay(inputs: Mapping[str, Any]) -> None:
            fresh = _tensors(decoder_arguments(model, inputs))
            for old, new in zip(_tensors(static), fresh, strict=True):
                old.copy_(new)
            graph.replay()

        return replay

    return make


def compiled() -> Maker:
    """`torch.compile(mode="reduce-overhead")`: graphs of the parts that it can trace."""
    run = torch.compile(first_token, mode="reduce-overhead")

    def make(model: Any, inputs: Mapping[str, Any]) -> GraphPrefill:
        def again(inputs: Mapping[str, Any]) -> None:
            run(model, decoder_arguments(model, inputs))

        for _ in range(WARMUP):
            again(inputs)
        return again

    return make


def find_maker(model: Any, inputs: Mapping[str, Any], notes: list[str]) -> Maker | None:
    """The first way that works on these inputs; None, and in `notes` why, where none does."""
    reasons = []
    for name, ways in (("CUDA graph", cuda_graphs), ("torch.compile", compiled)):
        try:
            maker = ways()
            maker(model, inputs)
            torch.cuda.synchronize()
        except Exception as error:
            reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
        else:
            if reasons:
                notes.append(f"speed: prefills of mode graph are compiled: {reasons[0]}")
            return maker
    notes.append(f"speed: no prefill of mode graph: {'; '.join(reasons)}")
    return None


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_copied(each) for each in value])
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
