"""A bar for each stage of `distill` on a terminal, with loss and held-out quality; nothing anywhere else."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Stages:
    """Silent when stderr is no terminal, so that logs of CI stay readable."""

    def __init__(self, show: bool = True) -> None:
        self._bar: Any = None
        self._task: Any = None
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Stages:
        if self._bar is not None:
            self._bar.start()
        return self

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """The next stage."""
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total, completed=done, figures="")

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def tell(self, done: int, figures: str) -> None:
        """Where the stage stands."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
