"""What a rewrite must keep, checked without a model: each check is (pair) -> passes.

Doubt counts as a failure: a rewrite that is lost costs a call, one that asks something else costs a wrong
flip. Where only meaning could tell, nothing is claimed: that is what a verifier is for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlmbench.perturb.rewriting.languages import LATIN, is_in, is_sign, words
from vlmbench.perturb.rewriting.negation import negations
from vlmbench.perturb.rewriting.numbers import digit_numbers, words_agree
from vlmbench.perturb.text.wording import QUOTED, quoted_strings

MOST = 3
"""A rewrite longer than so many times its question holds something else."""

_PLACEHOLDER = re.compile(r"<[^<>\n]+>|\{[^{}\n]*\}|\[[^\[\]\n]*\]")
_OTHER_QUOTES = re.compile(r"「([^」\n]+)」|『([^』\n]+)』")
_WORD = re.compile(r"[^\W_]+(?:[-&][^\W_]+)*")
_NO_NAME = re.compile(r"I|[A-Z]-[a-z]+")  # T-shirt
_NO_TEXT = re.compile(r"yes|no|none|[a-z]", re.IGNORECASE)
"""Options that are found in questions as ordinary words (a, no)."""
_NEW_SENTENCE = re.compile(r"(?:^|[.?!:\n]|[\"“«„(])\s*$")


@dataclass(frozen=True)
class Pair:
    """A question and its rewrite."""

    source: str
    rewrite: str
    language: str = "en"
    """Of the question."""
    into: str = "en"
    """Of the rewrite."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question, which stay as they are."""

    @property
    def is_paraphrase(self) -> bool:
        return self.language == self.into


def not_empty(pair: Pair) -> bool:
    return bool(words(pair.rewrite))


def not_identical(pair: Pair) -> bool:
    """Case, white space and final marks are tier 0: they make no paraphrase."""
    return _plain(pair.source) != _plain(pair.rewrite)


def not_too_long(pair: Pair) -> bool:
    """In letters; a sign of Chinese or Japanese says as much as three."""
    return _length(pair.rewrite) <= MOST * _length(pair.source)


def numbers_kept(pair: Pair) -> bool:
    """The same numbers in digits, and the same number words as far as they are unambiguous."""
    exact = pair.is_paraphrase
    if digit_numbers(pair.source, exact) != digit_numbers(pair.rewrite, exact):
        return False
    return words_agree(_unquoted(pair.source), pair.language, _unquoted(pair.rewrite), pair.into)


def negation_kept(pair: Pair) -> bool:
    """An even number of negations stays even, an odd one odd, and none stays none."""
    before = negations(_unquoted(pair.source), pair.language)
    after = negations(_unquoted(pair.rewrite), pair.into)
    return before % 2 == after % 2 and bool(before) == bool(after)


def quotes_kept(pair: Pair) -> bool:
    """Every quoted string stands in the rewrite as often as in the question, and nothing new is quoted."""
    told = all(pair.rewrite.count(text) >= pair.source.count(text) for text in quoted_strings(pair.source))
    others = (a or b for a, b in _OTHER_QUOTES.findall(pair.rewrite))
    return told and all(text in pair.source for text in (*quoted_strings(pair.rewrite), *others))


def names_kept(pair: Pair) -> bool:
    """Capitalised words inside a sentence stay as they are, where the rewrite is in Latin letters."""
    if pair.into not in LATIN:
        return True
    there = set(_WORD.findall(pair.rewrite))
    if pair.into == "de":  # Johns Hut
        there |= {word[:-1] for word in there if word.endswith("s")}
    return all(name in there for name in names(pair.source, pair.language))


def protected_kept(pair: Pair) -> bool:
    """Placeholders, and the texts of options that the question names, stay as they are."""
    return all(pair.rewrite.count(text) >= pair.source.count(text) for text in protected(pair))


def language_right(pair: Pair) -> bool:
    """A translation is in its language; a paraphrase is in no other than the question."""
    kept = frozenset(
        word
        for text in (*quoted_strings(pair.source), *protected(pair), *names(pair.source, pair.language))
        for word in words(text)
    )
    if not pair.is_paraphrase:
        return is_in(pair.rewrite, pair.into, kept)
    return is_in(pair.rewrite, pair.into, kept) or not is_in(pair.source, pair.into, kept)


CHECKS: Mapping[str, Callable[[Pair], bool]] = {
    "empty": not_empty,
    "identical": not_identical,
    "too long": not_too_long,
    "language": language_right,
    "numbers": numbers_kept,
    "negation": negation_kept,
    "quoted strings": quotes_kept,
    "names": names_kept,
    "options or placeholders": protected_kept,
}
"""By the reason under which a rewrite is rejected, the plainest first."""


def failed(pair: Pair) -> tuple[str, ...]:
    """Names of the checks that the pair fails."""
    return tuple(name for name, check in CHECKS.items() if not check(pair))


def names(text: str, language: str) -> tuple[str, ...]:
    """Capitalised words that begin no sentence. None in German, where every noun is capitalised, and none
    where all words are."""
    if language not in LATIN or language == "de":
        return ()
    found = [(match.group(), match.start()) for match in _WORD.finditer(text)]
    if not any(word[0].islower() for word, _ in found):
        return ()
    inside = (
        word
        for word, at in found
        if word[0].isupper() and not _NO_NAME.fullmatch(word) and not _NEW_SENTENCE.search(text[:at])
    )
    return tuple(dict.fromkeys(inside))


def protected(pair: Pair) -> tuple[str, ...]:
    """Placeholders, and option texts that stand in the question as whole words."""
    options = (
        text
        for text in pair.options
        if text.strip()
        and not _is_common(text)
        and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", pair.source)
    )
    return tuple(Counter([*_PLACEHOLDER.findall(pair.source), *options]))


def keep(pair: Pair) -> tuple[str, ...]:
    """Everything that a rewrite must take over letter by letter, each once."""
    return tuple(
        dict.fromkeys([*quoted_strings(pair.source), *protected(pair), *names(pair.source, pair.language)])
    )


def _is_common(option: str) -> bool:
    return bool(_NO_TEXT.fullmatch(option)) and not (len(option) == 1 and option.isupper())


def _length(text: str) -> int:
    return sum(3 if is_sign(c) else 1 for c in text)


def _plain(text: str) -> str:
    return " ".join(words(text.casefold()))


def _unquoted(text: str) -> str:
    return _OTHER_QUOTES.sub(" ", QUOTED.sub(" ", text))
