"""How much two wordings of one question share."""

from __future__ import annotations

from collections import Counter

from vlmbench.perturb.rewriting.languages import words

_ARTICLES = frozenset({"a", "an", "the"})


def token_f1(one: str, other: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common, in [0, 1]: case, punctuation and
    English articles do not count, repeated words do. Source: SQuAD (arXiv 1606.05250)."""
    a, b = (Counter(w for w in words(text.lower()) if w not in _ARTICLES) for text in (one, other))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else float(one == other)
