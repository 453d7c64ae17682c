"""Tables on a terminal, in Markdown and as JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vlmbench.errors import ExitCode
from vlmbench.report.figures import Section
from vlmbench.report.view import sections
from vlmbench.schema import Table

if TYPE_CHECKING:
    from vlmbench.experiments.session import Result


_FIGURES = re.compile(r"[-+.,%\[\]\de ]*")
# GitHub resolves mentions and issue numbers after the entities, so those need a break in the word
_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "\\`*[]<>|&"} | {ord(c): f"{c}\u200b" for c in "@#"}


def starts_with_letters(section: Section, column: int) -> bool:
    """Whether a column of the grid is text, as far as its cells tell."""
    return any(row[column][:1].isalpha() for row in section.rows)


def print_sections(
    sections: Iterable[Section],
    is_text: Callable[[Section, int], bool] = starts_with_letters,
    dense: bool = False,
) -> None:
    """Rich tables within the width of the terminal, text to the left and figures to the right.

    dense: columns move together, and text that is too long is folded and not cut.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console()
    for section in sections:
        console.print(f"\n[bold]{escape(section.title)}[/bold]", highlight=False)
        for line in section.lines:
            console.print("  " + escape(line), highlight=False, soft_wrap=True)
        if section.rows:
            padding = (0, 1, 0, 0 if dense else 1)
            grid = Grid(box=None, pad_edge=False, padding=padding, header_style="dim")
            for i, name in enumerate(section.columns):
                text = is_text(section, i)
                fold = dense and text
                grid.add_column(
                    name,
                    justify="left" if text else "right",
                    no_wrap=not fold,
                    overflow="fold" if dense else "ellipsis",
                )
            for row in section.rows:
                grid.add_row(*map(escape, row))
            console.print(grid)
        for line in section.below:
            console.print("  " + escape(line), style="dim", highlight=False, soft_wrap=True)
    console.print()


def markdown_sections(sections: Iterable[Section]) -> str:
    """The same sections as Markdown, for a file or a comment."""
    lines: list[str] = []
    for section in sections:
        lines += [f"### {_plain(section.title)}", "", *(f"- {_plain(line)}" for line in section.lines)]
        lines += [""] if section.lines else []
        if section.rows:
            lines += [_line(section.columns), "|" + "---|" * len(section.columns)]
            lines += [_line(row) for row in section.rows]
            lines.append("")
        if section.below:
            lines += [*map(_plain, section.below), ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Names and answers come from a model and its data: nothing in them may become markup, a link or a
    mention."""
    text = " ".join(text.split())
    return text if _FIGURES.fullmatch(text) else text.translate(_ESCAPES)


def print_terminal(table: Table) -> None:
    """The sections of a table on a terminal."""
    # many figures per row: closer together they fit into 80 columns
    print_sections(sections(table), dense=True)


def markdown(table: Table) -> str:
    """The sections of a table in Markdown."""
    return markdown_sections(sections(table))


def print_table(table: Table, form: str) -> int:
    """Prints in one of `table`, `md`, `json`; returns the exit code that the table's status asks for."""
    if form == "json":
        from vlmbench.table_io import dump_table

        sys.stdout.write(dump_table(table))
    elif form == "md":
        sys.stdout.write(markdown(table))
    else:
        print_terminal(table)
    return _exit_code(table)


def print_result(result: Result, as_json: bool) -> int:
    """The end of a run: its table, and where it lies; the exit code is that of the table's status."""
    if not result.ranks.main:
        return ExitCode.OK  # the launcher kills the first process where another one ends with anything else
    code = print_table(result.table, "json" if as_json else "table")
    if not as_json:
        print(f"table: {result.folder / 'table.json'}", file=sys.stderr)
    result.ranks.see_off()
    return code


def _exit_code(table: Table) -> ExitCode:
    return ExitCode.PARTIAL if table.status == "partial" else ExitCode.OK
