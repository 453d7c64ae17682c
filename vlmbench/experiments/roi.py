"""`roi`: does it help to look again at the region that a question is about, and how good is that region?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.conditions import CLEAN, Condition, Part, parse_spec, split_list
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions, check_sources
from vlmbench.metrics.tabulate import Variation
from vlmbench.roi import ROIS

if TYPE_CHECKING:
    from vlmbench.experiments.session import Result

METHODS = "raw-attn,rel-attn,center,oracle,duplicate"
"""Compared where none are named."""


@dataclass(frozen=True)
class RoiOptions:
    """Which methods. Raises UsageError for what cannot be meant."""

    methods: str = METHODS

    def __post_init__(self) -> None:
        variations(self)


def variations(options: RoiOptions) -> list[Variation]:
    """The model without a second look first, against which every method counts."""
    specs = split_list(options.methods)
    if not specs:
        raise UsageError(f"--method names nothing: got {options.methods!r}")
    found = [Variation(CLEAN)]
    for spec in specs:
        name, given = parse_spec(spec)
        part = ROIS.get(name).part(**given)
        if part.name != "none":
            found.append(Variation(Condition(roi=part), "roi", _family(part), "", "clean"))
    return list({v.condition.id: v for v in found}.values())


def _family(part: Part) -> str:
    entry = ROIS.get(part.name)
    weak = {p.name for p in entry.params if p.strength}
    return entry.part(**{k: v for k, v in part.params if k not in weak}).label


def check_names(options: RunOptions, roi: RoiOptions) -> None:
    """Tells a misspelt name before anything heavy is loaded. Raises UsageError."""
    variations(roi)
    check_sources(options)


def run(options: RunOptions, roi: RoiOptions) -> Result:
    """The whole experiment."""
    check_names(options, roi)
    from vlmbench.experiments.session import Session
    from vlmbench.experiments.tables import TaskPlan

    session = Session(options, "roi")
    chosen = variations(roi)
    plans = [TaskPlan(task, items, limit, chosen) for task, items, limit in session.chosen]
    return session.run(plans)
