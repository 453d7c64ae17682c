"""The speeds of a run: the timing pass over its conditions, once per batch size and output length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from vlmbench.engine.timing import TimingSettings
from vlmbench.engine.timing_pass import time_conditions, with_speeds
from vlmbench.experiments.ceiling import is_ceiling

if TYPE_CHECKING:
    from vlmbench.experiments.options import TimingPlan
    from vlmbench.experiments.session import Finished
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.schema import Table


def timed(
    plans: Sequence[TaskPlan], finished: Finished, timing: TimingPlan, seed: int, newline: str = "counted"
) -> Table:
    """The table of a run with speeds in its cells; as it is where none are asked for."""
    table = finished.table
    if not timing.repeats:
        return table
    wanted = {
        "repeats": timing.repeats,
        "batches": list(timing.batches),
        "new_tokens": list(timing.tokens),
    }
    before = _measured_before(finished, wanted)
    plan = {**table.plan, "timing": wanted}
    # a figure of time is read beside the machine that it was measured on
    table = table.model_copy(update={"environment": finished.environment})
    if before is not None:
        known = {(cell.task, cell.condition): cell.speed for cell in before.cells}
        cells = [cell.model_copy(update={"speed": known[cell.task, cell.condition]}) for cell in table.cells]
        starts = tuple(f"{block.task}: speed: " for block in table.tasks)
        notes = [*table.notes, *(note for note in before.notes if note.startswith(starts))]
        return table.model_copy(update={"cells": cells, "notes": notes, "plan": plan})
    for batch, tokens in product(timing.batches, timing.tokens):
        settings = TimingSettings(
            batch=batch, new_tokens=tokens, repeats=timing.repeats, seed=seed, newline=newline
        )
        timings = {}
        for task in plans:
            served = {c.condition for c in table.cells if c.task == task.task.name and c.n}
            conditions = [
                v.condition
                for v in task.variations
                if v.condition.id in served and not is_ceiling(v.condition)
            ]
            timings[task.task.name] = time_conditions(
                finished.preparer, task.task.name, task.items, conditions, settings, looker=finished.looker
            )
        table = with_speeds(table, timings)
    return table.model_copy(update={"plan": plan})


def _measured_before(finished: Finished, wanted: dict[str, Any]) -> Table | None:
    """What an earlier session of this run wrote, if it measured the same on the same hardware."""
    before = finished.before
    if before is None or before.plan.get("timing") != wanted:
        return None
    if before.environment.get("hardware") != finished.environment.get("hardware"):
        return None
    return before
