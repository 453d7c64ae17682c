"""Activations and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Pointwise: TypeAlias = Callable[[Tensor], Tensor]
Activation: TypeAlias = str | Pointwise
"""A name as in transformers' ACT2FN, or the function itself, which must act on each element alone."""


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    k, square = math.sqrt(2 / math.pi), x * x
    t = torch.tanh(k * x * (1 + 0.044715 * square))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * square)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _sigmoid_slope(x: Tensor, k: float) -> Tensor:
    gate = torch.sigmoid(k * x)
    return gate * (1 + k * x * (1 - gate))


def _quick_gelu_slope(x: Tensor) -> Tensor:
    return _sigmoid_slope(x, 1.702)


def _silu_slope(x: Tensor) -> Tensor:
    return _sigmoid_slope(x, 1.0)


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
