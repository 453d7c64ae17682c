"""Cuts inside the language model whose average over all layers meets a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import Cut

Curve = Callable[[float], Sequence[float]]
"""Strength in [0, 1] -> the share of the image's tokens that each cut lets through. At 0 none, at 1 all, and
the layer average rises with it."""

_HALVINGS = 60  # of [0, 1]: beyond what a float tells apart


def at_depths(method: str, parts: Sequence[float], layers: int) -> tuple[int, ...]:
    """The layers nearest to the `parts` of the depth, ascending and distinct, none before layer 1.

    Raises NotApplicableError where the language model has too few layers for that.
    """
    places: list[int] = []
    for part in parts:
        places.append(max(math.floor(part * layers + 0.5), places[-1] + 1 if places else 1))
    if places[-1] >= layers:
        raise NotApplicableError(
            f"{method} cuts before {len(parts)} layers of the language model and needs at least"
            f" {len(parts) + 1}: this one has {layers}; use divprune"
        )
    return tuple(places)


def meeting(
    method: str, n: int, k: int, layers: int, at: Sequence[int], curve: Curve, otherwise: str
) -> tuple[Cut, ...]:
    """Cuts before the layers `at` (ascending, the last < `layers`) of an image of n tokens, on `curve`.

    The average over the layers is k of n as nearly as whole tokens allow: earlier cuts are rounded, the last
    one takes what is left. Every cut keeps at least one token, and no more than the cut before it.
    Raises NotApplicableError where the layers before the first cut alone spend the budget; its message says
    what the smallest share is and what to do `otherwise`.
    """
    least = at[0] / layers
    if layers * k <= at[0] * n:
        raise NotApplicableError(
            f"{method} cannot keep {_percent(k / n)} of the tokens averaged over {layers} layers:"
            f" layers before the first cut alone are {_percent(least)};"
            f" keep more than {_percent(least)} (ratio below {1 - least:.4g}) or {otherwise}"
        )
    lengths = [stop - start for start, stop in zip(at, [*at[1:], layers], strict=True)]
    spare = layers * k - at[0] * n
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        spent = n * sum(a * b for a, b in zip(lengths, curve(middle), strict=True))
        low, high = (middle, high) if spent < spare else (low, middle)
    keeps: list[int] = []
    for length, share in zip(lengths, curve(high), strict=True):
        last = len(keeps) == len(lengths) - 1
        keep = math.floor((spare / length if last else share * n) + 0.5)
        keeps.append(max(1, min(keep, keeps[-1] if keeps else n)))
        spare -= length * keeps[-1]
    return tuple(Cut(layer, keep) for layer, keep in zip(at, keeps, strict=True))


def before_layer(method: str, n: int, k: int, layers: int, layer: int) -> Cut:
    """The one cut before layer `layer` that meets the budget, as `meeting`; its messages name the largest K
    that reaches the budget, and where none does a method that reaches every one."""
    reaches = min((layers * k - 1) // n, layers - 1)
    otherwise = f"use K={reaches}" if reaches >= 1 else "use divprune"
    if layers <= layer:
        raise NotApplicableError(
            f"{method} needs a language model of more than {layer} layers: this one has {layers}; {otherwise}"
        )
    return meeting(method, n, k, layers, (layer,), lambda share: (share,), otherwise)[0]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
