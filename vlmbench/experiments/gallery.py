"""`perturb --pictures N`: which items the gallery shows, and what the run knows beyond its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.engine.unstable import UnstableItem, patch_width, unstable_item
from vlmbench.metrics.arrays import Arrays
from vlmbench.metrics.flip_grid import APPARENT, most_unstable
from vlmbench.metrics.tabulate import TaskResult, Variation

if TYPE_CHECKING:
    from vlmbench.experiments.session import Finished
    from vlmbench.experiments.tables import TaskPlan


@dataclass(frozen=True, eq=False)
class Gallery:
    """What pictures need beside the table."""

    items: tuple[UnstableItem, ...]
    """Most unstable first, task by task."""
    patches: dict[str, float]
    """Source pixels under one patch of the model, by task, where the run tells."""


def gallery(finished: Finished, plans: Sequence[TaskPlan], count: int) -> Gallery:
    """The `count` most unstable items of every task; of several models those of the first."""
    items: list[UnstableItem] = []
    patches = {}
    for plan in plans:
        items += _items(finished, plan, count)
        mine = (record for record in finished.records.values() if record.task == plan.task.name)
        width = patch_width(mine, plan.variations)
        if width is not None:
            patches[plan.task.name] = width
    return Gallery(tuple(items), patches)


def _items(finished: Finished, plan: TaskPlan, count: int) -> Iterator[UnstableItem]:
    records = {(i, c): r for (task, i, c), r in finished.records.items() if task == plan.task.name}
    block = next(block for block in finished.table.tasks if block.task == plan.task.name)
    arrays = Arrays(TaskResult(block, plan.items, plan.variations, records))
    outcomes = arrays.outcomes
    place = {v.condition.id: j for j, v in enumerate(plan.variations)}
    found: dict[str, list[int]] = {}
    for j, variation in enumerate(plan.variations):
        if variation.axis in APPARENT and _of_reference(variation, plan.variations, place):
            found.setdefault(variation.reference or "", []).append(j)
    if not found:
        return
    name, columns = next(iter(found.items()))
    base = place[name]
    flipped = outcomes.flipped[:, columns]
    flips = np.count_nonzero(flipped, axis=1)
    pairs = outcomes.pairs[:, columns]
    ids = [item.id for item in plan.items]
    for i in most_unstable(flips, arrays.margin[:, base], ids, count):
        mine, counted = (
            [plan.variations[columns[k]] for k in np.flatnonzero(part[i])] for part in (flipped, pairs)
        )
        yield unstable_item(
            finished.preparer,
            plan.task.name,
            plan.items[i],
            plan.variations[base].condition,
            mine,
            counted,
            records,
        )


def _of_reference(variation: Variation, all_of_them: Sequence[Variation], place: dict[str, int]) -> bool:
    """Whether it is the same model as its reference, which a pruner with frozen tokens is not."""
    at = place.get(variation.reference or "")
    return at is not None and all_of_them[at].condition.prune == variation.condition.prune
