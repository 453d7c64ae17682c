"""Are two tables of the same weights? Then they are one model, whatever their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmbench.errors import NotComparableError
from vlmbench.schema import Table


def same_weights(one: Table, two: Table) -> bool:
    """By hash; by name where one of them has none, as with served models."""
    hashes = [_revision(table) for table in (one, two)]
    return hashes[0] == hashes[1] if all(hashes) else _model(one) == _model(two)


def refuse_same_weights(tables: Sequence[tuple[str, Table]], advice: Callable[[int, int], str]) -> None:
    """(name, table) each; advice(i, j): what to do where tables i < j are the same model.

    Raises NotComparableError naming the first such pair.
    """
    for j, (name, table) in enumerate(tables):
        for i, (other, earlier) in enumerate(tables[:j]):
            if same_weights(earlier, table):
                called = ", ".join(filter(None, (_model(table), _revision(table)[:19])))
                raise NotComparableError(
                    f"not comparable: {other} and {name} are the same weights ({called}); {advice(i, j)}"
                )


def _revision(table: Table) -> str:
    return str(table.identity.get("revision") or "")


def _model(table: Table) -> str:
    return str(table.identity.get("model", "?"))
