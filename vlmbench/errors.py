"""Errors that a user is meant to read: one line that says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; part of the command line's contract."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    PARTIAL = 3
    NOT_COMPARABLE = 4
    INTERNAL = 70
    INTERRUPTED = 130


class VlmbenchError(Exception):
    """Base of every error that is explained to the user in one line."""

    exit_code: ExitCode = ExitCode.INTERNAL


class UsageError(VlmbenchError):
    """The command, a file or a parameter is wrong; nothing was run."""

    exit_code = ExitCode.USAGE


class NotComparableError(VlmbenchError):
    """Two tables do not describe the same experiment."""

    exit_code = ExitCode.NOT_COMPARABLE


class ItemError(VlmbenchError):
    """One item cannot be processed; it becomes an ERROR record and the run goes on."""

    exit_code = ExitCode.PARTIAL


class LostProcessError(VlmbenchError):
    """Another process of the run has ended early; empty where that one has said why."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str = "", exit_code: ExitCode = ExitCode.INTERRUPTED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ContractError(VlmbenchError):
    """A method, perhaps a third party's, returned what its contract rules out."""

    exit_code = ExitCode.USAGE


class NotApplicableError(VlmbenchError):
    """A perturbation or method has no meaning for this item or model; the record says why."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`": did you mean 'zoo'?"` when one of `known` is close to `name`, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f": did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is in no registry."""
    return UsageError(f"unknown {kind} {name!r}{did_you_mean(name, known)}")
