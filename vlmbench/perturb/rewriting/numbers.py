"""Numbers of a question, as digits and as words of nine languages."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

from vlmbench.perturb.rewriting.languages import words

_DIGITS = re.compile(r"\d+(?:[.,:٫٬]\d+)*")

# From two on: words for one are articles and pronouns in most languages.
_WORDS: Mapping[str, str] = {
    "en": "2 two|3 three|4 four|5 five|6 six|7 seven|8 eight|9 nine|10 ten|11 eleven|12 twelve",
    "de": "2 zwei zweier zweien|3 drei dreier dreien|4 vier|5 fünf|6 sechs|7 sieben|8 acht|9 neun|10 zehn|"
    "11 elf|12 zwölf",
    "fr": "2 deux|3 trois|4 quatre|5 cinq|6 six|7 sept|8 huit|9 neuf|10 dix|11 onze|12 douze",
    "es": "2 dos|3 tres|4 cuatro|5 cinco|6 seis|7 siete|8 ocho|9 nueve|10 diez|11 once|12 doce",
    "ru": "2 два две двух двум двумя двое|3 три трёх трех трём трем тремя трое|"
    "4 четыре четырёх четырех четырём четырем|5 пять пяти пятью|6 шесть шести|7 семь семи|8 восемь восьми|"
    "9 девять девяти|10 десять десяти|11 одиннадцать одиннадцати|12 двенадцать двенадцати",
    "ar": "3 ثلاثة ثلاث|4 أربعة أربع اربعة اربع|5 خمسة خمس|6 ستة ست|7 سبعة سبع|8 ثمانية ثماني ثمان|"
    "9 تسعة تسع|10 عشرة عشر",
    "hi": "2 दो|3 तीन|4 चार|5 पाँच पांच|6 छह छः छ|7 सात|8 आठ|9 नौ|10 दस|11 ग्यारह|12 बारह",
}  # fmt: skip
_VALUES: Mapping[str, Mapping[str, int]] = {
    language: {
        unicodedata.normalize("NFC", word): int(row.split()[0])
        for row in table.split("|")
        for word in row.split()[1:]
    }
    for language, table in _WORDS.items()
}
_AMBIGUOUS: Mapping[str, frozenset[int]] = {
    "fr": frozenset({9}),  # neuf: also new
    "hi": frozenset({2}),  # दो: also give
    "ar": frozenset({2, 6, 7}),  # two is mostly the dual; ست and سبع are also nouns
    "de": frozenset({8, 11}),  # acht, elf: also nouns
}
"""Values whose word may mean something else, or which may go without a word."""

_ARABIC_PREFIX = re.compile("^[وف]?(?:[بلك]?ال|لل|[بلك])?(?=.{2})")

_HAN = {c: i for i, c in enumerate("二三四五六七八九十", 2)} | {"两": 2, "兩": 2}
_CLASSIFIERS = "个個只隻张張辆輛位名本件块塊条條棵座台匹头頭朵把杯枚种種双雙颗顆架艘间間层層羽人つ冊軒色"
_COUNTED = re.compile(
    f"(?<![第二三四五六七八九十百千])(十[一二]?|[二两兩三四五六七八九])(?=[{_CLASSIFIERS}])"
)
_HIRAGANA = {
    "ふたつ": 2,
    "みっつ": 3,
    "よっつ": 4,
    "いつつ": 5,
    "むっつ": 6,
    "ななつ": 7,
    "やっつ": 8,
    "ここのつ": 9,
}


def digit_numbers(text: str, exact: bool) -> Counter[str]:
    """Numbers written in digits of any script; where not `exact`, separators count as one, because languages
    differ in them (2.5 and 2,5)."""
    found = (_ascii(match.group()) for match in _DIGITS.finditer(text))
    return Counter(found if exact else (re.sub(r"\D", ".", number) for number in found))


def _ascii(number: str) -> str:
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in number)


def words_agree(source: str, language: str, rewrite: str, into: str) -> bool:
    """Whether the number words from two to twelve say the same, as far as they are unambiguous.

    What surely is a number on one side must at least possibly be one on the other.
    """
    free = _AMBIGUOUS.get(language, frozenset()) | _AMBIGUOUS.get(into, frozenset())
    (sure, possible), (sure_there, possible_there) = _told(source, language), _told(rewrite, into)
    return _within(sure, possible_there, free) and _within(sure_there, possible, free)


def _within(sure: Counter[int], possible: Counter[int], free: frozenset[int]) -> bool:
    return all(possible[value] >= count for value, count in sure.items() if value not in free)


def _told(text: str, language: str) -> tuple[Counter[int], Counter[int]]:
    """(surely, possibly) meant numbers."""
    if language in {"zh", "ja"}:
        return _told_han(text)
    values = _VALUES[language]
    found: Counter[int] = Counter()
    for word in words(text.lower()):
        bare = _ARABIC_PREFIX.sub("", word) if language == "ar" else word
        value = values.get(word, values.get(bare))
        if value is not None:
            found[value] += 1
    return found, found


def _told_han(text: str) -> tuple[Counter[int], Counter[int]]:
    """A numeral before a classifier is a number; any other may be part of a word (三角, a triangle)."""
    sure = Counter(_value(match[1]) for match in _COUNTED.finditer(text))
    possible = Counter(_HAN[c] for c in text if c in _HAN)
    possible += Counter({11: text.count("十一"), 12: text.count("十二")})
    for word, value in _HIRAGANA.items():
        sure[value] += text.count(word)
        possible[value] += text.count(word)
    return sure, possible


def _value(numeral: str) -> int:
    return _HAN[numeral] if len(numeral) == 1 else 10 + {"一": 1, "二": 2}[numeral[1]]
