"""Tasks: their files, data and scorers."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "scorers":  # there, whoever imported this package first
        return importlib.import_module("vlmbench.tasks.scorers")
    raise AttributeError(f"module 'vlmbench.tasks' has no attribute {name!r}")
