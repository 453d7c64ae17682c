"""Flip rate against the distance of a shift: patches of the model show as a period. Drawn from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError
from vlmbench.report.curves import GREY, INK, MARKERS, PALE, PALETTE, STYLE, percent_bounds
from vlmbench.report.figures import short_label
from vlmbench.schema import Estimate, Summary, Table

FAMILY = "shift"
_PATCHES = "patches="


@dataclass(frozen=True)
class ShiftPoint:
    """All shifts by one distance, in whichever direction and with whichever fill."""

    pixels: int
    """Of the source image."""
    rate: Estimate


@dataclass(frozen=True)
class ShiftLine:
    """One model over the distances; `pruner` is empty for the full one."""

    pruner: str
    points: tuple[ShiftPoint, ...]
    """By rising distance, at least two."""
    patch: Estimate | None
    """The flip rate of a shift by one patch of the model, where it was asked for and met any item."""


def shift_lines(table: Table, task: str) -> list[ShiftLine]:
    """The models of a task that were shifted by two or more distances, in the order of the table."""
    found: dict[str, list[Summary]] = {}
    for summary in table.summaries:
        if summary.task == task and summary.group.get("family") == FAMILY and "strength" in summary.group:
            rate = summary.metrics.get("flip_rate")
            if rate is not None and rate.value is not None:
                found.setdefault(summary.group.get("prune", ""), []).append(summary)
    lines = []
    for pruner, mine in found.items():
        by = {summary.group["strength"]: summary.metrics["flip_rate"] for summary in mine}
        points = [ShiftPoint(int(text), rate) for text, rate in by.items() if text.isdecimal()]
        points.sort(key=lambda point: point.pixels)
        if len(points) > 1:
            lines.append(ShiftLine(pruner, tuple(points), by.get(f"{_PATCHES}1")))
    return lines


def noise_floor(table: Table, task: str) -> Estimate | None:
    """The flip rate of the full model's repeats."""
    for summary in table.summaries:
        if summary.task == task and summary.group == {"axis": "repeat"}:
            return summary.metrics.get("flip_rate")
    return None


def draw_shift(table: Table, path: Path, task: str = "", patch: float | None = None) -> Path:
    """Writes the picture of one task, the first by default, as the suffix of `path` says (svg, png, pdf).

    patch: source pixels under one patch of the model, where known; a table does not hold it. Raises
    UsageError where matplotlib is missing, or fewer than two distances were tried.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("pictures of curves need matplotlib: pip install 'vlmbench[plots]'") from None
    task = task or table.tasks[0].task
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), dpi=130)
        axis = figure.add_axes((0.09, 0.14, 0.87, 0.68))
        shifts(axis, table, task, patch)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:])
        figure.savefig(path, bbox_inches="tight", facecolor="white", metadata=metadata)
    return path


def shifts(axis: Any, table: Table, task: str, patch: float | None = None) -> None:
    """Draws on matplotlib axes. Raises UsageError as `draw_shift`."""
    lines = shift_lines(table, task)
    if not lines:
        raise UsageError(f"task {task}: the table has no shifts by two or more distances")
    for place, line in enumerate(lines):
        _draw(axis, line, place, patch)
    floor = noise_floor(table, task)
    if floor is not None and floor.value is not None:
        value = 100 * floor.value
        axis.axhline(
            value,
            color=INK,
            lw=1,
            ls=(0, (5, 2)),
            zorder=2.5,
            label=f"noise floor, repeats: {value:.2g} %",
        )
    _scale(axis, lines, patch)
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 1.01), borderaxespad=0.2)
    axis.set_xlabel("shift, pixels of the source image")
    axis.set_ylabel("answers changed, %")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=PALE)
    axis.set_axisbelow(True)
    n = max(point.rate.n for line in lines for point in line.points)
    axis.set_title(
        f"{task}: {n:,} questions, 95 % intervals", fontsize=10, loc="left", color=GREY, pad=_pad(patch)
    )


def _pad(patch: float | None) -> float:
    """Room for the scale in patches below the title."""
    return 36.0 if patch else 10.0


def _draw(axis: Any, line: ShiftLine, place: int, patch: float | None) -> None:
    colour = PALETTE[place % len(PALETTE)]
    xs = [point.pixels for point in line.points]
    low, high = zip(*(percent_bounds(point.rate) for point in line.points), strict=True)
    axis.fill_between(xs, low, high, color=colour, alpha=0.13, lw=0, zorder=1)
    axis.plot(
        xs,
        [100 * (point.rate.value or 0.0) for point in line.points],
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        ms=5.5,
        mec="white",
        mew=0.7,
        lw=2,
        zorder=3,
        label=short_label(line.pruner) if line.pruner else "full model",
    )
    if line.patch is not None and patch is not None:
        value = 100 * (line.patch.value or 0.0)
        bottom, top = percent_bounds(line.patch)
        axis.errorbar(
            [patch],
            [value],
            [[max(0.0, value - bottom)], [max(0.0, top - value)]],
            color=colour,
            fmt="D",
            ms=6.5,
            mfc="white",
            mew=1.6,
            elinewidth=1.4,
            zorder=4,
            label=f"one whole patch, {line.patch.n:,} questions" if not place else None,
        )
    elif line.patch is not None and line.patch.value is not None:
        axis.axhline(
            100 * line.patch.value,
            color=colour,
            lw=1,
            ls=(0, (1, 1.5)),
            zorder=1.5,
            label=f"one whole patch, {line.patch.n:,} questions" if not place else None,
        )


def _scale(axis: Any, lines: Sequence[ShiftLine], patch: float | None) -> None:
    """Zero is on both axes; ticks at the distances, those too close to a larger one left out; above, whole
    patches where their width is known."""
    pixels = sorted({point.pixels for line in lines for point in line.points})
    most = max([*pixels, patch or 0])
    bounds = [percent_bounds(point.rate)[1] for line in lines for point in line.points]
    bounds += [percent_bounds(line.patch)[1] for line in lines if line.patch is not None]
    axis.set_xlim(0, most * 1.04)
    # a third of the height is left to the legend
    top = max(1.0, *bounds) * 1.34
    # a floor at 0 must not hide under the axis
    axis.set_ylim(-0.02 * top, top)
    kept: list[int] = []
    for pixel in reversed(pixels):
        if not kept or kept[-1] - pixel >= most / 44:
            kept.append(pixel)
    axis.set_xticks(kept[::-1])
    if patch:
        upper = axis.secondary_xaxis("top", functions=(lambda x: x / patch, lambda x: x * patch))
        whole = int(most * 1.04 / patch)
        step = max(1, -(-whole // 12))
        upper.set_xticks(range(0, whole + 1, step))
        upper.set_xlabel(f"patches of the model, {patch:.3g} source pixels each", fontsize=9, color=GREY)
        upper.tick_params(labelsize=9, colors=GREY)
        for k in range(step, whole + 1, step):
            axis.axvline(k * patch, color=GREY, lw=0.8, ls=(0, (1, 2)), zorder=0.9)
