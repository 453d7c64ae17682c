"""The field's figures as lines, as a file and as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vlmbench.engine.manifest import describe_hardware, package_versions
from vlmbench.engine.timing import median_estimate

from .field import VARIANTS, Field, measure_field
from .lines import Line, line
from .models import Case

SLOWEST_MS = 10.0
"""Aimed at for a selection of 64 of 576 on a CPU."""


def bench_field(
    case: Case, keep: int, repeats: int, device: torch.device, seconds: Callable[[], float], out: Path | None
) -> Iterator[Line]:
    """What every method takes, and that as a share of the prefill it saves; `out` gets `record`."""
    measured = measure_field(case, keep, repeats, device, seconds)
    for name, reason in measured.left_out.items():
        print(f"  {name}: left out: {reason}")
    yield from lines(measured)
    if out:
        recorded = record(measured, "CPU time" if seconds is time.process_time else "wall time")
        out.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
        print(f"\n{markdown(recorded)}\n\nwritten: {out}")


def lines(field: Field) -> Iterator[Line]:
    section = f"field: {field.case}, {field.keep} of {field.tokens} tokens, batch 1"
    yield from line(section, "full: prefill", field.prefill, "ms")
    for cost in field.costs:
        aim = {} if cost.inside or cost.method in VARIANTS else {"aim": SLOWEST_MS}
        yield from line(section, f"{cost.method}: selection", cost.selection, "ms", **aim)
        yield from line(section, f"{cost.method}: overhead / prefill saved", cost.share)


def record(field: Field, clock: str) -> dict[str, Any]:
    """What is written to a file: medians with 95 % intervals."""
    rows = [
        {
            "method": cost.method,
            "inside": cost.inside,
            "kept": cost.kept,
            "capture_ms": None if cost.capture is None else _told(cost.capture),
            "selection_ms": _told(cost.selection),
            "overhead_ms": _told(cost.overhead),
            "saved_ms": _told(cost.saved),
            "share": _told(cost.share),
        }
        for cost in field.costs
    ]
    return {
        "model": field.case,
        "tokens": field.tokens,
        "keep": field.keep,
        "repeats": len(field.prefill),
        "clock": clock,
        "full_prefill_ms": _told(field.prefill),
        "rows": rows,
        "left_out": dict(field.left_out),
        "environment": {"packages": package_versions(), "hardware": describe_hardware()},
    }


def _told(values: Sequence[float]) -> dict[str, float]:
    estimate = median_estimate(list(values))
    figures = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: float(f"{figure:.4g}") for key, figure in figures.items()}


def markdown(recorded: Mapping[str, Any]) -> str:
    """The table of `record`, cheapest first."""
    head = [
        "| method | kept | capture, ms | selection, ms | overhead, ms | prefill saved, ms | share |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = sorted(recorded["rows"], key=lambda row: (row["inside"], row["share"]["value"]))
    for row in rows:
        share = row["share"]
        percent = "{value:.1f} % [{low:.1f}, {high:.1f}]".format(**{k: 100 * v for k, v in share.items()})
        cells = [
            row["method"] + (" (inside)" if row["inside"] else ""),
            f"{row['kept']:g}",
            "-" if row["capture_ms"] is None else _cell(row["capture_ms"]),
            _cell(row["selection_ms"]),
            _cell(row["overhead_ms"]),
            _cell(row["saved_ms"]),
            percent,
        ]
        head.append(f"| {' | '.join(cells)} |")
    return "\n".join(head)


def _cell(figure: Mapping[str, float]) -> str:
    return "{value:.1f} [{low:.1f}, {high:.1f}]".format(**figure)
