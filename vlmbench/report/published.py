"""Published figures beside a user's own run: a section per protocol, for protocols never compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmbench.report.figures import Section, method_name, percent, short_label
from vlmbench.schema import Cell, Estimate, Table

if TYPE_CHECKING:
    from vlmbench.prune.published import Protocol, Published

FULL = "full"
"""What the unpruned model is called among the published methods."""


def published_sections(table: Table, published: Published) -> list[Section]:
    """What is printed about the table's model, its tasks beside what was measured here.

    Own figures stand in the rows of the same method and number of tokens; averages over data sets and costs
    have none. One line where nothing is printed about the model, or about a task.
    """
    name = str(table.identity.get("model", "?"))
    model = published.model_of(name)
    if model is None:
        known = ", ".join(f"{alias} ({ids[0]})" if ids else alias for alias, ids in published.models.items())
        line = f"none for model {name}; there are some for {known}"
        return [Section("Published figures", (line,))]
    own = {task: block.task for block in table.tasks if (task := published.task_of(block.task)) is not None}
    head = [
        "printed by others, under their own prompts, scorers and software; compare within a protocol only"
    ]
    head += [
        f"none for task {block.task}; there are some for {', '.join(published.tasks)}"
        for block in table.tasks
        if published.task_of(block.task) is None
    ]
    found = [Section("Published figures", tuple(head))]
    for protocol in published.protocols:
        shown = [task for task in protocol.tasks if not published.is_task(task) or task in own]
        if protocol.model == model and shown:
            found.append(_section(table, protocol, shown, own))
    return found


def _section(table: Table, protocol: Protocol, shown: Sequence[str], own: dict[str, str]) -> Section:
    rows: list[tuple[str, ...]] = []
    # as many decimals in each row as the source prints at most
    decimals = max(len(f"{figure.value:g}".partition(".")[2]) for figure in protocol.figures)
    printed = {(f.method, f.keep, f.task): f"{f.value:.{decimals}f}" for f in protocol.figures}
    beside = any(task in own for task in shown)
    for row in protocol.rows:
        values = [printed[row.method, row.keep, task] for task in shown]
        mine = {task: _measured(table, own[task], row.method, row.keep) for task in shown if task in own}
        names = list(dict.fromkeys(name for cells in mine.values() for name in cells)) or [""]
        for place, name in enumerate(names):
            measured = [percent(mine[task].get(name)) for task in shown if task in own]
            told = [row.method, str(row.keep), *values] if place == 0 else ["", ""] + [""] * len(shown)
            rows.append((*told, *([name or "-", *measured] if beside else [])))
    columns = ["method", "tokens", *shown]
    columns += ["here", *(f"{task} %" for task in shown if task in own)] if beside else []
    lines = [f"{protocol.unit}; {protocol.source}", *([protocol.note] if protocol.note else [])]
    return Section(f"published · protocol {protocol.id}", tuple(lines), tuple(columns), tuple(rows))


def _measured(table: Table, task: str, method: str, keep: int) -> dict[str, Estimate]:
    """Accuracy by the name of the method and its parameters, at this number of tokens."""
    found = {}
    for cell in table.cells:
        accuracy = cell.metrics.get("accuracy")
        if cell.task != task or accuracy is None or accuracy.value is None:
            continue
        if method == FULL:
            if cell.condition == "clean":
                found["full model"] = accuracy
        elif _method(cell) == method and cell.axis in ("prune", "control") and _tokens(cell) == keep:
            found[method_name(cell)] = accuracy
    return found


def _method(cell: Cell) -> str:
    """The published name: `zoo`, `zoo+cen`. What has other parameters than its paper's is another method; a
    checkpoint is none of the method's parameters."""
    clip = (cell.parts.get("prune") or {}).get("params", {}).get("clip")
    return short_label(cell.family.replace(f"clip={clip}", "") if clip else cell.family)


def _tokens(cell: Cell) -> int | None:
    if cell.tokens is None or cell.tokens.average is None:
        return None
    return round(cell.tokens.average)
