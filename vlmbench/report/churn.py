"""Section about selection churn: other tokens under a perturbation, and the flips that follow from them."""

from __future__ import annotations

from collections.abc import Iterator

from vlmbench.report.figures import Section, images, percent, resolution, short_label, short_percent
from vlmbench.schema import Table, TaskBlock


def churn_sections(table: Table, block: TaskBlock) -> Iterator[Section]:
    """A row per pruner and family, then per axis; nothing where no record tells of kept tokens."""
    groups = [s for s in table.summaries if s.task == block.task and "churn" in s.group]
    if not groups:
        return
    frozen = any("flip_rate_frozen" in s.metrics for s in groups)
    full = any("flip_rate_full" in s.metrics for s in groups)
    rows = []
    for summary in groups:
        metrics = summary.metrics
        row = [
            short_label(summary.group["churn"]),
            summary.group.get("family", f"all {summary.group['axis']}"),
            *((short_percent if frozen else percent)(metrics.get(n)) for n in ("kept_overlap", "flip_rate")),
        ]
        if frozen:
            row.append(short_percent(metrics.get("flip_rate_frozen")))
            row.append(percent(metrics.get("churn_flip_rate"), signed=True))
        if full:
            row.append(short_percent(metrics.get("flip_rate_full")))
        rows.append(tuple(row))
    lines = ["overlap: kept tokens that see the place of one kept on the unperturbed input"]
    if frozen:
        lines.append(
            "frozen: flips with the tokens of the unperturbed input; their difference is due to churn"
        )
    if any(s.group["axis"] == "question" for s in groups):
        lines.append(
            "a rewritten question has a row only where the pruner sees it: else the tokens are the same"
        )
    columns = ["pruner", "family", "overlap %", "flips %"]
    columns += ["frozen", "due to churn"] * frozen + ["full"] * full
    found = [s.metrics.get("churn_flip_rate") for s in groups]
    below = resolution("due to churn: shares", found, images(block))
    yield Section(f"{block.task}: churn", tuple(lines), tuple(columns), tuple(rows), below)
