"""Just enough English for the templates: is this stretch a noun phrase that can be moved as a whole?"""

from __future__ import annotations

import re

from vlmbench.perturb.text.wording import QUOTED

_STARTS = (
    "the|this|that|these|those|his|her|its|their|my|your|our|a|an|one|two|three|four|five|each|every|both|all"
)
_NOUNS_IN_ING = (
    "building|ring|string|wing|king|ceiling|railing|clothing|awning|thing|swing|lettering|writing|siding|"
    "lighting|painting|fencing|morning|evening|earring|icing|frosting|seating|something|anything|parking|"
    "wedding|crossing|dressing|topping|stuffing|covering|flooring|landing|living|dining|spring|sibling"
)
# A verb, particle or preposition at the end belongs to another clause: `what is the dog | looking at`.
_LOOSE_ENDS = (
    "like|for|on|in|at|of|to|with|from|about|by|under|over|behind|into|off|up|down|out|do|be|as|than|and|or|"
    "made|taken|written|eaten|seen|given|known|shown|built|held|worn|found|kept|born|drawn|sold|set|used"
)

_START = re.compile(rf"(?:{_STARTS})\b", re.I)
_ALONE = re.compile(r"(?:it|this|that|these|those)", re.I)
_ING = re.compile(rf"\b(?!(?:{_NOUNS_IN_ING})s?\b)\w+ing\b", re.I)
_END = re.compile(rf"\b(?:{_LOOSE_ENDS}|\w{{3,}}ed)$", re.I)
_INFINITIVE = re.compile(r"\bto (?!the\b|a\b|an\b|its\b|his\b|her\b|their\b|this\b|that\b)", re.I)
_BREAK = re.compile(r"[,;:?!.\n]")


def is_one_clause(text: str) -> bool:
    """Whether nothing in `text`, quoted strings apart, ends a clause or separates choices."""
    return not _BREAK.search(QUOTED.sub("name", text))


def is_noun_phrase(text: str) -> bool:
    """Whether `text` surely is one noun phrase; doubt counts as no, so that a template never garbles."""
    if _ALONE.fullmatch(text):
        return True
    # A quoted string is a name: it has no grammar of its own.
    bare = QUOTED.sub("name", text)
    wrong = (_ING, _END, _INFINITIVE, _BREAK)
    return bool(_START.match(bare)) and not any(pattern.search(bare) for pattern in wrong)
