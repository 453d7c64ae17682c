"""A polite phrase before the question."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import require_english, reworded

PREFIXES = ("please ", "Please answer: ", "Could you tell me: ", "I would like to know: ")
"""The first is a single word, so that a model with a small vocabulary can read it."""


@dataclass(frozen=True)
class Polite:
    """Polite prefix.

    Idea: courtesy changes neither question nor answer.
    Source: tier 0 of the question suite.

    Parameters
        k: which of `PREFIXES`, from 0.
    """

    k: int = 0

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_english(item)
        if "please" in item.question.lower():
            raise NotApplicableError("the question already says please")
        if not item.question.strip():
            raise NotApplicableError("the question is empty")
        return reworded(item, PREFIXES[self.k] + item.question, "unchanged")
