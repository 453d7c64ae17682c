"""The style of all pictures drawn with matplotlib, and how one is written: equal tables give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError

INK, GREY, PALE = "#1b1f24", "#6e7781", "#eaeef2"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, told apart by colour-blind readers; its yellow is too weak on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)))
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": "#8b949e",
    "axes.labelcolor": INK,
    "svg.hashsalt": "vlmbench",
}
"""As in the README's pictures."""

_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def need_matplotlib() -> None:
    """Raises UsageError where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("pictures of curves need matplotlib: pip install 'vlmbench[plots]'") from None


@contextmanager
def canvas(path: Path, size: tuple[float, float], place: tuple[float, float, float, float]) -> Iterator[Any]:
    """Axes at `place` (left, bottom, width, height, in shares) of a figure of `size` inches, which is written
    when the block ends without an error, as the suffix of `path` says (svg, png, pdf).

    Raises UsageError where matplotlib is missing or the file cannot be written.
    """
    need_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=130)
        FigureCanvasAgg(figure)  # some labels are placed by their extent in pixels
        yield figure.add_axes(place)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = _UNDATED.get(path.suffix.lower())
            figure.savefig(path, bbox_inches="tight", facecolor="white", metadata=metadata)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None
