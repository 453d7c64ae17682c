"""`vlmbench compare`: two tables, one verdict, and an exit code that CI can act on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vlmbench.comparison import Verdict
    from vlmbench.comparison.verdict import Comparison
    from vlmbench.report.figures import Section

FORMS = ("table", "md", "json")
SHOWN = 10
"""Rows of one outcome that are shown, twice as many regressions; JSON has all."""

GATE = "Gate"
TABLES = "Tables"


def compare_tables(
    base: Annotated[Path, typer.Argument(help="Run folder or table to compare with.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="Run folder or table to judge.", show_default=False)],
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on",
            help="Margins: a larger loss that is also beyond chance fails. `accuracy:1%` is one point. "
            "Metrics not named cannot fail. [default: accuracy:0,flip_rate:0]",
            rich_help_panel=GATE,
            metavar="METRIC:MARGIN,..",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Level of all tests together (Holm).", rich_help_panel=GATE)
    ] = 0.05,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Compare runs with failed items.", rich_help_panel=TABLES)
    ] = False,
    common: Annotated[
        bool,
        typer.Option(
            "--common", help="Compare the items that both have (limits nest).", rich_help_panel=TABLES
        ),
    ] = False,
    form: Annotated[str, typer.Option("--format", "-f", help="table, md or json.")] = "table",
) -> int:
    """Is the candidate less accurate or less stable than the base? Paired by item; exit code 1 if so.

    Exit codes: 0 no regression, 1 regression, 2 usage, 4 not comparable.

    Examples:
      vlmbench compare results/base.json runs/today
      vlmbench compare base.json today.json --fail-on accuracy:1%,flip_rate:0.5% --format md
    """
    from vlmbench.comparison import compare
    from vlmbench.errors import ExitCode, unknown
    from vlmbench.report.printing import markdown_sections, print_sections
    from vlmbench.table_io import read_table

    if form not in FORMS:
        raise unknown("format", form, FORMS)
    verdict = compare(
        read_table(base),
        read_table(candidate),
        fail_on,
        alpha=alpha,
        allow_partial=allow_partial,
        common=common,
        names=(str(base), str(candidate)),
    )
    if form == "json":
        import json

        sys.stdout.write(json.dumps(verdict.to_dict(), indent=1, ensure_ascii=False) + "\n")
    elif form == "md":
        sys.stdout.write(markdown_sections(_sections(verdict)))
    else:
        print_sections(_sections(verdict), _is_text, dense=True)
    if form == "json" and not verdict.ok:
        print(f"vlmbench: {verdict.sentence}", file=sys.stderr)
    return ExitCode.OK if verdict.ok else ExitCode.REGRESSION


def _sections(verdict: Verdict) -> list[Section]:
    """The verdict, most important first; the same grids for the terminal and Markdown."""
    from vlmbench.comparison import Outcome
    from vlmbench.report.figures import Section

    margins = ", ".join(f"{name}:{100 * margin:g}%" for name, margin in verdict.fail_on.items())
    sizes = ", ".join(f"{task} {n} items" for task, n in verdict.items.items())
    head = (
        verdict.sentence,
        f"base {verdict.base}",
        f"candidate {verdict.candidate}",
        f"{sizes} · --fail-on {margins} · --alpha {verdict.alpha:g}",
        *(f"warning: {warning}" for warning in verdict.warnings),
    )
    found = [Section(f"vlmbench compare · {'ok' if verdict.ok else 'REGRESSION'}", head)]
    tasks = len(verdict.items) > 1
    for outcome in (Outcome.REGRESSION, Outcome.WITHIN_MARGIN, Outcome.IMPROVEMENT, Outcome.NO_DIFFERENCE):
        rows = verdict.rows(outcome)
        shown = rows[: SHOWN * (2 if outcome is Outcome.REGRESSION else 1)]
        if rows:
            lines = (f"the {len(shown)} with the smallest p",) if len(shown) < len(rows) else ()
            columns = ("condition", "metric", "base", "cand.", "difference", "p Holm", "worse", "better")
            grid = tuple(_cells(row, tasks) for row in shown)
            found.append(Section(f"{outcome.capitalize()}: {len(rows)}", lines, columns, grid))
    without = list(dict.fromkeys(_name(row, tasks) for row in verdict.rows(Outcome.NO_DATA)))
    if without:
        found.append(Section(f"Conditions without data: {len(without)}", (_some(without),)))
    if verdict.changes:
        changes = tuple((c.item, c.condition, c.base, c.candidate, c.effect) for c in verdict.changes)
        heads = ("item", "condition", "base", "candidate", "effect")
        found.append(Section("Changed items", columns=heads, rows=changes))
    for side, names in (("base", verdict.only_base), ("candidate", verdict.only_candidate)):
        if names:
            found.append(Section(f"Only in {side}, not compared: {len(names)}", (_some(names),)))
    return found


def _name(row: Comparison, with_task: bool) -> str:
    return f"{row.task} · {row.condition}" if with_task else row.condition


def _cells(row: Comparison, with_task: bool) -> tuple[str, ...]:
    from vlmbench.report.figures import percent

    return (
        _name(row, with_task),
        row.metric if row.gated else f"{row.metric} (not gated)",
        f"{100 * (row.base or 0):.1f}",
        f"{100 * (row.candidate or 0):.1f}",
        percent(row.difference, signed=True),
        f"{row.p_holm:.2g}",
        str(row.worse),
        str(row.better),
    )


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_text(section: Section, column: int) -> bool:
    """Conditions and metrics; of the changed items everything, though ids and answers may be digits."""
    return column < 2 or section.columns[0] != "condition"
