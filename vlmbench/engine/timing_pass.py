"""From a task's items to the timing pass, and from its speeds to the cells of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from vlmbench.conditions import Condition
from vlmbench.engine.compute import pruner_of
from vlmbench.engine.plan import Request, in_order, other_images, prune_seeds
from vlmbench.engine.prepare import Prepared, Preparer, Settled, settle_early
from vlmbench.engine.timing import Timing, TimingSettings, time_ready
from vlmbench.engine.timing_stages import Ready
from vlmbench.errors import UsageError
from vlmbench.items import Item
from vlmbench.schema import Table
from vlmbench.seeds import digest


def time_conditions(
    preparer: Preparer,
    task: str,
    items: Sequence[Item],
    conditions: Sequence[Condition],
    settings: TimingSettings,
) -> Timing:
    """Speeds of `conditions`, clean first, on the same sample of the task's items with images.

    Conditions that do not apply to the sample are left out with a note. Raises UsageError where prompt and
    new tokens exceed the model's context.
    """
    prepared, notes = _prepare(preparer, task, items, conditions, settings)
    _check_context(preparer, prepared, settings)
    ready = {
        condition: Ready(
            [p.row for p in rows],
            pruner_of(rows[0].request),
            [prune_seeds(p.request, settings.seed) for p in rows],
            settings.newline,
        )
        for condition, rows in prepared.items()
    }
    timing = time_ready(preparer.adapter, ready, settings)
    return Timing(timing.speeds, (*(f"{task}: {note}" for note in (*notes, *timing.notes)),))


def with_speeds(table: Table, timings: Mapping[str, Timing]) -> Table:
    """The table with the speeds of each task, by its name, added to its cells, and with the notes."""
    cells = []
    for cell in table.cells:
        speeds = timings[cell.task].speeds if cell.task in timings else {}
        cells.append(cell.model_copy(update={"speed": [*cell.speed, *speeds.get(cell.condition, [])]}))
    notes = [*table.notes, *(note for timing in timings.values() for note in timing.notes)]
    return table.model_copy(update={"cells": cells, "notes": notes})


def _prepare(
    preparer: Preparer,
    task: str,
    items: Sequence[Item],
    conditions: Sequence[Condition],
    settings: TimingSettings,
) -> tuple[dict[str, list[Prepared]], list[str]]:
    """Per condition `batch` rows of the same items; where the task has fewer, they come again."""
    if not conditions:
        return {}, []
    others = other_images(items, items, settings.seed)
    clean = conditions[0]
    chosen: list[Item] = []
    for item in sorted(items, key=lambda item: digest(settings.seed, "timing", item.id)):
        if item.images and isinstance(_prepared(preparer, Request(task, item, clean), settings), Prepared):
            chosen.append(item)
        if len(chosen) == settings.batch:
            break
    if not chosen:
        return {}, ["speed: no item with an image can be timed"]
    notes = []
    if len(chosen) < settings.batch:
        notes.append(f"speed: a batch of {settings.batch} repeats the task's {len(chosen)} items with images")
    found: dict[str, list[Prepared]] = {}
    for condition in conditions:
        rows = []
        for item in islice(cycle(chosen), settings.batch):
            ((request,),) = in_order(task, [item], [condition], others)
            row = _prepared(preparer, request, settings)
            if isinstance(row, Settled):
                notes.append(f"speed: {condition.id} was not timed: {row.detail}")
                break
            rows.append(row)
        else:
            found[condition.id] = rows
    return found, notes


def _prepared(preparer: Preparer, request: Request, settings: TimingSettings) -> Prepared | Settled:
    return settle_early(request, settings.seed) or preparer.prepare(request)


def _check_context(
    preparer: Preparer, prepared: Mapping[str, Sequence[Prepared]], settings: TimingSettings
) -> None:
    context = preparer.adapter.context
    longest = max((p.row.length for rows in prepared.values() for p in rows), default=0)
    if context is not None and longest + settings.new_tokens > context:
        raise UsageError(
            f"timing: {longest} prompt + {settings.new_tokens} new tokens exceed the model's context of "
            f"{context}; time fewer new tokens"
        )
