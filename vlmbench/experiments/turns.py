"""What is answered when: all requests in one turn, or some after the others, as far as it then pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlmbench.engine.plan import shows_another_image
from vlmbench.engine.run import Work, run_work
from vlmbench.engine.store import Key, read_records
from vlmbench.experiments.ceiling import answered
from vlmbench.schema import Record, State

if TYPE_CHECKING:
    from vlmbench.engine.ranks import Ranks
    from vlmbench.experiments.session import Engine
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.metrics.tabulate import Variation

POOL = 512
"""Items of a task out of which another item's image is taken, the same ones whatever the --limit."""


class Later(Protocol):
    """Variations that wait until the others are answered, and of which not every request is then tried."""

    @property
    def identity(self) -> dict[str, Any]:
        """What it adds to the identity of the run."""
        ...

    @property
    def reason(self) -> str:
        """Detail of the SKIPPED records of what is left out."""
        ...

    def waits(self, variation: Variation) -> bool:
        """Whether it is answered after the others."""
        ...

    def left_out(
        self,
        plans: Sequence[TaskPlan],
        folder: Path,
        preparer: Any,
        ranks: Ranks,
        records: Mapping[Key, Record],
    ) -> set[Key]:
        """The waiting requests that are not tried; the same in every process. `records` are the others'."""
        ...


def answer_plans(
    plans: Sequence[TaskPlan],
    folder: Path,
    engine: Engine,
    ranks: Ranks,
    is_current: Callable[[Record], bool],
    begin: Callable[[bool], None],
    later: Later | None = None,
) -> Callable[[Record], bool]:
    """Computes what the run folder does not hold yet; returns which of its records count."""

    def answer(
        now: Callable[[Variation], bool], counts: Callable[[Record], bool], left_out: set[Key]
    ) -> None:
        reason = later.reason if later is not None else ""
        run_work(
            [*_work(plans, engine.settings.seed, now, left_out, reason)],
            folder,
            engine.answerer,
            engine.preparer,
            engine.settings,
            ranks,
            counts,
            engine.unserved,
            begin,
            engine.expect,
        )
        ranks.wait()

    if later is None:
        answer(lambda _: True, is_current, set())
        return is_current
    answer(lambda variation: not later.waits(variation), is_current, set())
    left_out = later.left_out(plans, folder, engine.preparer, ranks, read_records(folder, is_current))

    def counts(record: Record) -> bool:
        """An earlier session may have chosen otherwise: an item failed, a picture was another one."""
        skipped = record.state is State.SKIPPED and record.detail == later.reason
        return skipped == ((record.task, record.item, record.condition) in left_out) and is_current(record)

    answer(later.waits, counts, left_out)
    return counts


def _work(
    plans: Sequence[TaskPlan],
    seed: int,
    now: Callable[[Variation], bool],
    left_out: set[Key],
    reason: str,
) -> Iterator[Work]:
    for plan in plans:
        conditions = answered(v for v in plan.variations if now(v))
        swaps = any(map(shows_another_image, conditions))
        yield Work(
            plan.task.name,
            plan.items,
            conditions,
            plan.task.items(POOL, seed) if swaps else (),
            {(item, condition): reason for task, item, condition in left_out if task == plan.task.name},
        )
