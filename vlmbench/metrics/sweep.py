"""A pruning sweep as a whole: what each method needs for 95 %, and what can be told apart at each budget.

METHOD_METRICS and BUDGET_METRICS say what each name means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.retention import area_under_retention, keep_at, smallest_detectable_difference
from vlmbench.schema import Cell, Estimate, Summary

if TYPE_CHECKING:
    from vlmbench.metrics.tabulate import Variation

METHOD_METRICS = {
    "keep@95": "share of the visual tokens that it takes for 95 % retention, between the measured budgets",
    "retention_area": "mean retention over the kept shares from the smallest budget to all tokens",
}
BUDGET_METRICS = {
    "detectable_least": "smallest difference that this sample finds between the two methods most alike",
    "detectable_most": "the same between the two methods least alike",
}


def method_summaries(cells: Sequence[Cell]) -> Iterator[Summary]:
    """One per method with a budget; `budgets` counts those with a retention. Kept shares are layer averages.
    A method under a RoI method is another one, told by its `reference`.

    Areas compare between methods over the same budgets only.
    """
    methods: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        if cell.strength:
            model = cell.reference or "clean"
            methods.setdefault((cell.task, cell.axis, cell.family, model), []).append(cell)
    for (task, axis, family, model), mine in methods.items():
        points: list[tuple[float, Estimate]] = []
        for cell in mine:
            retention = cell.metrics.get("retention")
            if retention is None or retention.value is None or cell.tokens is None:
                continue
            if cell.tokens.before and cell.tokens.average is not None:
                points.append((cell.tokens.average / cell.tokens.before, retention))
        if points:
            yield Summary(
                task=task,
                group={"axis": axis, "method": family} | ({} if model == "clean" else {"reference": model}),
                metrics={"keep@95": keep_at(0.95, points), "retention_area": area_under_retention(points)},
                counts={"budgets": len(points)},
            )


def budget_summary(
    task: str,
    outcomes: Outcomes,
    variations: Sequence[Variation],
    columns: Sequence[int],
    control: int | None,
) -> Summary | None:
    """What holds for all methods (`columns`) of one budget: the smallest detectable differences between any
    two of them, and, where a `control` down-samples to the same budget, how many items need their tokens.

    None where there is neither.
    """
    metrics = between(outcomes, columns)
    group = {"axis": "prune", "budget": variations[columns[0]].strength}
    counts: dict[str, int] = {}
    if control is not None:
        reference = int(outcomes.base[control])
        right = outcomes.correct[:, reference] & outcomes.scored[:, control]
        needy = right & ~outcomes.correct[:, control]
        part = variations[control].condition.prune
        group["control"] = part.name if part is not None else ""
        counts = {"needy": int(np.count_nonzero(needy)), "easy": int(np.count_nonzero(right & ~needy))}
    if not metrics and not counts:
        return None
    return Summary(task=task, group=group, metrics=metrics, counts=counts)


def between(outcomes: Outcomes, columns: Sequence[int]) -> dict[str, Estimate]:
    """BUDGET_METRICS over every two of `columns`; empty where no size is known."""
    scored = [j for j in columns if outcomes.scored[:, j].any()]
    found = [
        (size, int((outcomes.scored[:, a] & outcomes.scored[:, b]).sum()))
        for a, b in combinations(scored, 2)
        for size in [smallest_detectable_difference(outcomes, a, b)]
        if size is not None
    ]
    if not found:
        return {}
    ends = (("detectable_least", min(found)), ("detectable_most", max(found)))
    return {name: Estimate(value=size, n=n) for name, (size, n) in ends}
