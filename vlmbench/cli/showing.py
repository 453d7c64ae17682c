"""`vlmbench show`: a finished run in the terminal, as Markdown or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMS = ("table", "md", "json")


def show(
    run: Annotated[Path, typer.Argument(help="Run folder or table file.", show_default=False)],
    form: Annotated[str, typer.Option("--format", "-f", help="table, md or json.")] = "table",
) -> int:
    """Show the result table of a run."""
    from vlmbench.errors import ExitCode, unknown
    from vlmbench.report.printing import print_table
    from vlmbench.table_io import read_table

    if form not in FORMS:
        raise unknown("format", form, FORMS)
    print_table(read_table(run), form)
    return ExitCode.OK
