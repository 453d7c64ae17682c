"""Reading attention while the model computes it its own, fast way.

`attention_tap` hands every attention call of chosen modules to an observer, then lets the implementation in
use do its work: no eager attention for the whole model, no [heads, S, S] tensor unless an observer asks.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError

EVERYTHING = slice(None)


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One attention call: B sequences, Q queries, K keys, H heads, H_k <= H of them for keys."""

    query: Tensor
    """[B, H, Q, D], position embeddings applied."""
    key: Tensor
    """[B, H_k, K, D], position embeddings applied, cached keys included."""
    value: Tensor
    """[B, H_k, K, D_v]."""
    mask: Tensor | None
    """As the implementation got it: [B, 1 or H, Q, >= K], bool (True attends) or additive; [B, K] with flash
    attention, 0 where padded; None where it needs none."""
    scaling: float
    causal: bool
    """Whether the implementation itself hides later keys: no mask says it."""
    options: Mapping[str, Any]
    """Further arguments, e.g. `cu_seq_lens_q` of packed sequences, `sliding_window`, `softcap`."""

    def weights(self, queries: slice | Tensor = EVERYTHING, heads: slice = EVERYTHING) -> Tensor:
        """[B, h, q, K] float32: softmax rows of the chosen queries (indices into Q) and heads.

        Costs one einsum of that size. Queries that see no key at all get zeros. Packed sequences
        (`cu_seq_lens_q`, B = 1) do not see each other.
        """
        query = self.query[:, heads, queries].float()
        repeats = self.query.shape[1] // self.key.shape[1]
        owner = torch.arange(self.query.shape[1], device=query.device)[heads] // repeats
        logits = torch.einsum("bhqd,bhkd->bhqk", query, self.key[:, owner].float()) * self.scaling
        cap = self.options.get("softcap")
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        hidden = self._hidden(queries)
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[..., : self.key.shape[2]]
            mask = (mask[:, heads] if mask.shape[1] > 1 else mask)[:, :, queries]
            if mask.dtype == torch.bool:
                hidden = hidden | ~mask
            else:
                logits = logits + mask.float()
                hidden = hidden | (mask <= torch.finfo(mask.dtype).min)
        logits = logits.masked_fill(hidden, -torch.inf)
        return torch.nan_to_num(logits.softmax(-1))

    def row(self, index: int) -> AttentionCall:
        """One sequence of the batch, B = 1. Not for packed ones, which are one row: see `parts`."""
        one = slice(index, index + 1)
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else self.mask[one]
        return replace(self, query=self.query[one], key=self.key[one], value=self.value[one], mask=mask)

    def visible(self) -> Tensor:
        """[B, K] bool: keys that some query sees: all but padding."""
        if self.mask is None:
            shape = (self.key.shape[0], self.key.shape[2])
            return torch.ones(shape, dtype=torch.bool, device=self.key.device)
        if self.mask.ndim == 2:
            return self.mask[:, -self.key.shape[2] :].bool()
        mask = self.mask[..., : self.key.shape[2]]
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
        return seen.any(1).any(1).expand(self.key.shape[0], -1)

    def parts(self) -> list[AttentionCall]:
        """The packed sequences one by one, so that nobody pays for pairs that do not see each other."""
        bounds = self.options.get("cu_seq_lens_q")
        if bounds is None or self.key.shape[2] != self.query.shape[2]:
            return [self]
        options = {name: value for name, value in self.options.items() if "cu_seq_lens" not in name}
        ends = [int(end) for end in bounds.tolist()]
        return [
            replace(
                self,
                query=self.query[:, :, start:stop],
                key=self.key[:, :, start:stop],
                value=self.value[:, :, start:stop],
                options=options,
            )
            for start, stop in itertools.pairwise(ends)
        ]

    def _hidden(self, queries: slice | Tensor) -> Tensor:
        """Broadcastable to [B, h, q, K] bool: what the call hides without a 4-D mask."""
        n_queries, n_keys, device = self.query.shape[2], self.key.shape[2], self.query.device
        column = torch.arange(n_keys, device=device)
        row = torch.arange(n_keys - n_queries, n_keys, device=device)[queries, None]
        hidden = torch.zeros((row.shape[0], n_keys), dtype=torch.bool, device=device)
        if self.causal:
            hidden = column > row
            window = self.options.get("sliding_window")
            if window is not None:
                hidden = hidden | (column <= row - window)
        bounds = self.options.get("cu_seq_lens_q")
        if bounds is not None:
            bounds = bounds.to(device=device, dtype=column.dtype)[1:]
            part = [torch.searchsorted(bounds, index, right=True) for index in (row, column)]
            hidden = hidden | (part[0] != part[1])
        if self.mask is not None and self.mask.ndim == 2:
            return hidden | ~self.mask[:, None, None, -n_keys:].bool()
        return hidden


Observer = Callable[[nn.Module, AttentionCall], None]


@contextmanager
def attention_tap(modules: Collection[nn.Module], observer: Observer) -> Iterator[None]:
    """Calls `observer(module, call)` before every attention call of `modules`, e.g. `layer.self_attn`.

    All attention of transformers is looked up by the implementation's name in ALL_ATTENTION_FUNCTIONS; for
    the duration these names lead here first, then to what they meant before. Names do not change, so masks
    are built as always; outputs neither. Undone on exit, also by an exception; taps may be nested. Modules
    that are called several times (packed images under sdpa) are observed several times, in order.

    Raises UsageError for a module that does not look its attention up.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    chosen = frozenset(modules)
    names = {_implementation(module) for module in chosen}
    own: dict[str, Any] = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = {name: own[name] for name in names if name in own}

    def tapped(name: str) -> Callable[..., Any]:
        # eager is no entry: every modelling file brings its own
        original = ALL_ATTENTION_FUNCTIONS.get(name)

        def attention(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None = None,
            **options: Any,
        ) -> Any:
            if module in chosen:
                scaling = options.get("scaling")
                causal = options.get("is_causal")
                if causal is None:
                    causal = getattr(module, "is_causal", True)
                whole = attention_mask is None or attention_mask.ndim == 2
                observer(
                    module,
                    AttentionCall(
                        query,
                        key,
                        value,
                        attention_mask,
                        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
                        bool(causal) and whole and name != "eager" and query.shape[2] > 1,
                        options,
                    ),
                )
            function = original or _eager(module)
            return function(module, query, key, value, attention_mask, **options)

        return attention

    functions = {name: tapped(name) for name in names}
    try:
        own.update(functions)
        yield
    finally:
        for name in names:
            if name in before:
                own[name] = before[name]
            else:
                own.pop(name, None)


def _implementation(module: nn.Module) -> str:
    name = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if name is None:
        raise UsageError(
            f"the attention of {type(module).__name__} cannot be read: it names no attention implementation"
        )
    return str(name)


def _eager(module: nn.Module) -> Callable[..., Any]:
    for kind in type(module).__mro__:
        function = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if function is not None:
            found: Callable[..., Any] = function
            return found
    raise UsageError(
        f"the attention of {type(module).__name__} cannot be read under eager: load the model with sdpa"
    )
