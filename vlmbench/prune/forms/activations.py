"""Activations and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Pointwise: TypeAlias = Callable[[Tensor], Tensor]
Activation: TypeAlias = str | Pointwise
"""A name as in transformers' ACT2FN, or the function itself, which must act on each element alone."""


def _gelu_slope(x: Tensor) -> Tensor:
    return _gelu_backward(x, "none")


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    return _gelu_backward(x, "tanh")


def _gelu_backward(x: Tensor, approximate: str) -> Tensor:
    """The slope in one pass over memory, where its formula takes ten."""
    found: Tensor = torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate=approximate)
    return found


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _quick_gelu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(1.702 * x)
    return gate * (1 + 1.702 * x * (1 - gate))


def _silu_slope(x: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten.silu_backward(torch.ones_like(x), x)
    return found


def _relu_slope(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


_GELU = (F.gelu, _gelu_slope)
_GELU_TANH = (_gelu_tanh, _gelu_tanh_slope)
_SILU = (F.silu, _silu_slope)
_KNOWN: dict[str, tuple[Pointwise, Pointwise]] = {
    "gelu": _GELU,
    "gelu_python": _GELU,
    "gelu_pytorch_tanh": _GELU_TANH,
    "gelu_python_tanh": _GELU_TANH,
    "gelu_new": _GELU_TANH,
    "gelu_fast": _GELU_TANH,
    "gelu_accurate": _GELU_TANH,
    "quick_gelu": (_quick_gelu, _quick_gelu_slope),
    "silu": _SILU,
    "swish": _SILU,
    "relu": (F.relu, _relu_slope),
}
_NAMES = {
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "NewGELUActivation": "gelu_new",
    "FastGELUActivation": "gelu_fast",
    "AccurateGELUActivation": "gelu_accurate",
    "QuickGELUActivation": "quick_gelu",
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "ReLU": "relu",
}
"""By the module's class, so that transformers need not be imported to know its activations."""


def activate(activation: Activation, x: Tensor) -> Tensor:
    """act(x)."""
    known = _known(activation)
    if known is not None:
        return known[0](x)
    assert callable(activation)
    return activation(x)


def slope(activation: Activation, x: Tensor) -> Tensor:
    """act'(x), in closed form for the names above, else by forward differentiation."""
    known = _known(activation)
    if known is not None:
        return known[1](x)
    assert callable(activation)
    with torch.inference_mode(False):
        tangent: Tensor = torch.func.jvp(activation, (x.clone(),), (torch.ones_like(x),))[1]
    return tangent


def check(activation: Activation) -> None:
    """Raises ValueError for a name without a derivative."""
    if isinstance(activation, str) and activation not in _KNOWN:
        raise ValueError(f"no derivative of activation {activation!r}; known: {', '.join(sorted(_KNOWN))}")


def _known(activation: Activation) -> tuple[Pointwise, Pointwise] | None:
    if isinstance(activation, str):
        check(activation)
        return _KNOWN[activation]
    if isinstance(activation, torch.nn.GELU):
        return _GELU if activation.approximate == "none" else _GELU_TANH
    return _KNOWN.get(_NAMES.get(type(activation).__name__, ""))
