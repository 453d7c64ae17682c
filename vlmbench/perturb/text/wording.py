"""What the question families share: quoted strings stay as they are, and a rewrite must change something."""

from __future__ import annotations

import re
from collections.abc import Callable

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.rewriting.languages import ANSWER_IN

QUOTED = re.compile(
    r"""(?<!\w)"[^"\n]+"  # straight; not after a word, where it is an inch mark
    | “[^”\n]+” | «[^»\n]+» | „[^“”\n]+[“”] | `[^`\n]+`
    | ‘(?:[^‘’\n]|’(?=\w))+’(?!\w)  # inside, an apostrophe closes nothing
    | (?<!\w)'(?=\S)[^\n]+?(?<=\S)'(?!\w)""",
    re.VERBOSE,
)
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|neither|nor|without|cannot)\b|n['’]t\b", re.I)


def outside_quotes(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` applied to every stretch that is not a quoted string."""
    pieces, end = [], 0
    for quoted in QUOTED.finditer(text):
        pieces += [change(text[end : quoted.start()]), quoted.group()]
        end = quoted.end()
    return "".join([*pieces, change(text[end:])])


def quoted_strings(text: str) -> list[str]:
    """What stands between quotation marks, sorted."""
    return sorted(match.group()[1:-1] for match in QUOTED.finditer(text))


def carriers(text: str) -> tuple[list[str], int, list[str]]:
    """What a rewrite must not touch: numbers, how often something is negated, quoted strings."""
    return sorted(NUMBER.findall(text)), len(NEGATION.findall(text)), quoted_strings(text)


def reworded(item: Item, question: str, why_not: str) -> Item:
    """The item with this question. Raises NotApplicableError(`why_not`) where it is the same or empty."""
    if question == item.question or not question.strip():
        raise NotApplicableError(why_not)
    return item.changed(question=question)


def translated(item: Item, language: str, force: bool) -> Item:
    """The item, its question being in `language` now; `force`: with the sentence that asks for an answer in
    the language of the answers. Raises NotApplicableError where that is not known."""
    changed = item.changed(language=language)
    if not force or language == item.language:
        return changed
    sentence = ANSWER_IN.get(item.language)
    if sentence is None:
        raise NotApplicableError(f"no sentence that asks for an answer in {item.language!r}")
    return changed.changed(instruction=f"{item.instruction} {sentence}".strip())


def require_english(item: Item) -> None:
    """Families made of English words leave other languages alone."""
    if item.language != "en":
        raise NotApplicableError(f"the rule is English, the question is {item.language!r}")


def require_options(item: Item) -> None:
    if not item.options:
        raise NotApplicableError("the item has no options")
