"""Another wording of the question that comes with the item, in its own or in another language."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import reworded

_LANGUAGE = re.compile(r"([a-z]{2})-")


@dataclass(frozen=True)
class Phrasing:
    """The item's own alternative wording.

    Idea: a task may bring verified paraphrases and translations (`Item.phrasings`). A name that begins with a
    language code (`de-1`) also sets the item's language. Options, answers and the instruction stay as they
    are, so that the answer's language does not move with the question's.
    Source: tiers 1 and 2 of the question suite; arXiv 2511.11206 (paraphrases, multilingual rewrites).

    Parameters
        name: a key of `Item.phrasings`; the task declares them.
    """

    name: str = ""

    def __call__(self, item: Item, seed: int = 0) -> Item:
        wording = item.phrasings.get(self.name)
        if wording is None:
            known = ", ".join(sorted(item.phrasings)) or "none"
            raise NotApplicableError(f"no phrasing {self.name!r}; known: {known}")
        changed = reworded(item, wording, f"phrasing {self.name!r} equals the question")
        code = _LANGUAGE.match(self.name)
        return changed.changed(language=code[1]) if code else changed
