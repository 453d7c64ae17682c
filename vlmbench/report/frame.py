"""A table's cells for a spreadsheet or a data frame."""

from __future__ import annotations

from typing import Any

from vlmbench.errors import UsageError
from vlmbench.schema import Cell, Table

_TOLD = (
    "task",
    "condition",
    "axis",
    "family",
    "strength",
    "reference",
    "n",
    "n_expected",
    "unchanged",
    "ties",
)


def to_pandas(table: Table) -> Any:
    """A row per cell: what it is, and each metric as NAME, NAME.low and NAME.high, a share and the ends of
    its 95 % interval. Raises UsageError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise UsageError("to_pandas needs pandas, which is not installed: pip install pandas") from None
    return pandas.DataFrame([_row(cell) for cell in table.cells])


def _row(cell: Cell) -> dict[str, Any]:
    row = {name: getattr(cell, name) for name in _TOLD}
    for name, figure in cell.metrics.items():
        row |= {name: figure.value, f"{name}.low": figure.low, f"{name}.high": figure.high}
    return row
