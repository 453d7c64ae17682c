"""Which questions choose heads, train the network, calibrate its threshold: never two on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.errors import UsageError
from vlmbench.items import Item
from vlmbench.seeds import digest, seed_for

SHARE = 8
"""One question in so many goes to each of the two smaller splits."""
MOST_HEADS, MOST_HELD_OUT = 126, 504
"""What these need at most: more would be lost to training."""


@dataclass(frozen=True)
class Splits:
    """Disjoint in pictures and in clusters, each in the order of the data."""

    heads: tuple[Item, ...]
    """Attention heads are chosen on these."""
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    """The threshold is calibrated on these."""

    def data_hash(self, data: str) -> str:
        """Names the questions of each split, of a task whose own hash is `data`."""
        return digest(data, *([item.id for item in part] for part in (self.heads, self.train, self.held_out)))


def split_items(items: Sequence[Item], seed: int) -> Splits:
    """An eighth of the questions, at most `MOST_HEADS`, for the heads, an eighth, at most `MOST_HELD_OUT`,
    held out, the others to train on; questions that share a cluster or a picture stay together.

    Raises UsageError where there are fewer than three such groups.
    """
    groups = _groups(items)
    if len(groups) < 3:
        raise UsageError(
            f"{len(items)} questions on {len(groups)} picture{'s' * (len(groups) != 1)}: a network needs at "
            "least 3, for heads, training and calibration must not share one; give more --samples"
        )
    order = sorted(groups, key=lambda group: seed_for(seed, "distill", items[group[0]].id))
    place: dict[int, int] = {}
    for number, most in enumerate((MOST_HEADS, MOST_HELD_OUT)):
        wanted, taken = max(1, min(most, len(items) // SHARE)), 0
        while taken < wanted and len(order) > 2 - number:
            group = order.pop(0)
            taken += len(group)
            place |= dict.fromkeys(group, number)
    chosen = [tuple(item for i, item in enumerate(items) if place.get(i, 2) == n) for n in range(3)]
    return Splits(chosen[0], chosen[2], chosen[1])


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """Indices of items that are joined, be it by way of others, by a cluster or a picture."""
    owner: dict[tuple[str, str], int] = {}
    parent = list(range(len(items)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, item in enumerate(items):
        for name in (("cluster", item.cluster), *(("image", source.key) for source in item.images)):
            parent[root(i)] = root(owner.setdefault(name, i))
    groups: dict[int, list[int]] = {}
    for i in range(len(items)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
