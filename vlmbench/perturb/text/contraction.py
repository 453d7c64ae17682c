"""Contracted and full forms: `what is` and `what's`, `is not` and `isn't`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.items import Item
from vlmbench.perturb.text.wording import outside_quotes, require_english, reworded

MODES = ("contract", "expand")

_NEGATED = "is|are|was|were|do|does|did|has|have|had|could|would|should|must|need"
# Not it, he, she: `what it is` may end a clause, and `he's` may be `he has`.
_LED = "what|where|who|how|when|that|there"

_CONTRACT = re.compile(
    rf"\b(?:(?P<led>{_LED}) is(?= \w)|(?P<verb>{_NEGATED}) not\b|(?P<can>can) ?not\b|(?P<will>will) not\b)",
    re.I,
)
_EXPAND = re.compile(
    # `what's been` is `what has been`.
    rf"\b(?P<led>{_LED})['’]s\b(?! (?:been|got|had)\b)"
    rf"|\b(?P<before>\w+) (?:(?P<verb>{_NEGATED})n['’]t|(?P<can>can)['’]t|(?P<will>wo)n['’]t)\b",
    re.I,
)
# After these the verb is inverted (`why doesn't he`) and has no full form in place.
_NO_SUBJECT = {"why", "how", "when", "where", "what", "which", "who", "or", "and", "but", "if", "so"}


def _contracted(found: re.Match[str]) -> str:
    if found["led"]:
        text = f"{found['led']}'s"
    elif found["will"]:
        text = f"{found['will'][0]}on't"
    else:
        text = f"{found['can']}'t" if found["can"] else f"{found['verb']}n't"
    return text.upper() if found.group().isupper() else text


def _expanded(found: re.Match[str]) -> str:
    if found["led"]:
        text = f"{found['led']} is"
    elif found["before"].lower() in _NO_SUBJECT:
        return found.group()
    elif found["will"]:
        text = f"{found['before']} {found['will'][0]}ill not"
    else:
        text = f"{found['before']} " + (f"{found['can']}not" if found["can"] else f"{found['verb']} not")
    return text.upper() if found.group().isupper() else text


@dataclass(frozen=True)
class Contraction:
    """Contracted against full forms.

    Idea: both forms mean the same; only those are touched whose other form is certain and grammatical in
    place. A negation stays a negation.
    Source: tier 0 of the question suite; CheckList (arXiv 2005.04118) has the same invariance test.

    Parameters
        mode: `contract` or `expand`.
    """

    mode: str = "contract"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_english(item)
        pattern, form = {"contract": (_CONTRACT, _contracted), "expand": (_EXPAND, _expanded)}[self.mode]
        question = outside_quotes(item.question, lambda text: pattern.sub(form, text))
        return reworded(item, question, f"nothing to {self.mode}")
