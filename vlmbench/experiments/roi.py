"""`roi`: does it help to look again at the region that a question is about, and how good is that region?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vlmbench.conditions import CLEAN, Condition, Part, parse_spec, split_list
from vlmbench.errors import UsageError
from vlmbench.experiments.networks import shipped
from vlmbench.experiments.options import RunOptions, TimingPlan, check_bootstrap, check_sources
from vlmbench.metrics.tabulate import Variation
from vlmbench.roi import ROIS

if TYPE_CHECKING:
    from vlmbench.engine.region_panels import ItemRegions
    from vlmbench.experiments.session import Finished, Result
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.schema import Table

METHODS = "sd-rpn,raw-attn,rel-attn,confidence,center,random,oracle,duplicate,more-pixels"
"""Compared where none are named; without a network, those that need none."""

NEED_NETWORK = ("sd-rpn", "confidence")
"""Of these methods."""


@dataclass(frozen=True)
class RoiOptions:
    """Which methods. Raises UsageError for what cannot be meant."""

    methods: str = METHODS
    pictures: int = 0
    timing: TimingPlan = field(default_factory=TimingPlan)
    bootstrap: int = 0
    """Cluster resamples that intervals are taken from; 0: analytic ones."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise UsageError(f"--pictures must be 0 or more: got {self.pictures}")
        check_bootstrap(self.bootstrap)
        variations(self.methods)


def variations(methods: str) -> list[Variation]:
    """The model without a second look first, against which every method counts."""
    specs = split_list(methods)
    if not specs:
        raise UsageError(f"--method names nothing: got {methods!r}")
    parts = (looking_part(spec) for spec in specs)
    found = [Variation(CLEAN), *(looked(part) for part in parts if part is not None)]
    return list({v.condition.id: v for v in found}.values())


def looking_part(spec: str) -> Part | None:
    """`sd-rpn` or `center(share=0.5)` as a part; None for `none`, the plain model.

    Raises UsageError for unknown names and parameters.
    """
    name, given = parse_spec(spec)
    part = ROIS.get(name).part(**given)
    return None if part.name == "none" else part


def looked(part: Part) -> Variation:
    """A method, told apart from the plain model."""
    entry = ROIS.get(part.name)
    weak = {p.name for p in entry.params if p.strength}
    family = entry.part(**{k: v for k, v in part.params if k not in weak}).label
    return Variation(Condition(roi=part), "roi", family, "", "clean")


def check_names(options: RunOptions, roi: RoiOptions) -> None:
    """Tells a misspelt name before anything heavy is loaded. Raises UsageError."""
    variations(roi.methods)
    check_sources(options)


def run(options: RunOptions, roi: RoiOptions) -> Result:
    """The whole experiment: answers, then the separate timing pass."""
    check_names(options, roi)
    from vlmbench.experiments.session import Session
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.experiments.timed import timed

    session = Session(options, "roi")
    methods = roi.methods
    if methods == METHODS and options.rpn is None and shipped(options.model) is None:
        methods = ",".join(name for name in METHODS.split(",") if name not in NEED_NETWORK)
        left_out = " and ".join(NEED_NETWORK)
        session.notes.append(
            f"no region proposal network: {left_out} are left out; make one with vlmbench distill"
        )
    chosen = variations(methods)
    plans = [TaskPlan(task, items, limit, chosen) for task, items, limit in session.chosen]
    panels: list[ItemRegions] = []

    def finish(finished: Finished) -> Table:
        panels.extend(_panels(roi, plans, finished))
        return timed(plans, finished, roi.timing, options.seed)

    result = session.run(plans, finish=finish, bootstrap=roi.bootstrap)
    return replace(result, regions=tuple(panels))


def _panels(roi: RoiOptions, plans: Sequence[TaskPlan], finished: Finished) -> Iterator[ItemRegions]:
    if not roi.pictures or finished.looker is None:
        return
    from vlmbench.engine.region_panels import region_panels

    for plan in plans:
        yield from region_panels(
            finished.preparer,
            finished.looker,
            plan.task.name,
            plan.items,
            plan.variations,
            finished.records,
            roi.pictures,
        )
