"""Which images of a batch can share one tensor operation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """The places of equal keys, ascending, in the order of the first of each."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
