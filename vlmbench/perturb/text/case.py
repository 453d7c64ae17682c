"""Upper, lower or title case of the question."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.items import Item
from vlmbench.perturb.text.wording import outside_quotes, reworded

MODES = ("lower", "upper", "title")

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Case:
    """Letter case of the question.

    Idea: case carries no meaning in ordinary words. Where it does, the word is left alone: quoted strings,
    words with digits (`5kg`), acronyms and mixed case (`NASA`, `iPhone`), single letters that are names
    (`point B`).
    Source: tier 0 of the question suite; a standard surface perturbation.

    Parameters
        mode: `lower`, `upper`, or `title` (each word capitalised).
    """

    mode: str = "lower"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        shouting = item.question.isupper()

        def recase(match: re.Match[str]) -> str:
            word = match.group()
            mixed = any(char.isupper() for char in word[1:]) and not shouting
            is_name = len(word) == 1 and word.lower() not in "ai"
            if mixed or is_name or any(char.isdigit() for char in word):
                return word
            # A lone capital A inside a question is a label, at its start it is an article.
            if word == "A" and match.string[: match.start()].strip() and not shouting:
                return word
            return {
                "lower": word.lower(),
                "upper": word.upper(),
                "title": word[0].upper() + word[1:].lower(),
            }[self.mode]

        question = outside_quotes(item.question, lambda text: _WORD.sub(recase, text))
        return reworded(item, question, f"the question already is in {self.mode} case")
