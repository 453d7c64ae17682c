"""Answered calls of a run: kept as they come in, so that none that has arrived is paid for twice."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

from vlmbench.engine.store import drop_half_line
from vlmbench.errors import UsageError
from vlmbench.models.endpoint_reply import Reply

NAME = "calls.jsonl"


class CallStore:
    """`calls.jsonl` of a run folder: a line per answer, on the disk before anyone reads the answer.

    others: answers that other runs hold; those that are asked for are copied, so that the folder stays whole.
    """

    def __init__(self, folder: Path, others: Mapping[str, Reply] = MappingProxyType({})) -> None:
        self.path = folder / NAME
        self._others = others
        drop_half_line(self.path)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        _alone(self._file, folder)
        self._known = dict(_lines(self.path))

    def __contains__(self, key: str) -> bool:
        """Whether there is an answer, here or in another run."""
        return key in self._known or key in self._others

    def get(self, key: str) -> Reply | None:
        if key not in self._known and key in self._others:
            self._write(key, self._others[key], lambda: None)  # the other run's copy is on the disk
        return self._known.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """After this returns the answer survives a killed process."""
        self._write(key, reply, lambda: os.fsync(self._file))

    def taken(self) -> dict[str, int]:
        """How many answers were taken over, by the run that they are from."""
        return dict(Counter(reply.taken_from for reply in self._known.values() if reply.taken_from))

    def _write(self, key: str, reply: Reply, sync: Callable[[], None]) -> None:
        line = json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n"
        with self._lock:
            os.write(self._file, line.encode())
            sync()
            self._known[key] = reply

    def close(self) -> None:
        os.close(self._file)


def answers_beside(folder: Path) -> dict[str, Reply]:
    """The answers of the runs in the same parent folder, each with the name of its run; of several to one
    call that of the file written last. A file or line that cannot be read gives none."""
    found: dict[str, Reply] = {}
    paths = [
        path
        for path in folder.absolute().parent.glob(f"*/{NAME}")
        if path.parent.name != folder.absolute().name
    ]
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime, path.parent.name)):
        with suppress(OSError), path.open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    key, reply = _call(line)
                    found[key] = replace(reply, taken_from=path.parent.name)
    return found


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
                found.append(_call(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise UsageError(f"{path}:{number}: this is no call; delete the line to ask again") from None
    return found


def _call(line: str | bytes) -> tuple[str, Reply]:
    fields = json.loads(line)
    key = str(fields.pop("key"))
    return key, Reply(**{**fields, "without": tuple(fields.get("without", ()))})
