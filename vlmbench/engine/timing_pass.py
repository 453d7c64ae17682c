"""From a task's items to the timing pass, and from its speeds to the cells of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING

from vlmbench.conditions import Condition
from vlmbench.engine.plan import Request, in_order, other_images, prune_seeds, pruner_of, roi_of
from vlmbench.engine.prepare import Prepared, Preparer, Settled, settle_early
from vlmbench.engine.sight import Sight
from vlmbench.engine.timing import Timing, TimingSettings, time_samples
from vlmbench.engine.timing_look import Look
from vlmbench.engine.timing_stages import Ready
from vlmbench.errors import UsageError
from vlmbench.items import Item
from vlmbench.models.before import Told
from vlmbench.schema import Table
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.engine.looking import Looker
    from vlmbench.prune.base import Pruner

Samples = Sequence[Sequence[Prepared] | None]
"""The timed batches of one condition; None where it does not apply to one of the items."""


def time_conditions(
    preparer: Preparer,
    task: str,
    items: Sequence[Item],
    conditions: Sequence[Condition],
    settings: TimingSettings,
    looker: Looker | None = None,
) -> Timing:
    """Speeds of `conditions`, clean first, on `batch * repeats` of the task's items with images, if it has
    so many: each repeat times a batch of its own, and all conditions the same one. Those with a RoI method
    need a `looker`, and are left out with a note where there is none.

    A condition that does not apply to an item of a batch is left out of its repeats, and one that applies
    to no batch altogether, with a note. Raises UsageError where prompt and new tokens exceed the model's
    context.
    """
    looking = [c for c in conditions if c.roi is not None and looker is None]
    conditions = [c for c in conditions if c not in looking]
    prepared, notes = _prepare(preparer, task, items, conditions, settings)
    notes += [f"speed: {c.id} was not timed: nothing was given to look with" for c in looking]
    _check_context(preparer, prepared, settings)
    sight = Sight(preparer.adapter)
    ready = {c: _ready(sight, samples, settings, looker) for c, samples in prepared.items()}
    timing = time_samples(preparer.adapter, ready, settings)
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
) -> tuple[dict[str, Samples], list[str]]:
    """Per condition the batches, of the same items for all, at most one for each repeat.

    The last one, or the only one of a task with fewer items, is filled up with the first items.
    """
    if not conditions:
        return {}, []
    others = other_images(items, [item for item in items if not item.meta.get("error")], settings.seed)
    clean, size = conditions[0], settings.batch
    chosen: list[dict[str, Prepared | Settled]] = []
    for item in sorted(items, key=lambda item: digest(settings.seed, "timing", item.id)):
        if len(chosen) == size * settings.repeats:
            break
        if item.images and isinstance(_prepared(preparer, Request(task, item, clean), settings), Prepared):
            # all conditions of an item behind one another: what they share is prepared once
            requests = [r for same_input in in_order(task, [item], conditions, others) for r in same_input]
            chosen.append({r.condition.id: _prepared(preparer, r, settings) for r in requests})
    if not chosen:
        return {}, ["speed: no item with an image can be timed"]
    notes = []
    if len(chosen) < size:
        notes.append(f"speed: a batch of {size} repeats the task's {len(chosen)} items with images")
    filled = list(islice(cycle(chosen), -(-len(chosen) // size) * size))
    found: dict[str, Samples] = {}
    for condition in conditions:
        rows = [each[condition.id] for each in filled]
        samples = [_all_prepared(rows[start : start + size]) for start in range(0, len(rows), size)]
        if any(samples):
            found[condition.id] = samples
        else:
            reason = next(row.detail for row in rows if isinstance(row, Settled))
            notes.append(f"speed: {condition.id} was not timed: {reason}")
    return found, notes


def _prepared(preparer: Preparer, request: Request, settings: TimingSettings) -> Prepared | Settled:
    return settle_early(request, settings.seed) or preparer.prepare(request)


def _all_prepared(rows: Sequence[Prepared | Settled]) -> list[Prepared] | None:
    prepared = [row for row in rows if isinstance(row, Prepared)]
    return prepared if len(prepared) == len(rows) else None


def _ready(
    sight: Sight, samples: Samples, settings: TimingSettings, looker: Looker | None = None
) -> list[Ready | None]:
    condition = next(rows[0].request.condition for rows in samples if rows)
    pruner, method = pruner_of(condition), roi_of(condition)
    return [
        None
        if rows is None
        else Ready(
            [p.row for p in rows],
            pruner,
            [prune_seeds(p.request, settings.seed) for p in rows],
            settings.newline,
            _told(sight, pruner, rows),
            Look(looker, method, rows, settings.seed) if looker and method and not method.enlarges else None,
        )
        for rows in samples
    ]


def _told(sight: Sight, pruner: Pruner | None, rows: Sequence[Prepared]) -> list[Told]:
    """Evidence is found before the clock runs: it is given to the method, as an annotation."""
    if pruner is None or "evidence" not in pruner.needs:
        return [Told(p.item.question) for p in rows]
    encoded = sight.adapter.encode([p.row for p in rows], frozenset())
    return [sight.told(*pair) for pair in zip(rows, encoded.features, strict=True)]


def _check_context(preparer: Preparer, prepared: Mapping[str, Samples], settings: TimingSettings) -> None:
    context = preparer.adapter.context
    batches = [rows for samples in prepared.values() for rows in samples if rows]
    longest = max((p.row.length for rows in batches for p in rows), default=0)
    if context is not None and longest + settings.new_tokens > context:
        raise UsageError(
            f"timing: {longest} prompt + {settings.new_tokens} new tokens exceed the model's context of "
            f"{context}; time fewer new tokens"
        )
