"""Which questions a perturbation may invalidate.

A flip counts against the model only where the right answer stayed the same. A perturbation names the tags
of the questions for which it may not have (`risks`), a question carries tags by its words, and where the
two meet the request is SKIPPED. Words are matched generously: a false match costs one request, a missed one
a wrong flip. They are English, with the commonest of place, number and colour in German, French and Spanish;
a question in another language carries no tag (a translation of `rewrite` has those of its original).
"""

from __future__ import annotations

import re

_WORDS = {
    "location": r"left|right|(left|right|top|upper|bottom|lower)most|top|bottom|corners?|edges?|above|below|"
    r"under|underneath|beneath|upper|lower|middle|cent(er|re)s?|central|sides?|where|positions?|positioned|"
    r"located|location|quadrants?|"
    r"links|rechts|linken?|rechten?|oben|unten|gauche|droite|haut|dessus|dessous|izquierd[ao]|derech[ao]|"
    r"arriba|abajo|encima|debajo",
    "edge": r"edges?|borders?|boundar(y|ies)|corners?|margins?|frames?|framed|cut off|cropped|truncated|"
    r"part(ial)?ly",
    "orientation": r"horizontal(ly)?|vertical(ly)?|diagonal(ly)?|tilt(s|ed|ing)?|slant(s|ed|ing)?|upright|"
    r"straight|angles?|rotat(e|ed|ion)|lean(s|ing)?|orientation|oriented|upside",
    "count": r"how (many|much)|numbers? of|amount of|quantity|total|count(s|ed|ing)?|fewer|fewest|more than|"
    r"less than|at least|at most|exactly|(more|fewer|less)( \w+){1,3} than|"
    r"wie ?viele?|anzahl|combien|nombre de|cu[aá]nt[ao]s|n[uú]mero de|"
    r"two|three|four|five|six|seven|eight|nine|ten|dozens?|\d+",
    "ocr": r"reads?|reading|texts?|words?|letters?|digits?|numerals?|numbers?(?!\s+of\b)|says?|saying|said|"
    r"writ(e|es|ing|ten)|print(s|ed)?|signs?|signage|labels?|labell?ed|captions?|titles?|headlines?|brands?|"
    r"logos?|slogans?|spell(s|ed|ing)?|licen[cs]e plates?|characters?|fonts?|prices?",
    "colour": r"colou?r(s|ed|ful)?|shades?|hues?|tints?|dark(er|est)?|bright(er|est|ness)?|"
    r"light(er|est|ing)?|red|green|blue|yellow|orange|purple|violet|pink|brown|black|white|gr[ae]y|beige|"
    r"teal|turquoise|cyan|magenta|gold(en)?|silver|farben?|couleurs?|colores",
    "clarity": r"blur(s|red|ry)?|sharp(ness)?|focus(ed)?|out of focus|clear(ly|er)?|pixelated|pixels?|noisy|"
    r"noise|grain(y)?|resolution|quality|weather|fog(gy)?|mist(y)?|haz(e|y)|smok(e|y)|cloud(s|y)?|overcast|"
    r"visibility|sunny|rain(y|ing)?|snow(y|ing)?|motion|moving|distort(s|ed|ion)?",
}
_PATTERNS = {tag: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for tag, words in _WORDS.items()}

TAGS = frozenset(_WORDS)
"""Everything that `question_tags` may return and `risks` may name."""


def question_tags(text: str) -> frozenset[str]:
    """The tags of an English question: what its answer hangs on."""
    return frozenset(tag for tag, pattern in _PATTERNS.items() if pattern.search(text))


def strip_risks(width: float) -> frozenset[str]:
    """What may break when a strip of `width` source pixels at the border is lost, covered or put elsewhere.

    Any strip: questions on the border itself. Above 8 px an object there may vanish or be seen twice; above
    16 px, the largest benign strength, words are cut and things change their place in the frame.
    """
    if width <= 0:
        return frozenset()
    if width <= 8:
        return frozenset({"edge"})
    return frozenset({"edge", "count"}) if width <= 16 else frozenset({"edge", "count", "ocr", "location"})


def photometric_risks(percent: float) -> frozenset[str]:
    """Beyond 10 percent, twice the benign strength, a shade may get another name."""
    return frozenset({"colour"}) if abs(percent) > 10 else frozenset()


def detail_risks(severity: int) -> frozenset[str]:
    """What a loss of detail of the stress set may break: text, and questions on the very quality that is
    spoilt, at once; above severity 3 also counts, because small things vanish and near ones run together."""
    if severity <= 0:
        return frozenset()
    return frozenset({"ocr", "clarity"} | ({"count"} if severity > 3 else set()))
