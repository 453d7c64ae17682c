"""`prune`: how many visual tokens can go, and at what cost? Methods x ratios beside their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from vlmbench.conditions import CLEAN, Condition, Part, label_for, parse_spec, show_value, split_list
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions, check_sources
from vlmbench.metrics.tabulate import Variation
from vlmbench.prune import NEWLINES, PRUNERS, RATIO

if TYPE_CHECKING:
    from vlmbench.engine.panels import ItemPanels
    from vlmbench.experiments.session import Finished, Result
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.schema import Cell, Table

METHODS = "zoo,zoo(estimator=sampled),divprune,norm,visionzip,fastv"
"""Compared where none are named."""

CONTROLS = ("random", "uniform", "pool", "downsample")
"""In every table, at every budget."""

WITH_CEN = ("zoo", "divprune", "cdpruner-llm")
"""Methods that `all` runs also with the plug-in `cen`; beside them `cdpruner`, where a clip is named."""

ALL = "all"

FIXED = ("identity", "blind", "swapped")
"""In every table, once: the full way without loss, no visual token, another item's image."""

RATIOS = "0.5,0.75,0.9"


@dataclass(frozen=True)
class PruneOptions:
    """Which methods at which budgets. Raises UsageError for what cannot be meant."""

    methods: str = METHODS
    ratios: str | None = None
    """Shares of visual tokens removed, comma-separated; `RATIOS` where neither budget is given."""
    keeps: str | None = None
    """The same as counts of tokens kept per image."""
    positions: str | None = None
    """`original` or `compact` for all methods; None leaves each its paper's choice."""
    newline: str = "counted"
    pictures: int = 0
    timing_repeats: int = 7
    """Of the separate timing pass; 0 leaves it out."""
    timing_batches: tuple[int, ...] = (1,)
    timing_tokens: tuple[int, ...] = (8,)
    """Output lengths."""

    def __post_init__(self) -> None:
        if self.ratios is not None and self.keeps is not None:
            raise UsageError("--ratio and --keep are the same budget: give one of them")
        if self.newline not in NEWLINES:
            raise UsageError(f"--newline must be one of {', '.join(NEWLINES)}: got {self.newline!r}")
        if self.pictures < 0:
            raise UsageError(f"--pictures must be 0 or more: got {self.pictures}")
        if 0 < self.timing_repeats < 5:
            raise UsageError(f"--timing-repeats must be 0 or at least 5: got {self.timing_repeats}")
        variations(self)

    @property
    def budgets(self) -> list[dict[str, str]]:
        """One mapping per budget, as text: `{"ratio": "0.9"}`."""
        ratios = RATIOS if self.ratios is None else self.ratios
        name, text = ("keep", self.keeps) if self.keeps is not None else ("ratio", ratios)
        values = [value.strip() for value in text.split(",")]
        if not all(values):
            raise UsageError(f"--{name} names an empty budget: got {text!r}")
        if name == "keep" and any(not v.isdecimal() or int(v) < 1 for v in values):
            raise UsageError(f"--keep must be whole numbers above 0: got {text!r}")
        return [{name: value} for value in values]


def variations(options: PruneOptions) -> list[Variation]:
    """Clean first, then what has no budget, then budget by budget the methods and their controls."""
    found = [Variation(CLEAN)]
    found += [pruned(PRUNERS.get(name).part(), "control") for name in FIXED]
    specs = _named(options.methods)
    if not specs:
        raise UsageError(f"--method names nothing: got {options.methods!r}")
    for budget in options.budgets:
        found += [pruned(part) for spec in specs for part in [part_of(spec, budget, options.positions)]]
        controls = (PRUNERS.get(name).part(**budget) for name in CONTROLS)
        found += [pruned(part, "control") for part in controls]
    return list({v.condition.id: v for v in found}.values())


def _named(methods: str) -> list[str]:
    """The specs of a list; `all` in it stands for `everything`.

    Beside `all`, each `cdpruner(clip=..)` takes the place of the one without a checkpoint, which can never
    run, and also runs with the plug-in.
    """
    specs = split_list(methods)
    own = [spec for spec in specs if spec != ALL]
    for spec in own:
        if parse_spec(spec)[0] == ALL:
            raise UsageError(f"{spec}: all takes no parameters: give its budget as --ratio or --keep")
    if own == specs:
        return own
    clips = [spec for spec in own if _names_clip(spec)]
    field = [spec for spec in everything() if spec != "cdpruner" or not clips]
    return [*field, *own, *map(_with_cen, clips)]


def _names_clip(spec: str) -> bool:
    name, given = parse_spec(spec)
    return name == "cdpruner" and "clip" in given


def _with_cen(spec: str) -> str:
    name, given = parse_spec(spec)
    return label_for(name, {**given, "cen": "true"})


def everything() -> list[str]:
    """Every registered method that has a budget and is no control of its own accord, ceilings last."""
    names = [entry.name for entry in PRUNERS if RATIO in entry.params and entry.name not in CONTROLS]
    return ["zoo", "zoo(estimator=sampled)", *(f"{name}(cen=true)" for name in WITH_CEN), *names]


def part_of(spec: str, budget: dict[str, str] | None = None, positions: str | None = None) -> Part:
    """`zoo`, `zoo@0.9` or `zoo(m=16)` as a part; `budget` applies where the spec names none.

    Raises UsageError for unknown names and parameters and for budgets out of range.
    """
    name, given = parse_spec(spec)
    entry = PRUNERS.get(name)
    if "mask" in given:
        raise UsageError(f"{spec}: mask is set by `perturb --churn`: leave it out")
    known = {param.name for param in entry.params}
    if {"ratio", "keep"} <= given.keys():
        raise UsageError(f"{spec}: ratio and keep are the same budget: give one of them")
    if budget and "ratio" in known and not {"ratio", "keep"} & given.keys():
        given = {**given, **budget}
    if positions is not None and "positions" in known and "positions" not in given:
        given = {**given, "positions": positions}
    return entry.part(**given)


def pruned(part: Part, axis: str = "prune") -> Variation:
    """A method at a budget, told apart from the unpruned model."""
    return Variation(Condition(prune=part), axis, _family(part), budget_of(part), "clean")


def budget_of(part: Part) -> str:
    """`0.9`, `64 tokens`, or nothing for what has no budget."""
    parameters = part.parameters
    if parameters.get("keep"):
        return f"{parameters['keep']} tokens"
    return show_value(parameters["ratio"]) if "ratio" in parameters else ""


def _family(part: Part) -> str:
    """The method with what sets it apart but for the budget: `zoo(m=16)`."""
    entry = PRUNERS.get(part.name)
    budget = {p.name for p in entry.params if p.strength}
    return entry.part(**{k: v for k, v in part.params if k not in budget}).label


def check_names(options: RunOptions, prune: PruneOptions) -> None:
    """Tells a misspelt name before anything heavy is loaded. Raises UsageError."""
    variations(prune)
    check_sources(options)


def run(options: RunOptions, prune: PruneOptions) -> Result:
    """The whole experiment: answers, then the separate timing pass."""
    check_names(options, prune)
    from vlmbench.experiments.session import Session
    from vlmbench.experiments.tables import TaskPlan

    session = Session(options, "prune")
    chosen = variations(prune)
    plans = [TaskPlan(task, items, limit, chosen) for task, items, limit in session.chosen]
    panels: list[ItemPanels] = []

    def finish(finished: Finished) -> Table:
        panels.extend(_panels(prune, plans, finished))
        return _timed(options, prune, plans, finished) if prune.timing_repeats else finished.table

    result = session.run(plans, newline=prune.newline, finish=finish)
    return replace(result, panels=tuple(panels))


def _panels(prune: PruneOptions, plans: Sequence[TaskPlan], finished: Finished) -> Iterator[ItemPanels]:
    if not prune.pictures:
        return
    from vlmbench.engine.panels import item_panels
    from vlmbench.experiments.ceiling import is_ceiling

    for plan in plans:
        yield from item_panels(
            finished.preparer,
            plan.task.name,
            plan.items,
            [v for v in plan.variations if not is_ceiling(v.condition)],
            finished.records,
            prune.pictures,
            prune.newline,
        )


def _timed(options: RunOptions, prune: PruneOptions, plans: Sequence[TaskPlan], finished: Finished) -> Table:
    from vlmbench.engine.timing import TimingSettings
    from vlmbench.engine.timing_pass import time_conditions, with_speeds
    from vlmbench.experiments.ceiling import is_ceiling

    table = finished.table
    wanted = {
        "repeats": prune.timing_repeats,
        "batches": list(prune.timing_batches),
        "new_tokens": list(prune.timing_tokens),
    }
    known = _known_speeds(finished, wanted)
    plan = {**table.plan, "timing": wanted}
    # a figure of time is read beside the machine that it was measured on
    table = table.model_copy(update={"environment": finished.environment})
    if known is not None:
        cells = [
            cell.model_copy(update={"speed": known[cell.task, cell.condition].speed}) for cell in table.cells
        ]
        return table.model_copy(update={"cells": cells, "plan": plan})
    for batch, tokens in product(prune.timing_batches, prune.timing_tokens):
        settings = TimingSettings(
            batch=batch,
            new_tokens=tokens,
            repeats=prune.timing_repeats,
            seed=options.seed,
            newline=prune.newline,
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
                finished.preparer, task.task.name, task.items, conditions, settings
            )
        table = with_speeds(table, timings)
    return table.model_copy(update={"plan": plan})


def _known_speeds(finished: Finished, wanted: dict[str, Any]) -> dict[tuple[str, str], Cell] | None:
    """The cells of an earlier session of this run that measured the same on the same hardware."""
    before = finished.before
    if before is None or before.plan.get("timing") != wanted:
        return None
    if before.environment.get("hardware") != finished.environment.get("hardware"):
        return None
    return {(cell.task, cell.condition): cell for cell in before.cells}
