"""Flips by group of conditions and category of items, and which items flip most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.estimate import Floats, Ints
from vlmbench.metrics.outcomes import Outcomes

APPARENT = ("image", "question", "cross")
"""Axes of changes that can be seen."""


@dataclass(frozen=True, eq=False)
class FlipCounts:
    """Arrays [groups, categories]: flips and pairs (item, variant), and the items that the pairs are of."""

    flips: Ints
    pairs: Ints
    items: Ints


def flip_counts(outcomes: Outcomes, groups: Sequence[Sequence[int]], category: Ints, k: int) -> FlipCounts:
    """groups: columns of each; category [n]: codes below k."""
    found = np.zeros((3, len(groups), k), dtype=np.int64)
    for g, columns in enumerate(groups):
        pairs = np.count_nonzero(outcomes.pairs[:, columns], axis=1)
        flips = np.count_nonzero(outcomes.flipped[:, columns], axis=1)
        for part, counted in enumerate((flips, pairs, pairs > 0)):
            found[part, g] = np.bincount(category, weights=counted, minlength=k)
    return FlipCounts(*found)


def most_unstable(flips: Ints, margin: Floats, names: Sequence[str], count: int) -> list[int]:
    """Places of the `count` items with the most flips, at least one.

    Ties go to the smaller margin of the unperturbed answer (NaN last), then to the first name.
    flips, margin: [n].
    """
    order = sorted(
        np.flatnonzero(flips > 0).tolist(),
        key=lambda i: (-int(flips[i]), float(np.nan_to_num(margin[i], nan=np.inf)), names[i]),
    )
    return order[:count]
