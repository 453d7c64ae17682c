"""What a method inside the language model asked to see in front of its cut, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.inside_left import Left
from vlmbench.models.inside_rows import Segment
from vlmbench.models.taps import AttentionCall, attention_tap
from vlmbench.prune.base import Inner

LAST = slice(-1, None)
_BEFORE = frozenset({"llm_attention", "llm_text_attention", "llm_keys"})
"""Seen in the attention of the layer before the cut."""
_INPUTS = frozenset({"llm_inputs", "llm_all_inputs"})
"""Seen in front of layer 0."""
_AT_ONCE = 2**24
"""Attention weights of several heads that are computed together."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """Of the attention call in the layer before a cut."""

    last: Tensor | None
    """[B, W]: of the last prompt token, mean over heads."""
    call: AttentionCall | None


class Needs:
    """Watches one reading of the prompt by a decoder, for cuts before the layers `places`."""

    def __init__(self, needs: frozenset[str], decoder: Any, places: Collection[int]) -> None:
        self._needs, self._decoder, self._places = needs, decoder, places
        self._seen: dict[int, _Seen] = {}
        self._inputs: Tensor | None = None
        self._reading = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """For the duration: taps and hooks for what is asked for."""
        layers = self._decoder.layers
        with ExitStack() as stack:
            if self._needs & _BEFORE:
                modules = {layers[k - 1].self_attn: k for k in self._places}
                stack.enter_context(attention_tap(list(modules), self._observer(modules)))
            if self._needs & _INPUTS:
                handle = layers[0].register_forward_pre_hook(self._receive, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _observer(self, modules: Mapping[nn.Module, int]) -> Callable[[nn.Module, AttentionCall], None]:
        def observe(module: nn.Module, call: AttentionCall) -> None:
            if not self._reading:
                return
            last = call.weights(LAST)[:, :, 0].mean(1) if "llm_attention" in self._needs else None
            # queries wait for the cut, where the columns of text and images are known; values are not needed
            later = bool(self._needs & {"llm_text_attention", "llm_keys"})
            self._seen[modules[module]] = _Seen(last, replace(call, value=call.key) if later else None)

        return observe

    def _receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._reading and self._inputs is None:
            self._inputs = args[0] if args else kwargs["hidden_states"]

    def done(self, layer: int) -> None:
        """Forgets what was kept for the cut before `layer`."""
        self._seen.pop(layer, None)
        if layer == max(self._places):
            self._reading, self._inputs = False, None

    def inner(self, layer: int, hidden: Tensor, segment: Segment, following: Tensor | None) -> _Inners:
        """For the images that are cut before `layer`; `hidden` [B, W, d] and `following` [B, W] are uncut."""
        return _Inners(self, layer, hidden, segment, following)


class _Inners:
    """`Inner` of each image at one cut; what the images of a row share is computed once."""

    def __init__(
        self, needs: Needs, layer: int, hidden: Tensor, segment: Segment, following: Tensor | None
    ) -> None:
        self._needs, self._decoder, self._inputs = needs._needs, needs._decoder, needs._inputs
        self._layer, self._hidden, self._segment, self._next = layer, hidden, segment, following
        self._seen = needs._seen.get(layer, _Seen(None, None))
        self._rows: dict[int, Tensor] = {}

    def of(self, left: Left, text: Tensor) -> Inner:
        """For one image in a row whose text tokens stand in the columns `text` [T]."""
        row, last, call = left.row, self._seen.last, self._seen.call
        keys = call.key[row].transpose(0, 1).flatten(1) if call and "llm_keys" in self._needs else None
        inputs = None if self._inputs is None else self._inputs[row]
        own = None if inputs is None else _take(inputs, left.span.index)
        return Inner(
            layer=self._layer,
            layers=len(self._decoder.layers),
            text=_take(self._hidden[row], text),
            norm=final_norm(self._decoder),
            attention=None if last is None else _take(last[row], left.columns),
            next_attention=None if self._next is None else _take(self._next[row], left.columns),
            text_attention=self._text_attention(left, text),
            keys=None if keys is None else _take(keys, left.columns),
            text_keys=None if keys is None else _take(keys, text),
            inputs=left.mix(own) if own is not None and "llm_inputs" in self._needs else None,
            all_inputs=own if "llm_all_inputs" in self._needs else None,
            text_inputs=None if inputs is None else _take(inputs, self._segment.index[row, text]),
        )

    def _text_attention(self, left: Left, text: Tensor) -> Tensor | None:
        call = self._seen.call
        if call is None or "llm_text_attention" not in self._needs:
            return None
        if left.row not in self._rows:
            self._rows[left.row] = mean_rows(call.row(left.row), text.to(call.query.device))
        rows = self._rows[left.row]
        return rows[:, left.columns.to(rows.device)]


def next_attention(layer: nn.Module, arguments: Mapping[str, Any]) -> Tensor:
    """[B, W]: of the last prompt token in `layer`, with its `arguments` for B sequences of W columns.

    The layer runs up to its attention and without a cache; by `forward`, so that no hook on it fires.
    """
    found = []

    def observe(_: nn.Module, call: AttentionCall) -> None:
        found.append(call.weights(LAST)[:, :, 0].mean(1))
        raise Enough

    try:
        with attention_tap([cast("nn.Module", layer.self_attn)], observe):
            layer.forward(**{**arguments, "past_key_values": None})
    except Enough:
        pass
    return found[0]


class Enough(BaseException):
    """All that was asked for has been seen."""


def mean_rows(call: AttentionCall, queries: Tensor) -> Tensor:
    """[q, K] float32: softmax rows of the `queries` [q] of ONE sequence, mean over heads."""
    heads = call.query.shape[1]
    total = torch.zeros(len(queries), call.key.shape[2], device=call.query.device)
    step = max(1, _AT_ONCE // max(1, total.numel()))
    for first in range(0, heads, step):
        total += call.weights(queries, slice(first, first + step))[0].sum(0)
    return total / heads


def final_norm(decoder: Any) -> Callable[[Tensor], Tensor]:
    """The norm behind the last layer, under the names that decoders give it."""
    for name in ("norm", "final_layernorm", "final_norm", "ln_f"):
        norm: Callable[[Tensor], Tensor] | None = getattr(decoder, name, None)
        if norm is not None:
            return norm

    def missing(_: Tensor) -> Tensor:
        raise UsageError(f"{type(decoder).__name__} has no final norm by a known name: use fastv")

    return missing


def _take(rows: Tensor, index: Tensor) -> Tensor:
    return rows[index.to(rows.device)]
