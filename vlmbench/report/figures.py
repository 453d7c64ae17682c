"""A section of a report, and how its figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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


DETECTABLE = 2.8
"""Standard errors of the smallest effect that is found with 80 % power, two-sided at 5 %: 1.96 + 0.84."""


def resolution(what: str, figures: Iterable[Estimate | None], sides: float = 1) -> tuple[str, ...]:
    """At most one line: effects that these figures cannot show. `sides` is 2 for the difference between two
    of them, of which it is an upper bound: two figures of the same items share their luck."""
    errors = [figure.se for figure in figures if figure is not None and figure.se]
    if not errors:
        return ()
    sizes = figure_range([DETECTABLE * math.sqrt(sides) * error for error in errors])
    return (f"{what} below {sizes} points cannot be shown (80 % power, two-sided 5 %)",)


def short_label(label: str) -> str:
    """`zoo+cen@0.9` of `zoo(cen=true,ratio=0.9)`."""
    name, _, inside = label.removesuffix(")").partition("(")
    parts = inside.split(",") if inside else []
    plug_in = "+cen" * ("cen=true" in parts)
    budget = "".join(f"@{part.removeprefix('ratio=')}" for part in parts if part.startswith("ratio="))
    rest = ",".join(part for part in parts if part != "cen=true" and not part.startswith("ratio="))
    return name + plug_in + budget + (f"({rest})" if rest else "")


def method_name(cell: Cell) -> str:
    """`zoo(sampled)`, `zoo+cen`: what has a value of its own goes without its parameter's name, and a plug-in
    by its sign."""
    name = cell.family.replace("estimator=", "")
    return f"{name.removesuffix('(cen=true)')}+cen" if name.endswith("(cen=true)") else name
