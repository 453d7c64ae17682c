"""Tables -> the items that all of them have, with the large model's label and the small models' signals.

Every table is read against the one whose answers are predicted: tasks, items, and what each item asks must be
the same. Small and large must be different weights, or the label would be predicted from itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.comparison.chosen import refuse_chosen
from vlmbench.comparison.sides import Side, item_places
from vlmbench.comparison.weights import refuse_same_weights
from vlmbench.errors import NotComparableError, UsageError
from vlmbench.metrics.estimate import Bools, Floats, Ints
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.predict_features import Signals, join_signals, read_signals
from vlmbench.schema import Cell, State, Table, TaskBlock

CLEAN = "clean"
_ERROR = STATES.index(State.ERROR)


@dataclass(frozen=True)
class Named:
    """A table under the name that messages call it by."""

    name: str
    table: Table

    @property
    def model(self) -> str:
        return str(self.table.identity.get("model", "?"))

    @property
    def revision(self) -> str:
        return str(self.table.identity.get("revision") or "")

    def block(self, task: str) -> TaskBlock | None:
        return next((block for block in self.table.tasks if block.task == task), None)


@dataclass(frozen=True, eq=False)
class Material:
    """n items of one or more tasks. tasks, clusters, categories: [n] names; signals: one per small model.

    right [n]: the predicted model's unperturbed answer has a score above 0.5
    probability [n]: of that answer's first token, NaN where unknown
    same [n]: share of the small models whose unperturbed answer equals it; None where it is their own
    """

    tasks: list[str]
    clusters: list[str]
    categories: list[str]
    right: Bools
    probability: Floats
    same: Floats | None
    signals: list[Signals]
    left_out: int
    warnings: list[str]


def read_material(
    small: Sequence[Named], large: Named | None, common: bool = False, allow_partial: bool = False
) -> Material:
    """The items that all tables have. Raises NotComparableError saying what differs, UsageError for a table
    without what is needed."""
    _refuse(small, large, allow_partial)
    refuse_chosen([(one.name, one.table) for one in small], "stability")
    target = large or small[0]
    everyone = [*small, large] if large else [*small]
    tasks = [block.task for block in target.table.tasks if all(one.block(block.task) for one in everyone)]
    if not tasks:
        raise NotComparableError(
            "no task in common: " + "; ".join(f"{one.name} has {_tasks(one)}" for one in everyone)
        )
    warnings = []
    for one in everyone:
        alone = [block.task for block in one.table.tasks if block.task not in tasks]
        if alone and not common:
            raise NotComparableError(
                f"{one.name} has tasks that another run lacks: {', '.join(alone)}; in common: "
                f"{', '.join(tasks)}; --common compares those"
            )
        warnings += [f"{one.name}: not in every run, left out: {', '.join(alone)}"] if alone else []
    parts = [_TaskReader(task, everyone, common).read(small, target, large) for task in tasks]
    return _joined(parts, warnings)


def _refuse(small: Sequence[Named], large: Named | None, allow_partial: bool) -> None:
    everyone = [*small, large] if large else [*small]
    partial = [one.name for one in everyone if one.table.status == "partial"]
    if partial and not allow_partial:
        raise NotComparableError(
            f"partial run: {', '.join(partial)}; resume it, or --allow-partial takes what is there"
        )
    refuse_same_weights(
        [(one.name, one.table) for one in everyone],
        lambda _, later: _without_twin(len(small), large is not None and later == len(small)),
    )


def _without_twin(small: int, is_large: bool) -> str:
    """What to do about a small model that is the large one, or an earlier small one, again."""
    if not is_large:
        return "give every small model once"
    if small == 1:
        return "leave --large out to ask how stability predicts a model's own answers"
    return "leave the large model out of --small"


class _TaskReader:
    """One task of all tables, in the order of the predicted table's items."""

    def __init__(self, task: str, everyone: Sequence[Named], common: bool) -> None:
        self.task, self.everyone = task, everyone
        self.blocks = {one.name: _block(one, task) for one in everyone}
        places = {name: item_places(name, block) for name, block in self.blocks.items()}
        first = self.blocks[everyone[-1].name]
        self.items = [item for item in first.items if all(item in place for place in places.values())]
        counts = {name: len(block.items) for name, block in self.blocks.items()}
        if not common and set(counts.values()) != {len(self.items)}:
            held = ", ".join(f"{count} in {name}" for name, count in counts.items())
            raise NotComparableError(
                f"{task}: other items: {held}, {len(self.items)} in common"
                + ("; --common compares those" if self.items else "")
            )
        if not self.items:
            raise NotComparableError(f"{task}: no item in common")
        self.rows: dict[str, Ints] = {
            name: np.array([place[item] for item in self.items], dtype=np.int64)
            for name, place in places.items()
        }
        self.words: dict[str, int] = {}

    def read(self, small: Sequence[Named], target: Named, large: Named | None) -> Material:
        block, rows = self.blocks[target.name], self.rows[target.name]
        names = [block.clusters[i] for i in rows]
        cluster = np.unique(names, return_inverse=True)[1].astype(np.int64)
        read = {one.name: self._outcomes(one, cluster, only_clean=one is large) for one in self.everyone}
        warnings = [*self._checked(target, read)]
        found, clean = read[target.name]
        right, scored = found.correct[:, clean], found.scored[:, clean]
        signals = [self._signals(one, *read[one.name]) for one in small]
        known = np.zeros(len(self.items), dtype=bool)
        for one in signals:
            known |= ~np.isnan(one.agreement)
        used = scored & known
        categories = block.categories.decode()
        return Material(
            tasks=[self.task] * int(used.sum()),
            clusters=[name for name, keep in zip(names, used, strict=True) if keep],
            categories=[str(categories[i]) for i, keep in zip(rows, used, strict=True) if keep],
            right=right[used],
            probability=found.prob[used],
            same=self._same(small, found, clean, read)[used] if large else None,
            signals=[one.rows(used) for one in signals],
            left_out=int((~used).sum()),
            warnings=warnings,
        )

    def _outcomes(self, one: Named, cluster: Ints, only_clean: bool) -> tuple[Outcomes, int]:
        """The cells of one table with the probability of its unperturbed answers, and their column."""
        cells = [cell for cell in one.table.cells if cell.task == self.task]
        clean = next((cell for cell in cells if cell.condition == CLEAN), None)
        if clean is None:
            raise UsageError(f"{one.name}: {self.task}: has no unperturbed answers (condition `{CLEAN}`)")
        table = one.table.model_copy(update={"cells": [clean] if only_clean else cells})
        rows = self.rows[one.name]
        side = Side.read(one.name, table, self.blocks[one.name], rows, cluster, self.words)
        place = next(j for j, cell in enumerate(side.cells) if cell.condition == CLEAN)
        prob = _probability(one.name, clean, len(self.blocks[one.name].items))[rows]
        return replace(side.outcomes, prob=prob), place

    def _signals(self, one: Named, outcomes: Outcomes, clean: int) -> Signals:
        cells = [cell for cell in one.table.cells if cell.task == self.task]
        found = read_signals(outcomes, clean, [c.axis for c in cells], [c.family for c in cells])
        if found is None:
            raise UsageError(
                f"{one.name}: {self.task}: has no perturbed answers to tell stability from: make them with "
                f"`vlmbench perturb --model {one.model}`"
            )
        return found

    def _same(
        self, small: Sequence[Named], found: Outcomes, clean: int, read: Mapping[str, tuple[Outcomes, int]]
    ) -> Floats:
        equal = np.zeros(len(self.items))
        for one in small:
            other, column = read[one.name]
            both = found.parsed[:, clean] & other.parsed[:, column]
            equal += both & (found.answer[:, clean] == other.answer[:, column])
        return equal / len(small)

    def _checked(self, target: Named, read: Mapping[str, tuple[Outcomes, int]]) -> Iterator[str]:
        """Warnings. Raises NotComparableError on another task, or on items that ask something else."""
        block, rows = self.blocks[target.name], self.rows[target.name]
        failed = {name: (outcomes.state == _ERROR).all(axis=1) for name, (outcomes, _) in read.items()}
        for one in self.everyone:
            other, places = self.blocks[one.name], self.rows[one.name]
            _refuse_other_task((target.name, block), (one.name, other))
            odd = [
                k
                for k, (i, j) in enumerate(zip(rows, places, strict=True))
                if block.digests[i] != other.digests[j]
                and not (failed[target.name][k] or failed[one.name][k])
            ]
            if odd:
                raise NotComparableError(
                    f"{self.task}: {len(odd)} of {len(self.items)} common items have another question, "
                    f"answers, options or pixels in {one.name}, first {self.items[odd[0]]!r}; "
                    "run all on the same data"
                )
            if block.prompt != other.prompt:
                yield f"{self.task}: prompt differs: {block.prompt!r} and {other.prompt!r} in {one.name}"
            if [block.clusters[i] for i in rows] != [other.clusters[j] for j in places]:
                yield f"{self.task}: {one.name} clusters the items otherwise; those of {target.name} are used"


def _probability(name: str, clean: Cell, n: int) -> Floats:
    """[n]: of the first answer token; NaN where the table has none."""
    if clean.doubt is None:
        return np.full(n, np.nan)
    if len(clean.doubt) != n:
        raise UsageError(f"{name}: {clean.task}: doubt: expected {n} entries, got {len(clean.doubt)}")
    return 1 - np.array([np.nan if value is None else value for value in clean.doubt])


def _refuse_other_task(one: tuple[str, TaskBlock], two: tuple[str, TaskBlock]) -> None:
    for what in ("version", "scorer", "data_hash"):
        here, there = (getattr(block, what) for _, block in (one, two))
        if here != there:
            raise NotComparableError(
                f"{one[1].task}: other {what.replace('_', ' ')}: {here} in {one[0]}, {there} in {two[0]}; "
                f"{_common(one[1], two[1])} items in common"
            )


def _common(one: TaskBlock, two: TaskBlock) -> int:
    return len(set(one.items) & set(two.items))


def _block(one: Named, task: str) -> TaskBlock:
    block = one.block(task)
    assert block is not None
    return block


def _tasks(one: Named) -> str:
    return ", ".join(block.task for block in one.table.tasks) or "none"


def _joined(parts: Sequence[Material], warnings: Sequence[str]) -> Material:
    """The items of all tasks, one after the other."""
    same = [part.same for part in parts if part.same is not None]
    return Material(
        tasks=[task for part in parts for task in part.tasks],
        clusters=[name for part in parts for name in part.clusters],
        categories=[name for part in parts for name in part.categories],
        right=np.concatenate([part.right for part in parts]),
        probability=np.concatenate([part.probability for part in parts]),
        same=np.concatenate(same) if same else None,
        signals=[join_signals(models) for models in zip(*(part.signals for part in parts), strict=True)],
        left_out=sum(part.left_out for part in parts),
        warnings=[*warnings, *(line for part in parts for line in part.warnings)],
    )
