"""How much two wordings of one question share."""

from __future__ import annotations

from collections import Counter

from vlmbench.perturb.rewriting.languages import is_sign, words

_ARTICLES = frozenset({"a", "an", "the"})


def token_f1(one: str, other: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common, in [0, 1]: case, punctuation and
    English articles do not count, repeated words do; each sign of Chinese or Japanese is a word. Source:
    SQuAD (arXiv 1606.05250)."""
    a, b = (Counter(_tokens(text)) for text in (one, other))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else float(one == other)


def _tokens(text: str) -> list[str]:
    spaced = "".join(f" {c} " if is_sign(c) else c for c in text.lower())
    return [word for word in words(spaced) if word not in _ARTICLES]
