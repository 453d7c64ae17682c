"""The full plan of a run, cut into batches before any work is done.

Which rows share a batch, and in what shape, is fixed here and never depends on what happens later: an
interrupted run that goes on meets the same batches, and so the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlmbench.conditions import Condition
from vlmbench.items import Item
from vlmbench.seeds import digest, seed_for


@dataclass(frozen=True)
class Request:
    """An item under a condition."""

    task: str
    item: Item
    condition: Condition

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the request within a run."""
        return self.task, self.item.id, self.condition.id

    @cached_property
    def pixels_group(self) -> str:
        """Requests with one value see the same pixels, which are prepared and encoded once."""
        image = self.condition.image
        return digest([source.key for source in self.item.images], image.label if image else "")


@dataclass(frozen=True)
class Batch:
    """Requests that are computed together, filled up to `rows` rows by repetition."""

    id: str
    rows: int
    requests: tuple[Request, ...]

    @property
    def groups(self) -> list[str]:
        """Distinct pixel groups in order of first appearance."""
        return list(dict.fromkeys(request.pixels_group for request in self.requests))


def shard(items: Sequence[Item], rank: int, world: int) -> list[Item]:
    """The items of one process: whole clusters in turn, so that an image is encoded by one process only."""
    clusters = list(dict.fromkeys(item.cluster for item in items))
    mine = set(clusters[rank::world])
    return [item for item in items if item.cluster in mine]


def in_order(task: str, items: Sequence[Item], conditions: Sequence[Condition]) -> Iterator[Request]:
    """Requests image by image, and within an image variant by variant: each pixel variant is met once."""
    by_images: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        by_images.setdefault(tuple(source.key for source in item.images), []).append(item)
    by_variant: dict[str, list[Condition]] = {}
    for condition in conditions:
        by_variant.setdefault(condition.image.label if condition.image else "", []).append(condition)
    for same_images in by_images.values():
        for same_pixels in by_variant.values():
            yield from (Request(task, item, condition) for item in same_images for condition in same_pixels)


def cut(requests: Iterable[Request], rows: int, prefix: str) -> list[Batch]:
    """Batches of `rows` requests in the given order; the last one is filled up when it is computed."""
    listed = list(requests)
    return [
        Batch(f"{prefix}-{start // rows:06d}", rows, tuple(listed[start : start + rows]))
        for start in range(0, len(listed), rows)
    ]


def make_plan(requests: Iterable[Request], rows: int, prefix: str, seed: int) -> list[Batch]:
    """Every batch of one process.

    Repeats are the noise floor, so each is placed elsewhere: index 1 alone in its batch, index 2 in another
    row of a batch of the same size, index 3 in a batch of another size among other neighbours.
    """
    repeats: dict[int, list[Request]] = {}
    plain: list[Request] = []
    for request in requests:
        index = request.condition.repeat
        (repeats.setdefault(index, []) if index else plain).append(request)
    batches = cut(plain, rows, f"{prefix}-b{rows}")
    for index, placed in sorted(repeats.items()):
        size = rows
        if index == 1:
            size = 1
        elif index == 2:
            placed = placed[::-1]
        else:
            size = rows // 2 + 1 if rows > 1 else 2
            random.Random(seed_for(seed, "repeat", index)).shuffle(placed)
        batches += cut(placed, size, f"{prefix}-r{index}b{size}")
    return batches
