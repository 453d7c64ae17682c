"""What a generator and a verifier are asked, and how their answers are read.

Everything that a model is told stands here: `PROMPT_HASH` is the hash of all of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmbench.perturb.rewriting.checks import Pair, keep
from vlmbench.perturb.rewriting.languages import NAMES
from vlmbench.seeds import digest

_TASK = {
    "paraphrase": "Rewrite this question about an image in other words, in {language}. It must ask for "
    "exactly the same thing, so that the same answer stays right.",
    "translation": "Translate this question about an image into {language}. Only the language of the "
    "question changes: it must ask for exactly the same thing, so that the same answer stays right.",
}
_RULES = (
    "Do not answer it. Add nothing and leave nothing out. Keep every number, every negation, every name and "
    "everything in quotation marks as it is."
)
_KEEP = "Copy these letter by letter: {texts}."
_OTHER = "Use another wording than: {texts}"
_FORM = "Reply with the new question alone, in one line."
_BACK = (
    "Translate this question into {language}, as literally as possible. Reply with the translation alone, in "
    "one line.\n\nQuestion: {question}"
)
_SAME = (
    "Do these two questions about one image ask for exactly the same thing, so that the same answer is right "
    "for both? Reply with yes or no alone.\n\nFirst: {source}\nSecond: {rewrite}"
)

PROMPT_HASH = digest(_TASK, _RULES, _KEEP, _OTHER, _FORM, _BACK, _SAME)

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_LABEL = re.compile(
    r"^(?:the |my |new |here is (?:the |a )?)*(?:paraphrased?|rewritten|rewrite|rephrased|reworded|"
    r"translated|translation|paraphrase|question|answer|output|result|"
    rf"{'|'.join(NAMES.values())})(?: (?:question|version|translation|text))?(?: \(?[a-z]+\)?)?\s*[:：]\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*•]\s+|\d+[.)]\s+)")
_MARKS = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»", "„": "“", "「": "」", "『": "』", "`": "`"}


def ask_rewrite(pair: Pair, earlier: Sequence[str] = ()) -> str:
    """The prompt for a rewrite of `pair.source` into `pair.into`, other than the `earlier` ones."""
    task = _TASK["paraphrase" if pair.is_paraphrase else "translation"]
    lines = [task.format(language=NAMES[pair.into]), _RULES]
    if texts := keep(pair):
        lines.append(_KEEP.format(texts=", ".join(texts)))
    if earlier:
        lines.append(_OTHER.format(texts=" | ".join(earlier)))
    return " ".join([*lines, _FORM]) + f"\n\nQuestion: {pair.source}"


def ask_verifier(pair: Pair) -> str:
    """The prompt whose answer tells whether the rewrite asks the same: a translation is translated back, a
    paraphrase is judged."""
    if pair.is_paraphrase:
        return _SAME.format(source=pair.source, rewrite=pair.rewrite)
    return _BACK.format(language=NAMES[pair.language], question=pair.rewrite)


def read_rewrite(raw: str, source: str) -> str:
    """The rewrite in an answer: its first line that is more than an announcement, without labels, bullets,
    and quotation marks around all of it. Empty where there is none."""
    lines = [line.strip() for line in _THOUGHT.sub("", raw).replace("```", "\n").splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > 1 and lines[0].endswith((":", "：")) and not source.rstrip().endswith(":"):
        lines = lines[1:]
    return _bare(lines[0], source) if lines else ""


def read_yes(raw: str) -> bool | None:
    """Whether an answer begins with yes or no; None where it does neither."""
    found = re.match(r"\W*(yes|no)\b", _THOUGHT.sub("", raw).strip(), re.IGNORECASE)
    return None if found is None else found[1].lower() == "yes"


def _bare(line: str, source: str) -> str:
    """What is taken off is what the question itself does not have."""
    while True:
        before = line
        for pattern in (_BULLET, _LABEL):
            if not pattern.match(source):
                line = pattern.sub("", line).strip()
        if "**" not in source:
            line = line.replace("**", "").strip()
        if _is_wrapped(line) and not _is_wrapped(source.strip()):
            line = line[1:-1].strip()
        if line == before:
            return line


def _is_wrapped(text: str) -> bool:
    """Whether one pair of quotation marks encloses the whole text."""
    if len(text) < 3 or _MARKS.get(text[0]) != text[-1]:
        return False
    return text[0] not in text[1:-1] and text[-1] not in text[1:-1]
