"""How often a question is negated, in nine languages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from vlmbench.perturb.rewriting.languages import words
from vlmbench.perturb.text.wording import NEGATION

_DE = re.compile(r"nicht|kein(?:e[nmrs]?)?|nie|niemals|niemand(?:en|em)?|nichts|ohne|weder|nirgends|nein")
_WITHOUT = {"fr": {"sans", "non"}, "es": {"sin"}, "ru": {"без"}}
_VERBAL = {"fr": {"ne", "n"}, "es": {"no"}, "ru": {"не", "нет"}}
_CONCORD = {
    "fr": {"pas", "jamais", "rien", "aucun", "aucune", "ni"},
    "es": {"nunca", "jamás", "nadie", "nada", "ningún", "ninguno", "ninguna", "ni", "tampoco"},
    "ru": {"никто", "никого", "никогда", "ничего", "ничто", "никакой", "никаких", "нигде", "ни"},
}
"""Words that go along with the negated verb (no hay nada): both together are one negation."""

_AR = re.compile("[وفأ]*(?:لا|ليس|ليست|ليسوا|لم|لن|غير|بدون|دون|بلا)")
_HI = {"नहीं", "न", "मत", "बिना", "बगैर"}
_ZH_NONE = re.compile(
    r"(.)不\1|有没有|是否|能否|可否|与否|不同|不过|不仅|不但|不锈钢|差不多|无人机|无线|无论|未来"
)
_ZH = re.compile("不|没|無|无|未|并非|否")
_JA = re.compile(
    "(?<![少危])(?:ない|なかった|なく|なければ)|ません|無い|無し|無く|いいえ|(?<![ぁ-ん])なし|ずに"
)


def negations(text: str, language: str) -> int:
    """How many negations `text` has; words that negate together (ne .. pas) count once."""
    return _COUNT[language](text)


def _english(text: str) -> int:
    return len(NEGATION.findall(text)) + len(re.findall(r"\bnowhere\b", text, re.IGNORECASE))


def _with_concord(language: str) -> Callable[[str], int]:
    def count(text: str) -> int:
        said = words(text.lower())
        alone, verbal, beside = (
            sum(word in table[language] for word in said) for table in (_WITHOUT, _VERBAL, _CONCORD)
        )
        return alone + max(verbal, beside)

    return count


_COUNT: Mapping[str, Callable[[str], int]] = {
    "en": _english,
    "de": lambda text: sum(bool(_DE.fullmatch(word)) for word in words(text.lower())),
    "fr": _with_concord("fr"),
    "es": _with_concord("es"),
    "ru": _with_concord("ru"),
    "zh": lambda text: len(_ZH.findall(_ZH_NONE.sub(" ", text))),
    "ja": lambda text: len(_JA.findall(text)),
    "ar": lambda text: sum(bool(_AR.fullmatch(word)) for word in words(text)),
    "hi": lambda text: sum(word in _HI for word in words(text)),
}
