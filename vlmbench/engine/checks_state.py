"""Whether a model is what it was: everything that pruning touches for a while, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

OWN = frozenset({"rope_deltas"})
"""What transformers itself leaves on a model: the offset of the last prompt's positions."""

Snapshot = dict[str, Any]


class Planted(BaseException):
    """Raised on purpose in the middle of a run: no `except Exception` on the way may swallow it."""


@dataclass(frozen=True)
class Place:
    """Where an exception can be planted."""

    name: str
    module: nn.Module


@contextmanager
def failing(place: Place) -> Iterator[None]:
    """The module raises `Planted` at the end of its forward pass."""

    def fail(*_: Any) -> None:
        raise Planted(place.name)

    handle = place.module.register_forward_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def snapshot(model: Any) -> Snapshot:
    """Attributes, hooks, methods and settings of every module; checksums of weights; attention functions."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen: Snapshot = {
        "attention functions": {
            name: id(ALL_ATTENTION_FUNCTIONS[name]) for name in sorted(ALL_ATTENTION_FUNCTIONS)
        },
        "generation config": model.generation_config.to_dict(),
        "config": model.config.to_dict(),
    }
    for path, module in model.named_modules():
        name = path or "the model itself"
        own = {key: _shown(value) for key, value in vars(module).items() if key not in OWN}
        seen[f"{name}: attributes"] = own
        seen[f"{name}: methods"] = id(type(module).forward)
        if hasattr(module, "config"):
            seen[f"{name}: attention"] = getattr(module.config, "_attn_implementation", None)
    for kind, tensors in (("weight", model.named_parameters()), ("buffer", model.named_buffers())):
        seen |= {f"{kind} {name}": _checksum(tensor) for name, tensor in tensors}
    return seen


def _shown(value: Any) -> Any:
    """What can be compared later without holding on to the value."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, dict):  # hooks, buffers, submodules: which there are, not what they hold
        return [(str(key), id(entry) if callable(entry) else None) for key, entry in value.items()]
    return id(value) if callable(value) else type(value).__name__


def _checksum(tensor: Tensor) -> tuple[Any, ...]:
    """Place and bits; a sum of the bits as whole numbers, which wraps around."""
    flat = tensor.detach().flatten()
    words = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(flat.element_size(), torch.uint8)
    bits = int(flat.view(words).sum(dtype=torch.int64)) if flat.numel() else 0
    return tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad, bits


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """A line for everything that is not as it was."""
    found = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
            found.append(f"{key}: {', '.join(map(str, names[:3]))}")
        else:
            found.append(key)
    return found
