"""The mark at the question's end: left out, doubled, set off by a space."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import reworded

MODES = ("drop", "double", "space")

_FINAL = re.compile(r"(?P<gap>\s*)(?P<marks>[?!.？！。؟]+)(?P<tail>\s*)\Z")


@dataclass(frozen=True)
class Punctuation:
    """Final punctuation of the question.

    Idea: people leave the question mark out, type it twice, or put a space before it.
    Source: tier 0 of the question suite; a standard surface perturbation.

    Parameters
        mode: `drop`, `double` (repeat the last mark), or `space` (one before it; none where there is one).
    """

    mode: str = "drop"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        found = _FINAL.search(item.question)
        if found is None:
            raise NotApplicableError("the question has no final mark")
        marks = found["marks"]
        ending = {
            "drop": "",
            "double": found["gap"] + marks + marks[-1],
            "space": marks if found["gap"] else f" {marks}",
        }[self.mode]
        question = item.question[: found.start()] + ending + found["tail"]
        return reworded(item, question, "nothing would be left of the question")
