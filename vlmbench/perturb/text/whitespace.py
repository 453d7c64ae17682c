"""White space that means nothing: between words, before the question, after it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import outside_quotes, reworded

MODES = ("double", "leading", "trailing", "newline")


@dataclass(frozen=True)
class Whitespace:
    """White space in or around the question.

    Idea: spaces carry no meaning, yet they change the tokens. A chat template that strips its messages undoes
    the modes at the ends; the engine then counts the prompt as unchanged.
    Source: tier 0 of the question suite; a standard surface perturbation.

    Parameters
        mode: `double` (every space between words twice, quoted strings excepted), `leading` or `trailing`
            (two spaces), `newline` (a line break at the end).
    """

    mode: str = "double"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        text = item.question
        if not text.strip():
            raise NotApplicableError("the question is empty")
        spread = outside_quotes(text, lambda part: re.sub(r"(?<=\S) (?=\S)|(?<=\S) \Z|\A (?=\S)", "  ", part))
        question = {
            "double": spread,
            "leading": f"  {text}",
            "trailing": f"{text}  ",
            "newline": f"{text}\n",
        }[self.mode]
        return reworded(item, question, "the question has no space between words")
