"""Another wording of the question that comes with the item, in its own or in another language."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import reworded, translated

_LANGUAGE = re.compile(r"([a-z]{2})-")


@dataclass(frozen=True)
class Phrasing:
    """The item's own alternative wording.

    Idea: a task may bring verified paraphrases and translations (`Item.phrasings`). The language is the one
    that the task tells (`phrasing_languages`), or that the name begins with (`de-1`). Options, answers and
    the instruction stay. After the instruction of a question in another language stands `Answer in English.`,
    or whatever the language of the task's answers is: else a change of language would count as a flip.
    Source: tiers 1 and 2 of the question suite; arXiv 2511.11206 (paraphrases, multilingual rewrites).

    Parameters
        name: a key of `Item.phrasings`; the task declares them.
        force: whether the prompt of a question in another language says which language to answer in: `true`,
            `false`, or `auto`, what the task says (`force_answer_language`).
    """

    name: str = ""
    force: str = "auto"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        wording = item.phrasings.get(self.name)
        if wording is None:
            known = ", ".join(sorted(item.phrasings)) or "none"
            raise NotApplicableError(f"no phrasing {self.name!r}; known: {known}")
        changed = reworded(item, wording, f"phrasing {self.name!r} equals the question")
        code = _LANGUAGE.match(self.name)
        language = item.phrasing_languages.get(self.name, code[1] if code else item.language)
        force = item.force_answer_language if self.force == "auto" else self.force == "true"
        return translated(changed, language, force)
