"""What every experiment is told, however it was started: by the command line or from Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vlmbench.models.aliases import resolve
from vlmbench.models.endpoint_address import Server
from vlmbench.tasks.load import find_spec


@dataclass(frozen=True)
class RunOptions:
    """Model, data and machine of a run. None stands for `auto` or for the task's own default."""

    model: str = "demo"
    tasks: str = "demo"
    """Names or YAML files, comma-separated."""
    limit: int | str | None = None
    """First items of a seeded order, `all`, or None for the task's own default."""
    seed: int = 0
    batch_size: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    attn: str = "auto"
    include: tuple[Path, ...] = ()
    out: Path | None = None
    show_progress: bool = True
    server: Server = field(default_factory=Server)
    """How a served model is asked; nothing else reads it."""
    arguments: tuple[str, ...] = field(default=(), compare=False)
    """The command line as typed, for the manifest."""


def check_sources(options: RunOptions) -> None:
    """Tells a misspelt model or task before anything heavy is loaded. Raises UsageError."""
    check_tasks(options)
    resolve(options.model)


def check_tasks(options: RunOptions) -> None:
    """Tells a misspelt task. Raises UsageError."""
    for name in options.tasks.split(","):
        if name.strip():
            find_spec(name.strip())
