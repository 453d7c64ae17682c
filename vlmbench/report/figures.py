"""A section of a report, and how its figures are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmbench.schema import Cell, Estimate


@dataclass(frozen=True)
class Section:
    """A title, lines of prose, at most one grid, and lines below it."""

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    below: tuple[str, ...] = ()


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


def figure_range(values: Sequence[float]) -> str:
    """`1.2 to 2.6`, or `1.2` where both ends read the same; in percent."""
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def method_name(cell: Cell) -> str:
    """`zoo(sampled)`, `zoo+cen`: what has a value of its own goes without its parameter's name, and a plug-in
    by its sign."""
    name = cell.family.replace("estimator=", "")
    return f"{name.removesuffix('(cen=true)')}+cen" if name.endswith("(cen=true)") else name
