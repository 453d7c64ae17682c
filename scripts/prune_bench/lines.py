"""Lines of the table: what was measured, its spread, and what was aimed at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vlmbench.engine.manifest import describe_hardware
from vlmbench.engine.timing import median_estimate
from vlmbench.prune import PRUNERS
from vlmbench.prune.base import Pruner
from vlmbench.schema import Estimate


@dataclass(frozen=True)
class Line:
    """One measured figure, median with its 95 % interval, and what was aimed at."""

    section: str
    what: str
    median: float
    low: float
    high: float
    unit: str = ""
    aim: float | None = None
    at_most: bool = True

    @property
    def verdict(self) -> str:
        if self.aim is None:
            return ""
        met = self.median <= self.aim if self.at_most else self.median >= self.aim
        return f"aim {'<=' if self.at_most else '>='} {self.aim:g}: {'met' if met else 'MISSED'}"

    def __str__(self) -> str:
        spread = f"({self.low:.4g} - {self.high:.4g})"
        return f"  {self.what:<58}{self.median:>9.4g} {self.unit:<3}{spread:<22}{self.verdict}"


def line(
    section: str, what: str, values: Sequence[float] | Estimate, unit: str = "", **aim: Any
) -> Iterator[Line]:
    """The figure as a line; none where there is nothing to tell."""
    estimate = values if isinstance(values, Estimate) else median_estimate(list(values))
    if estimate.value is not None and estimate.low is not None and estimate.high is not None:
        yield Line(section, what, estimate.value, estimate.low, estimate.high, unit, **aim)


def method(name: str, **parameters: Any) -> Pruner:
    entry = PRUNERS.get(name)
    built: Pruner = entry.build(entry.part(**{key: str(value) for key, value in parameters.items()}))
    return built


def tell(jobs: Iterable[Iterator[Line]], clock: str, path: Path | None) -> None:
    """Prints the lines of each job as they come, under their sections; `path` gets them after each job."""
    machine, lines = describe_hardware(), list[Line]()
    for job in jobs:
        for each in job:
            if not lines or lines[-1].section != each.section:
                print(f"\n{each.section}")
            print(each, flush=True)
            lines.append(each)
        if path is not None:
            told = [{**asdict(each), "verdict": each.verdict} for each in lines]
            content = {"machine": machine, "torch": torch.__version__, "clock": clock, "lines": told}
            path.write_text(json.dumps(content, indent=1))
