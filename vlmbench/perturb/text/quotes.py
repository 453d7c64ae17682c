"""Quotation marks and apostrophes: curly, straight, or single. What they enclose is never touched."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.items import Item
from vlmbench.perturb.text.wording import QUOTED, outside_quotes, reworded

STYLES = ("curly", "straight", "single")

_MARKS = {
    "curly": {'"': "“”", "'": "‘’"},
    "straight": {"“": '""', "‘": "''", "„": '""'},
    "single": {'"': "''", "“": "‘’"},
}
_APOSTROPHE = {"curly": (re.compile(r"(?<=[^\W\d_])'"), "’"), "straight": (re.compile("’"), "'")}


@dataclass(frozen=True)
class Quotes:
    """Style of quotation marks and apostrophes.

    Idea: keyboards and word processors type different marks for the same thing.
    Source: tier 0 of the question suite.

    Parameters
        style: `curly`, `straight` (both also change apostrophes), or `single` (double marks become single).
    """

    style: str = "curly"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        marks = _MARKS[self.style]

        def remark(match: re.Match[str]) -> str:
            text = match.group()
            pair = marks.get(text[0])
            # A string that holds the new mark itself would end early.
            if pair is None or pair[1] in text[1:-1]:
                return text
            return pair[0] + text[1:-1] + pair[1]

        question = item.question
        if self.style in _APOSTROPHE:
            pattern, mark = _APOSTROPHE[self.style]
            question = outside_quotes(question, lambda text: pattern.sub(mark, text))
        return reworded(item, QUOTED.sub(remark, question), f"no mark to make {self.style}")
