"""Rows made by a Python function, such as the demo's. The function must be marked with `row_source`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError
from vlmbench.items import ImageSource
from vlmbench.seeds import digest
from vlmbench.tasks.definition import Source
from vlmbench.tasks.loaders.base import Rows
from vlmbench.tasks.loaders.images import MissingImage


def open_source(source: Source, folder: Path, owner: str) -> Rows:
    """Calls `module:function` with `params`. Raises UsageError where that is no source of rows."""
    target = source.builtin or ""
    module, _, attribute = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"builtin {target!r} cannot be imported: {error}") from None
    if not getattr(function, "vlmbench_rows", False):
        raise UsageError(f"builtin {target!r} is not marked as a source of rows (see row_source)")
    try:
        found = function(**source.params)
    except (TypeError, ValueError) as error:
        raise UsageError(f"builtin {target!r}: {error}") from None
    return found if hasattr(found, "read") else ListRows(found, target)


class ListRows:
    """Rows held in memory: mappings whose image cells are ImageSource objects or lists of them."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], source: str) -> None:
        if not rows:
            raise UsageError(f"{source} holds no rows")
        self._rows = rows
        self.source = source
        self.columns = tuple(dict.fromkeys(name for row in rows for name in row))

    @property
    def fingerprint(self) -> str:
        return digest([{name: _plain(value) for name, value in row.items()} for row in self._rows], length=32)

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> str:
        return f"{self.source}, row {index}"

    def read(
        self, columns: Sequence[str], indices: Sequence[int] | None = None
    ) -> Iterator[Mapping[str, Any]]:
        for index in range(len(self)) if indices is None else indices:
            yield {column: self._rows[index].get(column) for column in columns}

    def images(self, index: int, columns: Sequence[str]) -> tuple[ImageSource, ...]:
        found: list[ImageSource] = []
        for column in columns:
            value = self._rows[index].get(column)
            for image in value if isinstance(value, (list, tuple)) else [value]:
                if image is not None and not isinstance(image, ImageSource):
                    raise UsageError(f"{self.place(index)}: {column!r} must hold ImageSource objects")
                if image is not None:
                    found.append(image)
        return tuple(found) or (MissingImage(self.place(index)),)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.key if isinstance(value, ImageSource) else value
