"""`prune --pictures N`: what each method kept of some items, and accuracy against ratio."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.engine.panels import item_panels
from vlmbench.experiments.session import Finished
from vlmbench.experiments.tables import TaskPlan
from vlmbench.report.pictures import write_pictures
from vlmbench.schema import Table


def draw(table: Table, plans: Sequence[TaskPlan], finished: Finished, count: int, newline: str) -> Table:
    """Draws `count` items of each task; returns the table with a note of where the pictures lie."""
    panels = (
        panel
        for plan in plans
        for panel in item_panels(
            finished.preparer,
            plan.task.name,
            plan.items,
            plan.variations,
            finished.records,
            count,
            newline,
        )
    )
    written = write_pictures(finished.folder, table, panels)
    note = f"{len(written)} pictures in {finished.folder.name}/pictures"
    return table.model_copy(update={"notes": [*table.notes, note]})
