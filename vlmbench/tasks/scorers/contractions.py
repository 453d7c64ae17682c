"""Contractions that the VQA normalisation restores: a spelling without its apostrophe -> the full one.

The table is data of the VQA v2 metric, gaps included: no word with two apostrophes is known without any,
`im` and `ive` stay (the entries are capitalised, the texts are not), and `somebody'd` runs backwards.
"""

from __future__ import annotations

# Ending -> the stems that it follows.
_ONE = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "'all": "y",
    "'am": "ma",
    "'clock": "o",
}
_TWO = {
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who you",
    "'all'll": "y",
}
_REST = {
    "twas": "'twas",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "somebody'd": "somebodyd",
}


def _words(endings: dict[str, str]) -> list[str]:
    return [stem + ending for ending, stems in endings.items() for stem in stems.split()]


def _without_either(word: str) -> tuple[str, str]:
    first, second = word.index("'"), word.rindex("'")
    return word[:first] + word[first + 1 :], word[:second] + word[second + 1 :]


CONTRACTIONS: dict[str, str] = {
    **{word.replace("'", ""): word for word in _words(_ONE)},
    **{short: word for word in _words(_TWO) for short in _without_either(word)},
    **_REST,
}
