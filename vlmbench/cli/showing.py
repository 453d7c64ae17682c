"""`vlmbench show`: a finished run in the terminal, as Markdown or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

FORMS = ("table", "md", "json")


def show(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folder or table file; several models on the same items are pooled.",
            show_default=False,
        ),
    ],
    form: Annotated[str, typer.Option("--format", "-f", help="table, md or json.")] = "table",
) -> int:
    """Show the result table of a run, or how stable several models are, each and together."""
    from vlmbench.errors import ExitCode, unknown
    from vlmbench.report.printing import print_table
    from vlmbench.table_io import read_table

    if form not in FORMS:
        raise unknown("format", form, FORMS)
    if len(runs) > 1:
        return _pooled(runs, form)
    print_table(read_table(runs[0]), form)
    return ExitCode.OK


def _pooled(runs: list[Path], form: str) -> int:
    from vlmbench.comparison.pooled import pooled
    from vlmbench.errors import ExitCode
    from vlmbench.report.pooled import pooled_sections
    from vlmbench.report.printing import markdown_sections, print_sections
    from vlmbench.table_io import read_table

    rows = pooled([(str(run), read_table(run)) for run in runs])
    sections = pooled_sections([str(run) for run in runs], rows)
    if form == "json":
        sys.stdout.write(json.dumps([row.model_dump(mode="json") for row in rows], indent=1) + "\n")
    elif form == "md":
        sys.stdout.write(markdown_sections(sections))
    else:
        print_sections(sections)
    return ExitCode.OK
