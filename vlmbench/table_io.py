"""Reading and writing of manifests and tables: atomic, and with one-line errors that name file and field."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vlmbench.errors import UsageError
from vlmbench.schema import SCHEMA_VERSION, Manifest, Table

M = TypeVar("M", bound=BaseModel)


def write_text_atomically(path: Path, text: str) -> None:
    """The file is the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_table(path: Path) -> Table:
    """A table file, or the `table.json` of a run folder. Raises UsageError."""
    return _read(path / "table.json" if path.is_dir() else path, Table, "result table")


def read_manifest(path: Path) -> Manifest:
    """A manifest file, or the `manifest.json` of a run folder. Raises UsageError."""
    return _read(path / "manifest.json" if path.is_dir() else path, Manifest, "manifest")


def _read(path: Path, kind: type[M], what: str) -> M:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such {what}; is the run finished?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a {what}: {error}") from None
    strange: list[float] = []

    def not_json(name: str) -> float:
        strange.append(float(name))
        return strange[-1]

    try:
        data = json.loads(text, parse_constant=not_json)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: is no {what}: the top level is not an object")
    if strange:
        raise UsageError(f"{path}: {_place_of(strange[0], data)}: must be finite: got {strange[0]}")
    version = data.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version < 1:
        raise UsageError(f"{path}: schema_version: must be a whole number above 0: got {version!r}")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this vlmbench "
            "reads: upgrade vlmbench"
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _place_of(wanted: float, data: Any) -> str:
    """The dotted path of the value that IS `wanted`; empty where there is none."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        if value is wanted:
            return str(key)
        if deeper := _place_of(wanted, value):
            return f"{key}.{deeper}"
    return ""


def _compact(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def dump_table(table: Table) -> str:
    """JSON with one cell, summary or task per line: short diffs, small file."""
    data = json.loads(table.model_dump_json())
    lines = []
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"  {_compact(row)}" for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
