"""Sections on what accuracy hides: items that need their tokens, lost evidence, all budgets at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmbench.report.figures import Section, images, method_name, percent, resolution, short_percent
from vlmbench.schema import Cell, Estimate, Summary, Table, TaskBlock


def fairness_sections(table: Table, block: TaskBlock, pruned: Sequence[Cell]) -> Iterator[Section]:
    """Each only where the table has its figures; tables of older runs have none."""
    mine = [s for s in table.summaries if s.task == block.task]
    methods = [s for s in mine if "method" in s.group]
    if any(s.counts.get("budgets", 0) > 1 for s in methods):
        yield _sweep_section(block, pruned, methods)
    if any("accuracy_needy" in c.metrics or "yes_shift" in c.metrics for c in pruned):
        yield _needs_section(block, pruned, [s for s in mine if "budget" in s.group])
    if any("evidence_recall" in c.metrics for c in pruned):
        yield _lost_section(block, pruned)


def _sweep_section(block: TaskBlock, pruned: Sequence[Cell], methods: Sequence[Summary]) -> Section:
    def budgets(summary: Summary) -> int:
        return summary.counts.get("budgets", 0)

    most = max(map(budgets, methods))
    rows = []
    for summary in methods:
        axis, method = summary.group["axis"], summary.group["method"]
        model = summary.group.get("reference", "clean")
        cells = [c for c in pruned if (c.axis, c.family, c.reference or "clean") == (axis, method, model)]
        shares = [
            (cell.tokens.average / cell.tokens.before, cell.tokens.before)
            for cell in cells
            if cell.tokens and cell.tokens.before and cell.tokens.average is not None
        ]
        before = max((before for _, before in shares), default=0.0)
        rows.append(
            (
                method_name(cells[0]) if cells else method,
                _tokens_for(summary.metrics.get("keep@95"), min(shares, default=(0.0, 0.0))[0], before),
                percent(summary.metrics.get("retention_area")) if budgets(summary) == most else "-",
                str(budgets(summary)),
            )
        )
    lines = (
        "tokens that keep 95 % of the full model's score, read off between the budgets (mean over layers)",
        "area: mean retention % from the smallest budget to all tokens, of methods that reach every budget",
    )
    columns = ("method", "tokens for 95 %", "area under retention %", "budgets")
    areas = [s.metrics.get("retention_area") for s in methods if budgets(s) == most]
    below = resolution("area: differences between two methods", areas, images(block), sides=2)
    if any(s.metrics["keep@95"].low is not None for s in methods if "keep@95" in s.metrics):
        below += ("tokens: methods whose intervals overlap have not been told apart",)
    return Section(f"{block.task}: over all budgets", lines, columns, tuple(rows), below)


def _tokens_for(share: Estimate | None, smallest: float, before: float) -> str:
    """`112 [98, 130]`; `<=58` where the smallest budget that was measured is enough already."""
    if share is None or share.value is None:
        return "-"

    def tokens(part: float) -> str:
        return f"≤{smallest * before:.0f}" if part <= smallest + 1e-9 else f"{part * before:.0f}"

    value = tokens(share.value)
    if share.low is None and share.high is None:
        return value
    low = "?" if share.low is None else tokens(share.low)
    high = "?" if share.high is None else tokens(share.high)
    return f"{value} [{low}, {high}]"


def _needs_section(block: TaskBlock, pruned: Sequence[Cell], budgets: Sequence[Summary]) -> Section:
    groups = [s for s in budgets if "control" in s.group]
    lines = []
    if groups:
        controls = " or ".join(dict.fromkeys(s.group["control"] for s in groups))
        counts = ", ".join(
            f"{s.counts['needy']:,} of {s.counts['needy'] + s.counts['easy']:,} at {s.group['budget']}"
            for s in groups
        )
        lines.append(
            f"need: items that the full model has right and {controls} at the same budget wrong: {counts}"
        )
        lines.append("easy: both right; such items say nothing about a method")
    yes = any("yes_shift" in cell.metrics for cell in pruned)
    if yes:
        asked = max(cell.metrics["yes_shift"].n for cell in pruned if "yes_shift" in cell.metrics)
        lines.append(f"yes: share of yes minus the full model's, points, {asked:,} questions of yes and no")
    columns = ["method", "ratio", *(["need %", "easy %"] if groups else []), *(["yes"] if yes else [])]
    rows = []
    for cell in pruned:
        figures = []
        if groups:
            figures.append(percent(cell.metrics.get("accuracy_needy")))
            figures.append(short_percent(cell.metrics.get("accuracy_easy")))
        if yes:
            figures.append(percent(cell.metrics.get("yes_shift"), signed=True))
        if any(figure != "-" for figure in figures):
            rows.append((method_name(cell), cell.strength or "-", *figures))
    named = ["items that need their tokens"] * bool(groups) + ["shift towards yes"] * yes
    n = images(block)
    below = (
        *resolution("need: differences between two methods", _all(pruned, "accuracy_needy"), n, sides=2),
        *resolution("yes: shifts", _all(pruned, "yes_shift"), n),
    )
    return Section(f"{block.task}: {', '.join(named)}", tuple(lines), tuple(columns), tuple(rows), below)


def _all(cells: Sequence[Cell], name: str) -> list[Estimate | None]:
    return [cell.metrics.get(name) for cell in cells]


def _lost_section(block: TaskBlock, pruned: Sequence[Cell]) -> Section:
    told = [cell for cell in pruned if "evidence_recall" in cell.metrics]
    n = max(cell.metrics["evidence_recall"].n for cell in told)
    rows = tuple(
        (
            method_name(cell),
            cell.strength or "-",
            percent(cell.metrics.get("evidence_recall")),
            short_percent(cell.metrics.get("evidence_dropped")),
            short_percent(cell.metrics.get("lost")),
            percent(cell.metrics.get("lost_dropped")),
        )
        for cell in told
    )
    lines = (
        f"{n:,} items with boxes; evidence: share of each that kept tokens see; dropped: one box, below 5 %",
        "lost: full model right, pruned wrong; of these, evidence dropped; the rest was kept and not used",
    )
    columns = ("method", "ratio", "evidence %", "dropped", "lost %", "lost: dropped %")
    below = (
        *resolution(
            "evidence: differences between two methods", _all(told, "evidence_recall"), images(block), sides=2
        ),
        *resolution("lost: differences between two methods", _all(told, "lost"), images(block), sides=2),
    )
    return Section(f"{block.task}: where answers are lost", lines, columns, rows, below)
