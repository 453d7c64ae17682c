"""Compact text for the long columns of a table: 100 cells x 5,000 items stay under 3 MB of JSON.

Indices below 62 take one character each, so that a changed answer is one changed character in a diff.
Non-negative reals take two characters on a logarithmic scale with 0.5 % resolution.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from functools import lru_cache

DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_VALUE = {char: i for i, char in enumerate(DIGITS)}
_BASE = len(DIGITS)

_LOW = 1e-6
_STEPS_PER_DECADE = 460
_LEVELS = _BASE * _BASE - 2
"""Level 0 is missing, 1 is zero or below the scale, 2 and up are the scale: 1e-6 to about 2e2."""


def pack_indices(indices: Sequence[int]) -> str | list[int]:
    """One base-62 character each where all fit, else the plain list."""
    if all(0 <= i < _BASE for i in indices):
        return "".join(DIGITS[i] for i in indices)
    return list(indices)


def unpack_indices(packed: str | Sequence[int]) -> list[int]:
    """The inverse. Raises ValueError on text that pack_indices did not write."""
    if isinstance(packed, str) and not set(packed) <= _VALUE.keys():
        raise ValueError("not a packed column")
    return [_VALUE[char] for char in packed] if isinstance(packed, str) else list(packed)


def pack_margins(values: Sequence[float | None]) -> str:
    """Two characters each. None and NaN are kept as missing; negative values are an error."""
    return "".join(_pair(value) for value in values)


def _pair(value: float | None) -> str:
    if value is None or math.isnan(value):
        level = 0
    elif value < 0:
        raise ValueError(f"margins are not negative: got {value}")
    elif value < _LOW:
        level = 1
    else:
        decades = math.log10(min(value, 1e3) / _LOW)  # infinite where a single token is allowed
        level = 2 + min(_LEVELS - 1, round(decades * _STEPS_PER_DECADE))
    return DIGITS[level // _BASE] + DIGITS[level % _BASE]


def unpack_margins(text: str) -> list[float | None]:
    """The inverse up to the resolution. Raises ValueError on text that pack_margins did not write."""
    if len(text) % 2 or not set(text) <= _VALUE.keys():
        raise ValueError("not a packed column")
    return [_level(_VALUE[text[i]] * _BASE + _VALUE[text[i + 1]]) for i in range(0, len(text), 2)]


@lru_cache(maxsize=_BASE * _BASE)
def _level(level: int) -> float | None:
    if level == 0:
        return None
    if level == 1:
        return 0.0
    return float(f"{_LOW * 10 ** ((level - 2) / _STEPS_PER_DECADE):.4g}")
