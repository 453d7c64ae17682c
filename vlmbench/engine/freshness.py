"""Whether a record still describes its item: a picture may be overwritten between two sessions of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vlmbench.items import Item
from vlmbench.schema import Record


class Freshness:
    """Called with a record: True where its pictures are the present ones.

    Size and time of the files settle it at no cost; only where those differ are the pixels compared.
    """

    def __init__(self, items: Iterable[tuple[str, Item]], source_hash: Callable[[Item], str | None]) -> None:
        self._items = {(task, item.id): item for task, item in items}
        self._stamps = {key: item.stamp for key, item in self._items.items()}
        self._source_hash = source_hash
        self._hashes: dict[tuple[str, str], str | None] = {}

    def __call__(self, record: Record) -> bool:
        key = (record.task, record.item)
        if key not in self._items or record.source_hash is None or record.stamp == self._stamps[key]:
            return True
        if key not in self._hashes:
            self._hashes[key] = self._source_hash(self._items[key])
        return self._hashes[key] == record.source_hash
