"""The languages that questions are rewritten in, and how a text is told to be in one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from vlmbench.errors import UsageError, unknown

PARAPHRASE = "paraphrase"

NAMES: Mapping[str, str] = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "zh": "Chinese",
    "ja": "Japanese",
    "ar": "Arabic",
    "hi": "Hindi",
    "ru": "Russian",
}

KINDS = (PARAPHRASE, *NAMES)
"""What `--kinds` takes: a paraphrase in the question's own language, or the language of a translation."""

MOST = 99
"""Rewrites of one item and kind."""

ANSWER_IN: Mapping[str, str] = {
    "en": "Answer in English.",
    "de": "Antworte auf Deutsch.",
    "fr": "Réponds en français.",
    "es": "Responde en español.",
    "zh": "请用中文回答。",
    "ja": "日本語で答えてください。",
    "ar": "أجب بالعربية.",
    "hi": "हिंदी में उत्तर दें।",
    "ru": "Отвечай по-русски.",
}
"""What forces the language of an answer, by that language, which is that of the task's instruction."""

LATIN = ("en", "de", "fr", "es")

# Words that stand in nearly every question and, within this table, in as few languages as possible.
_FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the is are what which how of there does where who and this that you can see with many it "
        "on to from has have why when whose",
        "de": "der die das den dem des ist sind was welche welcher welches welchen welchem wie viele ein "
        "eine einen einem einer auf im zu zum zur und gibt es wo wer hat von vom mit nicht kein keine man "
        "sich warum wessen wann sieht befindet",
        "fr": "le la les l est sont quel quelle quels quelles combien de du des d un une dans sur il elle y "
        "qui que où a à au aux et ce cette avec pas voit pourquoi quand",
        "es": "el la los las es son está están qué cuál cuáles cuántos cuántas de del un una en hay dónde "
        "quién que y este esta con no se al por cuándo",
    }.items()
}
_BLOCKS: Mapping[str, str] = {
    "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "ja": "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff々",
    "ar": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "hi": "\u0900-\u097f",
    "ru": "\u0400-\u052f",
}
_SCRIPTS = {language: re.compile(f"[{block}]") for language, block in _BLOCKS.items()}
_KANA = re.compile("[\u3040-\u30ff]")


def read_kinds(text: str) -> tuple[str, ...]:
    """The kinds in a list, each once. Raises UsageError with the nearest known name."""
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not kinds:
        raise UsageError(f"--kinds names nothing: got {text!r}")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    return kinds


def language_of(kind: str, language: str) -> str:
    """The language of a rewrite of this kind, of a question in `language`."""
    return language if kind == PARAPHRASE else kind


def words(text: str) -> list[str]:
    """Runs of letters, marks and digits, in NFC. A mark is part of its word, as in Devanagari."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in composed).split()


def is_sign(character: str) -> bool:
    """Whether this is a sign of Chinese or Japanese, which are written without spaces."""
    return bool(_SCRIPTS["ja"].match(character))


def is_in(text: str, language: str, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether `text` is in `language`, as far as letters and function words tell.

    Other scripts: at least half of the letters are of the script; Japanese has kana, Chinese none. Languages
    in Latin letters: a function word of the language, and more of them than of any other. Words of `allowed`
    (names, quoted strings) belong to every language and do not count.
    """
    counted = [word for word in words(text) if word not in allowed]
    if language in LATIN:
        found = {name: sum(w.lower() in _FUNCTION_WORDS[name] for w in counted) for name in LATIN}
        return found[language] > 0 and found[language] == max(found.values())
    letters = [c for word in counted for c in word if c.isalpha()]
    own = sum(bool(_SCRIPTS[language].match(c)) for c in letters)
    if not own or 2 * own < len(letters):
        return False
    has_kana = any(_KANA.match(c) for c in letters)
    return has_kana if language == "ja" else not (language == "zh" and has_kana)
