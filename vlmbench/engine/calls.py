"""Answered calls of a run: kept as they come in, so that none is ever paid for twice."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from vlmbench.engine.store import drop_half_line
from vlmbench.errors import UsageError
from vlmbench.models.endpoint_reply import Reply


class CallStore:
    """`calls.jsonl` of a run folder: a line per answer, on the disk before anyone reads the answer."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "calls.jsonl"
        drop_half_line(self.path)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        _alone(self._file, folder)
        self._known = dict(_lines(self.path))

    def get(self, key: str) -> Reply | None:
        return self._known.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """After this returns the answer survives a killed process."""
        line = json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n"
        with self._lock:
            os.write(self._file, line.encode())
            os.fsync(self._file)
            self._known[key] = reply

    def close(self) -> None:
        os.close(self._file)


def _alone(file: int, folder: Path) -> None:
    """Two sessions of one run would pay for each call twice. The lock goes with the process."""
    with suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another process is working in {folder}: wait for it, or end it") from None


def _lines(path: Path) -> list[tuple[str, Reply]]:
    found = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                key = str(fields.pop("key"))
                found.append((key, Reply(**{**fields, "without": tuple(fields.get("without", ()))})))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UsageError(f"{path}:{number}: this is no call; delete the line to ask again") from None
    return found
