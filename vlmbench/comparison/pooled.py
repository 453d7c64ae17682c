"""Several models on the same items: flip rates of each, and pooled with models and images resampled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from vlmbench.comparison.chosen import refuse_chosen
from vlmbench.comparison.sides import Side, item_places
from vlmbench.comparison.weights import refuse_same_weights
from vlmbench.errors import NotComparableError
from vlmbench.metrics.bootstrap import two_way_bootstrap
from vlmbench.metrics.estimate import ratio_estimate
from vlmbench.schema import Estimate, Schema, Table, TaskBlock

AXES = ("image", "question", "cross")


class PooledRow(Schema):
    """A family of perturbations of one task."""

    task: str
    axis: str
    family: str
    """Empty for the whole axis."""
    items: int
    """That all runs have: what the row is made of, where a perturbation serves them."""
    left_out: tuple[int, ...]
    """Items of each run that another one lacks."""
    models: tuple[Estimate, ...]
    """Flip rate of each model, over the items and conditions that all of them have."""
    pooled: Estimate
    """Mean over models, for images and models both drawn from more of their kind; see `two_way_bootstrap`."""


def pooled(tables: Sequence[tuple[str, Table]], draws: int = 5000, seed: int = 0) -> list[PooledRow]:
    """A row per family and axis, for every task that all tables have; conditions of full models alone.

    Raises NotComparableError where no task, no item or no perturbation is in common, the items differ, or two
    runs are of the same weights: one model twice would count as two.
    """
    refuse_chosen(tables, "a pooled flip rate")
    refuse_same_weights(tables, lambda *_: "give every model once; `vlmbench compare` holds two runs of one")
    names = [name for name, _ in tables]
    shared = [t.task for t in tables[0][1].tasks if all(_block(table, t.task) for _, table in tables)]
    rows = [row for task in shared for row in _of_task(task, tables, draws, seed)]
    if not rows:
        raise NotComparableError(
            f"{', '.join(names)}: no task with a perturbation in common; compare runs of one perturb command"
        )
    return rows


def _of_task(task: str, tables: Sequence[tuple[str, Table]], draws: int, seed: int) -> Iterator[PooledRow]:
    blocks = [block for _, table in tables if (block := _block(table, task)) is not None]
    places = [item_places(name, block) for (name, _), block in zip(tables, blocks, strict=True)]
    common = [item for item in places[0] if all(item in known for known in places)]
    if not common:
        raise NotComparableError(f"{task}: the runs have no item in common")
    first = blocks[0]
    for (name, _), block, known in zip(tables[1:], blocks[1:], places[1:], strict=True):
        other = [i for i in common if block.digests[known[i]] != first.digests[places[0][i]]]
        if other:
            raise NotComparableError(
                f"{name}: {task}: {len(other)} of {len(common)} items are others than in {tables[0][0]}, "
                f"first {other[0]}"
            )
    codes: dict[str, int] = {}
    cluster = np.array([codes.setdefault(first.clusters[places[0][i]], len(codes)) for i in common])
    words: dict[str, int] = {}
    sides = [
        Side.read(name, table, block, np.array([known[i] for i in common]), cluster, words)
        for (name, table), block, known in zip(tables, blocks, places, strict=True)
    ]
    groups: dict[tuple[str, str], list[Hashable]] = {}
    for key, column in sides[0].keys.items():
        cell = sides[0].cells[column]
        if not sides[0].outcomes.is_variant[column] or not all(key in side.keys for side in sides):
            continue
        if cell.axis in AXES and not cell.parts.keys() & {"prune", "roi"}:
            groups.setdefault((cell.axis, ""), []).append(key)
            groups.setdefault((cell.axis, cell.family), []).append(key)
    for (axis, family), keys in sorted(groups.items(), key=lambda each: (AXES.index(each[0][0]), each[0][1])):
        # accuracy and flips have a key each, of one column
        columns = [list(dict.fromkeys(side.keys[key] for key in keys)) for side in sides]
        den = np.stack([s.outcomes.pairs[:, c].sum(1) for s, c in zip(sides, columns, strict=True)], 1)
        num = np.stack([s.outcomes.flipped[:, c].sum(1) for s, c in zip(sides, columns, strict=True)], 1)
        yield PooledRow(
            task=task,
            axis=axis,
            family=family,
            items=len(common),
            left_out=tuple(len(block.items) - len(common) for block in blocks),
            models=tuple(ratio_estimate(num[:, m], den[:, m], cluster) for m in range(len(sides))),
            pooled=two_way_bootstrap(num, den, cluster, draws, seed),
        )


def _block(table: Table, task: str) -> TaskBlock | None:
    return next((block for block in table.tasks if block.task == task), None)
