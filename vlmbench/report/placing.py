"""Labels of points that touch neither one another nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Rectangle = tuple[float, float, float, float]
"""left, bottom, right, top in pixels."""

_AIR = 2.0
"""Points of space around everything."""


def place_labels(
    axis: Any,
    labels: Sequence[tuple[str, float, float]],
    points: Sequence[tuple[float, float]],
    colour: str,
    levels: Sequence[float] = (),
    size: float = 8.5,
) -> list[Any]:
    """Writes (text, x, y) beside their points, near where there is room, with a thin line to each.

    points: all that is drawn, in data coordinates; levels: heights of horizontal lines. These and the texts
    that the axes have already are avoided. Left and above is tried first, where no point is faster and
    better. Returns the annotations, in the given order.
    """
    from matplotlib.text import Text

    figure = axis.get_figure()
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    inch = figure.dpi / 72
    frame = _rectangle(axis.get_window_extent(renderer))
    marks = [axis.transData.transform(point) for point in points]
    taken = [_around(x, y, 4.5 * inch) for x, y in marks]
    taken += [_rectangle(text.get_window_extent(renderer)) for text in axis.texts]
    for level in levels:
        y = float(axis.transData.transform((1.0, level))[1])
        taken.append((frame[0], y - inch, frame[2], y + inch))
    written = []
    for text, x, y in labels:
        note = axis.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            color=colour,
            va="bottom",
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.5,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )
        box = _rectangle(Text.get_window_extent(note, renderer))  # without the line to its point
        wide, high = box[2] - box[0], box[3] - box[1]
        middle = axis.transData.transform((x, y))
        best = min(
            _places(middle[0], middle[1], wide, high, inch),
            key=lambda place: _cost(place, middle, taken, frame, inch),
        )
        note.set_position(((best[0] - middle[0]) / inch, (best[1] - middle[1]) / inch))
        taken.append(best)
        written.append(note)
    return written


def _places(x: float, y: float, wide: float, high: float, inch: float) -> Iterator[Rectangle]:
    """Rectangles around a point: all around it, at growing distances, left and above first."""
    for distance in (6, 10, 16, 24, 34, 46, 60, 76, 94):
        step = distance * inch
        for right, up in (
            (-1, 1),
            (-1, 0),
            (0, 1),
            (-1, 0.5),
            (-0.5, 1),
            (1, 1),
            (1, 0),
            (1, -1),
            (0, -1),
            (-1, -1),
        ):
            left = x + right * step - wide * (1 - right) / 2
            bottom = y + up * step - high * (1 - up) / 2
            yield left, bottom, left + wide, bottom + high


def _cost(
    place: Rectangle, point: Sequence[float], taken: Sequence[Rectangle], frame: Rectangle, inch: float
) -> float:
    """Overlap weighs more than any distance."""
    left, bottom, right, top = place
    outside = (
        max(0, frame[0] - left)
        + max(0, right - frame[2])
        + max(0, frame[1] - bottom)
        + max(0, top - frame[3])
    )
    air = _AIR * inch
    wide = (left - air, bottom - air, right + air, top + air)
    covered = sum(overlap(wide, other) for other in taken)
    dx = max(left - point[0], 0, point[0] - right)
    dy = max(bottom - point[1], 0, point[1] - top)
    return 1e3 * outside + 1e2 * covered + float((dx * dx + dy * dy) ** 0.5)


def overlap(one: Rectangle, two: Rectangle) -> float:
    """Area that two rectangles share."""
    wide = min(one[2], two[2]) - max(one[0], two[0])
    high = min(one[3], two[3]) - max(one[1], two[1])
    return max(wide, 0.0) * max(high, 0.0)


def _around(x: float, y: float, half: float) -> Rectangle:
    return x - half, y - half, x + half, y + half


def _rectangle(box: Any) -> Rectangle:
    return float(box.x0), float(box.y0), float(box.x1), float(box.y1)
