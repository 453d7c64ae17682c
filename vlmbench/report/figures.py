"""A section of a report, and how its figures are written."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.schema import Estimate


@dataclass(frozen=True)
class Section:
    """A title, lines of prose, and at most one grid."""

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def percent(figure: Estimate | None, signed: bool = False) -> str:
    """`5.2 [3.1, 7.4]` in percent; a dash where there is nothing to say."""
    if figure is None or figure.value is None:
        return "-"
    sign = "+" if signed else ""
    value = f"{100 * figure.value:{sign}.1f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{100 * figure.low:{sign}.1f}, {100 * figure.high:{sign}.1f}]"


def short_percent(figure: Estimate | None, signed: bool = False) -> str:
    """The value alone."""
    if figure is None or figure.value is None:
        return "-"
    return f"{100 * figure.value:{'+' if signed else ''}.1f}"
