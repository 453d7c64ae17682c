"""Sections about forecast flips, and about what moves inside the model."""

from __future__ import annotations

from collections.abc import Iterator

from vlmbench.report.figures import Section, percent, short_percent
from vlmbench.schema import Table, TaskBlock


def forecast_sections(table: Table, block: TaskBlock) -> Iterator[Section]:
    """Whether flips can be foretold, per family; nothing where none were."""
    groups = [s for s in table.summaries if s.task == block.task and "forecast" in s.group]
    rows = tuple(
        (
            s.group["forecast"],
            str(s.counts["pairs"]),
            str(s.counts["flips"]),
            *(short_percent(s.metrics.get(f"auroc_{name}")) for name in ("forecast", "margin", "drift")),
            percent(s.metrics.get("auroc_gain"), signed=True),
            *(short_percent(s.metrics.get(name)) for name in ("found@0.1", "found_margin@0.1")),
        )
        for s in groups
    )
    if rows:
        lines = (
            "AUROC x 100 for the flip that really happens: margin foretold by one backward pass; controls:",
            "the clean answer's own margin, and how far the visual tokens moved; gain: over that margin",
            "found: % of all flips among the 10 % of variants with the lowest forecast, or margin",
        )
        columns = ("family", "pairs", "flips", "forecast", "margin", "drift", "gain", "found", "by margin")
        yield Section(f"{block.task}: flip forecast", lines, columns, rows)
    yield from _drift_sections(table, block)


def _drift_sections(table: Table, block: TaskBlock) -> Iterator[Section]:
    groups = [s for s in table.summaries if s.task == block.task and "drift" in s.group]
    rows = tuple(
        (
            s.group["axis"],
            s.group["drift"],
            percent(s.metrics.get("state_drift_share")),
            percent(s.metrics.get("feature_drift")),
            percent(s.metrics.get("energy_change"), signed=True),
            str(s.counts["pairs"]),
        )
        for s in groups
    )
    if rows:
        lines = (
            "states: distance of the last prompt token's state to the clean one, in % of that between images",
            "tokens: |Z' - Z| / |Z| of the visual tokens; energy: change of how much neighbours differ",
        )
        columns = ("axis", "family", "states %", "tokens %", "energy %", "pairs")
        yield Section(f"{block.task}: drift inside the model", lines, columns, rows)
