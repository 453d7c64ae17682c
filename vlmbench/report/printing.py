"""Tables on a terminal, in Markdown and as JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vlmbench.errors import ExitCode
from vlmbench.report.view import Section, sections
from vlmbench.schema import Table

if TYPE_CHECKING:
    from vlmbench.experiments.session import Result


def print_terminal(table: Table) -> None:
    """Rich tables within the width of the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console()
    for section in sections(table):
        console.print(f"\n[bold]{escape(section.title)}[/bold]", highlight=False)
        for line in section.lines:
            console.print("  " + escape(line), highlight=False, soft_wrap=True)
        if section.rows:
            grid = Grid(box=None, pad_edge=False, padding=(0, 1, 0, 1), header_style="dim")
            for i, name in enumerate(section.columns):
                grid.add_column(name, justify="left" if _is_text(section, i) else "right", no_wrap=True)
            for row in section.rows:
                grid.add_row(*map(escape, row))
            console.print(grid)
    console.print()


def _is_text(section: Section, column: int) -> bool:
    return any(row[column][:1].isalpha() for row in section.rows)


def markdown(table: Table) -> str:
    """The same sections as Markdown, for a file or a comment."""
    lines: list[str] = []
    for section in sections(table):
        lines += [f"### {section.title}", ""]
        lines += [f"- {line}" for line in section.lines]
        lines += [""] if section.lines else []
        if section.rows:
            lines.append("| " + " | ".join(section.columns) + " |")
            lines.append("|" + "---|" * len(section.columns))
            lines += [
                "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in section.rows
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def print_table(table: Table, form: str) -> int:
    """Prints in one of `table`, `md`, `json`; returns the exit code that the table's status asks for."""
    if form == "json":
        from vlmbench.table_io import dump_table

        sys.stdout.write(dump_table(table))
    elif form == "md":
        sys.stdout.write(markdown(table))
    else:
        print_terminal(table)
    return ExitCode.PARTIAL if table.status == "partial" else ExitCode.OK


def print_result(result: Result, as_json: bool) -> int:
    """The end of a run: its table, and where it lies; the exit code is that of the table's status."""
    if not result.main:
        return ExitCode.PARTIAL if result.table.status == "partial" else ExitCode.OK
    code = print_table(result.table, "json" if as_json else "table")
    if not as_json:
        print(f"table: {result.folder / 'table.json'}", file=sys.stderr)
    return code
