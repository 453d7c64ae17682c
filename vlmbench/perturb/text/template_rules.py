"""The rewriting rules of `template`: a question type, how to know it, and its other forms.

A form may use the groups of its pattern and `{does}` (do or does, after `be`). Stretches in `phrases` must be
noun phrases, since the form moves them. The first rule that matches counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COUNTED = r"(?P<x>(?!of\b)(?:(?!\b(?:do|does|did|can|could|is|are|would)\b).)+?)"
_HEAD = r"[\w-]*[^\Wsu]s|people|men|women|children"
_PLURAL = rf"(?P<x>(?!(?:the|this|that|his|her|its|a|an)\b)(?:[\w'’-]+ )*?(?:{_HEAD}))"
_WHERE = r"(?P<t> (?:in|on|at|near|under|above|below|behind|beside|next to|visible|shown|that are) .+)?"
_ONE_PLACE = r"(?P<x>(?:(?!\b(?:on|in|at|with)\b).)+?)"
"""Without a place of its own: `the man on the bike behind the car` has two readings."""
_BETWEEN = (
    r"(?:to the )?(?:left|right) of|above|below|under|over|behind|in front of|next to|near|on top of|inside"
)


@dataclass(frozen=True)
class Rule:
    """One question type."""

    kind: str
    pattern: re.Pattern[str]
    forms: tuple[str, ...]
    phrases: tuple[str, ...] = ()


def _rule(kind: str, pattern: str, *forms: str, phrases: str = "") -> Rule:
    return Rule(kind, re.compile(pattern, re.I), forms, tuple(phrases))


RULES = (
    _rule(
        "existence",
        r"(?P<be>is|are) there (?P<x>(?!(?:to|still|also|really|actually|likely|going)\b).+)",
        "Can you see {x}",
        "Do you see {x}",
        "Would you say there {be} {x}",
    ),
    _rule(
        "existence",
        r"(?:can|do) you see (?P<x>(?:a|an|one) .+)",
        "Is there {x}",
        "Would you say there is {x}",
    ),
    _rule(
        "existence",
        r"(?:can|do) you see (?P<x>(?:any|some) (?:[\w-]+ )?[\w-]*[^\Wsu]s(?: .+)?)",
        "Are there {x}",
        "Would you say there are {x}",
    ),
    _rule(
        "count",
        rf"how many {_COUNTED} are there(?P<t> .+)?",
        "What is the number of {x}{t}",
        "How many {x} can you see{t}",
        "What number of {x} are there{t}",
    ),
    _rule(
        "count",
        rf"how many {_COUNTED} (?:can|do) you see(?P<t> .+)?",
        "How many {x} are there{t}",
        "What is the number of {x}{t}",
    ),
    _rule(
        "count",
        rf"how many {_COUNTED} are (?P<t>(?:\w+ing|in|on|at|near|under|behind|visible|shown)\b.*)",
        "What is the number of {x} that are {t}",
        "What number of {x} are {t}",
    ),
    _rule(
        "count",
        rf"what is the number of {_PLURAL}{_WHERE}",
        "How many {x} are there{t}",
        "What number of {x} are there{t}",
    ),
    _rule(
        "attribute",
        r"(?:what|which) (?P<a>colou?r|shape|size) (?P<be>is|are) (?P<x>.+)",
        "Which {a} {does} {x} have",
        "What is the {a} of {x}",
        phrases="x",
    ),
    _rule(
        "attribute",
        r"(?:what|which) (?P<a>colou?r|shape|size) do(?P<es>es)? (?P<x>.+) have",
        "What {a} {is_or_are} {x}",
        "What is the {a} of {x}",
        phrases="x",
    ),
    _rule(
        "relation",
        r"where (?P<be>is|are) (?P<x>.+) relative to (?P<y>.+)",
        "Where {does} {x} lie relative to {y}",
        "Where {be} {x}, seen from {y}",
        phrases="xy",
    ),
    _rule(
        "relation",
        rf"(?P<be>is|are) {_ONE_PLACE} (?P<r>{_BETWEEN}) (?P<y>(?!.*\b(?:{_BETWEEN}|on|in) ).+)",
        "Would you say that {x} {be} {r} {y}",
        "Is it true that {x} {be} {r} {y}",
        phrases="xy",
    ),
    _rule(
        "position",
        r"in (?:which|what) part of (?P<i>the (?:image|picture|photo)) (?P<be>is|are) (?P<x>.+)",
        "Where in {i} {be} {x}",
        "Which part of {i} has {x}",
        phrases="x",
    ),
    _rule(
        "position",
        r"where in (?P<i>the (?:image|picture|photo)) (?P<be>is|are) (?P<x>.+)",
        "In which part of {i} {be} {x}",
        "Which part of {i} has {x}",
        phrases="x",
    ),
    _rule(
        "place",
        r"where (?P<be>is|are) (?P<x>.+)",
        "In which place {be} {x}",
        "What is the location of {x}",
        phrases="x",
    ),
    _rule("place", r"(?:in|at) (?:which|what) (?:place|location) (?P<be>is|are) (?P<x>.+)", "Where {be} {x}"),
    _rule("reading", r"what (?P<n>number|digit|letter|word) is on (?P<x>.+)", "Which {n} is on {x}",
          "What {n} can you see on {x}", phrases="x"),
    _rule("reading", r"which (?P<n>number|digit|letter|word) is on (?P<x>.+)", "What {n} is on {x}",
          "Which {n} can you see on {x}", phrases="x"),
    _rule("kind", r"what (?P<n>kind|type|sort) of (?P<x>.+)", "Which {n} of {x}", "What {other} of {x}"),
    _rule("kind", r"which (?P<n>kind|type|sort) of (?P<x>.+)", "What {n} of {x}", "Which {other} of {x}"),
    _rule("what", r"what (?P<be>is|are) (?P<x>.+)", "Can you tell what {x} {be}",
          "What would you say {x} {be}", phrases="x"),
)  # fmt: skip
