"""Conditions that are told from the scores of others: per item the best of n random draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from vlmbench.conditions import Condition, Part
from vlmbench.prune import PRUNERS
from vlmbench.schema import Record, State

if TYPE_CHECKING:
    from vlmbench.metrics.tabulate import Variation

Records = Mapping[tuple[str, str, str], Record]
"""By task, item and condition."""


def is_ceiling(condition: Condition) -> bool:
    """Whether the condition is never answered itself."""
    return condition.prune is not None and PRUNERS.get(condition.prune.name).derived


def answered(variations: Iterable[Variation]) -> list[Condition]:
    """The conditions to be answered: those of the variations, draws in place of ceilings."""
    found: dict[str, Condition] = {}
    for variation in variations:
        condition = variation.condition
        own = _draws(condition) if is_ceiling(condition) else [condition]
        found |= {each.id: each for each in own}
    return list(found.values())


def _draws(condition: Condition) -> list[Condition]:
    assert condition.prune is not None
    given = condition.prune.parameters
    entry = PRUNERS.get("random")
    common = {param.name: given[param.name] for param in entry.params if param.name != "draw"}

    def draw(i: int) -> Part:
        return entry.part(**common, draw=int(given["draw"]) + i)

    return [Condition(prune=draw(i)) for i in range(int(given["n"]))]


def with_ceilings(
    records: Records, task: str, items: Sequence[str], variations: Iterable[Variation]
) -> dict[tuple[str, str, str], Record]:
    """The records with those of the ceilings; an item has none where one of its draws was never computed."""
    found = dict(records)
    for condition in (v.condition for v in variations if is_ceiling(v.condition)):
        draws = [draw.id for draw in _draws(condition)]
        for item in items:
            own = [records.get((task, item, draw)) for draw in draws]
            known = [record for record in own if record is not None]
            if len(known) == len(own):
                found[task, item, condition.id] = _best(known).model_copy(update={"condition": condition.id})
    return found


def _best(draws: Sequence[Record]) -> Record:
    """The first with the highest score; one that failed, where one did."""
    failed = [record for record in draws if record.state is State.ERROR]
    return (
        failed[0]
        if failed
        else max(draws, key=lambda record: (record.score is not None, record.score or 0.0))
    )
