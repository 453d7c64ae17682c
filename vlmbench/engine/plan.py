"""The full plan of a run, cut into batches before any work is done.

Which rows share a batch, and in what shape, is fixed here and never depends on what happens later: an
interrupted run that goes on meets the same batches, and so the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from vlmbench.conditions import Condition
from vlmbench.items import ImageSource, Item
from vlmbench.prune import PRUNERS
from vlmbench.roi import ROIS
from vlmbench.seeds import digest, seed_for

if TYPE_CHECKING:
    from vlmbench.models.decoding import Draw
    from vlmbench.prune.base import Pruner
    from vlmbench.roi.base import RoiMethod


@dataclass(frozen=True)
class Donors:
    """Whose images may be shown in place of an item's own, in the order in which they are tried: those of
    items of another cluster in `pool` with as many images, from the one at `start` on."""

    item: Item
    pool: Sequence[Item] = field(repr=False)
    start: int

    def __iter__(self) -> Iterator[tuple[ImageSource, ...]]:
        count = len(self.item.images)
        for step in range(len(self.pool) if count else 0):
            other = self.pool[(self.start + step) % len(self.pool)]
            alike = len(other.images) == count and not other.meta.get("error")
            if alike and other.cluster != self.item.cluster:
                yield other.images


@dataclass(frozen=True)
class Request:
    """An item under a condition."""

    task: str
    item: Item
    condition: Condition
    images: tuple[ImageSource, ...] | None = None
    """Shown in place of the item's own; only the blind control `swapped` sets it."""
    donors: Donors | None = None
    """Where `images` come from; the next of them are shown where those cannot be read."""

    @property
    def sources(self) -> tuple[ImageSource, ...]:
        return self.item.images if self.images is None else self.images

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the request within a run."""
        return self.task, self.item.id, self.condition.id

    @property
    def once(self) -> Request:
        """The request that a repeat repeats."""
        return replace(self, condition=replace(self.condition, repeat=0))

    @property
    def origin(self) -> Request | None:
        """The unperturbed request; None where no method chooses tokens, or where the question alone is
        perturbed and the method does not see it."""
        image, question = self.condition.image, self.condition.question
        if self.condition.prune is None or (image is None and question is None):
            return None
        if image is None and not sees_question(self.condition):
            return None
        return replace(self, condition=replace(self.condition, image=None, question=None))

    @cached_property
    def pixels_group(self) -> str:
        """Requests with one value see the same pixels, which are prepared and encoded once."""
        image, prune = self.condition.image, self.condition.prune
        pruner = pruner_of(self.condition)
        smaller = prune.label if prune is not None and pruner is not None and pruner.stage == "image" else ""
        method, roi = roi_of(self.condition), self.condition.roi
        larger = roi.label if roi is not None and method is not None and method.enlarges else ""
        return digest([source.key for source in self.sources], image.label if image else "", smaller + larger)


@dataclass(frozen=True)
class Batch:
    """Requests that are computed together, filled up to `rows` rows by repetition."""

    id: str
    rows: int
    requests: tuple[Request, ...]


def shard(items: Sequence[Item], rank: int, world: int) -> list[Item]:
    """The items of one process: whole clusters in turn, so that an image is encoded by one process only."""
    clusters = list(dict.fromkeys(item.cluster for item in items))
    mine = set(clusters[rank::world])
    return [item for item in items if item.cluster in mine]


def in_order(
    task: str,
    items: Sequence[Item],
    conditions: Sequence[Condition],
    others: Mapping[str, Donors] | None = None,
) -> Iterator[list[Request]]:
    """Requests image by image, and within an image variant by variant: each pixel variant is met once.

    What differs in the pruner alone comes as one list, the unpruned request first if there is one.
    others: whose images `swapped` shows in place of an item's own, by item.
    """
    by_images: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        by_images.setdefault(tuple(source.key for source in item.images), []).append(item)
    by_variant: dict[str, dict[Condition, list[Condition]]] = {}
    for condition in conditions:
        variant = condition.image.label if condition.image else ""
        unpruned = replace(condition, prune=None)
        by_variant.setdefault(variant, {}).setdefault(unpruned, []).append(condition)
    others = others or {}
    swaps = {condition for condition in conditions if shows_another_image(condition)}
    for same_images in by_images.values():
        for same_pixels in by_variant.values():
            for item in same_images:
                for same_input in same_pixels.values():
                    yield [
                        _request(task, item, condition, others.get(item.id) if condition in swaps else None)
                        for condition in same_input
                    ]


def _request(task: str, item: Item, condition: Condition, donors: Donors | None) -> Request:
    return Request(task, item, condition, next(iter(donors)) if donors else None, donors)


def pictures_of(requests: Sequence[Request], with_origins: bool) -> int:
    """How many distinct pixel groups there are to encode."""
    groups = {request.pixels_group for request in requests}
    origins = (request.origin for request in requests if with_origins)
    return len(groups | {origin.pixels_group for origin in origins if origin is not None})


def pruner_of(condition: Condition) -> Pruner | None:
    """The method of a condition, built."""
    part = condition.prune
    return None if part is None else cast("Pruner", PRUNERS.get(part.name).build(part))


def roi_of(condition: Condition) -> RoiMethod | None:
    """The RoI method of a condition, built."""
    part = condition.roi
    return None if part is None else cast("RoiMethod", ROIS.get(part.name).build(part))


def sees_question(condition: Condition) -> bool:
    """Whether what the pruner keeps may depend on the question: it reads it, or works where it is read."""
    pruner = pruner_of(condition)
    return pruner is not None and (pruner.text_dependent or pruner.stage == "llm")


def draw_of(request: Request, seed: int) -> Draw | None:
    """How the answer is drawn; None where it is decoded greedily. Of item and index, never of the input, so
    that the same noise meets whatever else is done to the item."""
    sample = request.condition.sample
    if sample is None:
        return None
    from vlmbench.models.decoding import Draw

    given = sample.parameters
    key = seed_for(seed, "sample", request.task, request.item.id, given["index"])
    return Draw(float(given["t"]), key)


def shows_another_image(condition: Condition) -> bool:
    """Whether this is a control that shows another item's image."""
    pruner = pruner_of(condition)
    return pruner is not None and pruner.other_image


def prune_seeds(request: Request, seed: int, images: int | None = None) -> tuple[int, ...]:
    """A seed per image: of the method and the source, never of the perturbation; none without a method.

    images: how many are shown, where a RoI method adds one to the request's own; that one has its own seed.
    """
    part = request.condition.prune
    if part is None:
        return ()
    draw = PRUNERS.get(part.name).draw_key(part)
    keys = [source.key for source in request.sources]
    keys += ["region"] * ((images or 0) - len(keys))
    return tuple(seed_for(seed, key, *draw) for key in keys)


def other_images(items: Sequence[Item], pool: Sequence[Item], seed: int) -> dict[str, Donors]:
    """For each item those of another cluster in `pool`, with as many images; not of items without any.

    The pool belongs to the task: neither --limit nor the number of processes changes the draw.
    """
    found = {item.id: Donors(item, pool, seed_for(seed, item.id, "swapped")) for item in items}
    return {name: donors for name, donors in found.items() if next(iter(donors), None) is not None}


def cut(requests: Sequence[Request], rows: int, prefix: str, first: int = 0) -> list[Batch]:
    """Batches of `rows` requests in the given order; the last one is filled up when it is computed."""
    parts = [tuple(requests[start : start + rows]) for start in range(0, len(requests), rows)]
    return [
        Batch(f"{prefix}-{first + i:06d}", _filled(len(part), rows), part) for i, part in enumerate(parts)
    ]


def _filled(count: int, rows: int) -> int:
    """Rows of a batch of `count` requests: all of `rows`, or the next power of two where that is fewer."""
    return min(rows, 1 << (count - 1).bit_length())


def make_plan(inputs: Iterable[Sequence[Request]], rows: int, prefix: str, seed: int) -> list[Batch]:
    """Every batch of one process; `inputs` as `in_order` yields them.

    `rows` inputs at a time, then method by method: batches behind one another show the same pictures, so that
    one encoding serves all methods and ratios, and a batch is one program of the language model.
    Repeats are the noise floor, so each is placed elsewhere: index 1 alone in its batch, index 2 in another
    row of a batch of the same size, index 3 in a batch of another size among other neighbours.
    """
    repeats: dict[tuple[int, str], list[Request]] = {}
    plain: list[Sequence[Request]] = []
    for same_input in inputs:
        index = same_input[0].condition.repeat
        if index:
            for request in same_input:
                repeats.setdefault((index, _program(request)), []).append(request)
        else:
            plain.append(same_input)
    batches: list[Batch] = []
    for start in range(0, len(plain), rows):
        programs: dict[str, list[Request]] = {}
        for request in (request for same_input in plain[start : start + rows] for request in same_input):
            programs.setdefault(_program(request), []).append(request)
        for requests in programs.values():
            batches += cut(requests, rows, f"{prefix}-b{rows}", len(batches))
    home = {request.key: row for batch in batches for row, request in enumerate(batch.requests)}
    for (index, _), placed in sorted(repeats.items()):
        size = rows
        if index == 1:
            size = 1
        elif index == 2:
            placed = _in_other_rows(placed[::-1], size, [home.get(r.once.key, -1) for r in placed[::-1]])
        else:
            size = rows // 2 + 1 if rows > 1 else 2
            random.Random(seed_for(seed, "repeat", index)).shuffle(placed)
        batches += cut(placed, size, f"{prefix}-r{index}b{size}", len(batches))
    return batches


def _in_other_rows(placed: Sequence[Request], rows: int, home: Sequence[int]) -> list[Request]:
    """The requests batch by batch as they are, each in another row than its `home`, wherever its batch has
    one: rotated until fewest stand at home, who then change places with others."""
    found: list[Request] = []
    for start in range(0, len(placed), rows):
        part = list(range(start, min(start + rows, len(placed))))
        turns = (part[turn:] + part[:turn] for turn in range(len(part)))
        best = min(turns, key=lambda turn: sum(home[i] == row for row, i in enumerate(turn)))
        for row, i in enumerate(best):
            if home[i] == row:
                other = next((k for k, j in enumerate(best) if home[j] != row and home[i] != k), row)
                best[row], best[other] = best[other], best[row]
        found += [placed[i] for i in best]
    return found


def _program(request: Request) -> str:
    """What the model does for a request: batches are of one kind."""
    parts = (request.condition.roi, request.condition.prune)
    return " ".join(part.label if part else "" for part in parts)
