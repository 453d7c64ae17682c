"""What the records tell besides answers and scores, as arrays over items [n] and conditions [m]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.items import Item
from vlmbench.metrics.estimate import Bools, Floats, Ints
from vlmbench.schema import Record

_BOOLEAN = {"yes": 1, "no": 0}


@dataclass(frozen=True, eq=False)
class Told:
    """yes int [n, m]: 1 yes, 0 no, -1 anything else, also where the question is not one of yes and no;
    evidence, evidence_least and kept_overlap float [n, m] as in `Record`, NaN where unknown; records of older
    versions have no `evidence_least`: their `evidence` stands in, which is the same for one box."""

    yes: Ints
    evidence: Floats
    evidence_least: Floats
    kept_overlap: Floats

    @classmethod
    def of(cls, items: Sequence[Item], records: Sequence[Sequence[Record | None]]) -> Told:
        """records [n][m]."""
        shape = (len(items), len(records[0]) if records else 0)
        told = cls(np.full(shape, -1, np.int64), *(np.full(shape, np.nan) for _ in range(3)))
        for i, (item, row) in enumerate(zip(items, records, strict=True)):
            boolean = is_boolean(item)
            for j, record in enumerate(row):
                if record is None:
                    continue
                if boolean and record.answer is not None:
                    told.yes[i, j] = _BOOLEAN.get(_word(record.answer), -1)
                least = record.evidence if record.evidence_least is None else record.evidence_least
                for array, value in (
                    (told.evidence, record.evidence),
                    (told.evidence_least, least),
                    (told.kept_overlap, record.kept_overlap),
                ):
                    if value is not None:
                        array[i, j] = value
        return told

    def rows(self, mask: Bools) -> Told:
        """The items where `mask` [n] is True."""
        return Told(self.yes[mask], self.evidence[mask], self.evidence_least[mask], self.kept_overlap[mask])


def is_boolean(item: Item) -> bool:
    """Whether yes or no is asked for: no options, and no right answer but these two."""
    return not item.options and bool(item.answers) and {_word(a) for a in item.answers} <= _BOOLEAN.keys()


def _word(text: str) -> str:
    return text.strip().rstrip(".!").casefold()
