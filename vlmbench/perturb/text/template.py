"""Another sentence for the same question, by rules per question type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.grammar import is_noun_phrase, is_one_clause
from vlmbench.perturb.text.template_rules import RULES, Rule
from vlmbench.perturb.text.wording import NEGATION, QUOTED, carriers, require_english, reworded

_SENTENCE = re.compile(r"(?P<body>.*?\S)(?P<end>\s*\?*\s*)")


def matching(body: str) -> tuple[Rule, dict[str, str]] | None:
    """The first rule for this question (without its final mark) and what its slots hold."""
    for rule in RULES:
        found = rule.pattern.fullmatch(body)
        if found is None:
            continue
        slots = {name: text or "" for name, text in found.groupdict().items()}
        if not all(is_noun_phrase(slots[name]) for name in rule.phrases):
            continue
        slots["be"] = slots.get("be", "").lower()
        slots["does"] = "does" if slots["be"] == "is" else "do"
        slots["is_or_are"] = "is" if slots.get("es") else "are"
        slots["other"] = {"kind": "type", "type": "kind", "sort": "kind"}.get(slots.get("n", "").lower(), "")
        return rule, slots
    return None


@dataclass(frozen=True)
class Template:
    """Rule-based rewrite by question type.

    Idea: `Is there X?` and `Can you see X?` ask the same. X is moved as a whole and never reworded; numbers,
    negations and quoted strings are compared afterwards. Where a rule is not certain to give a grammatical
    sentence of the same meaning it does not apply.
    Source: tier 1 of the question suite; arXiv 2511.11206 (paraphrases).

    Parameters
        k: which alternative of the matching rule, from 1; 0 is the question as it is.
    """

    k: int = 1

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_english(item)
        sentence = _SENTENCE.fullmatch(item.question)
        if sentence is None or not is_one_clause(sentence["body"]):
            raise NotApplicableError("not a single plain question")
        body = sentence["body"]
        if NEGATION.search(QUOTED.sub("", body)):
            raise NotApplicableError("a negated question is not rewritten")
        found = matching(body)
        if found is None:
            raise NotApplicableError("no rule for this type of question")
        rule, slots = found
        if self.k == 0:
            return item.changed()
        if self.k > len(rule.forms):
            raise NotApplicableError(f"{rule.kind} questions have {len(rule.forms)} other forms")
        text = rule.forms[self.k - 1].format(**slots)
        text = (text[0].upper() if body[0].isupper() else text[0].lower()) + text[1:] + sentence["end"]
        if carriers(text) != carriers(item.question):
            raise NotApplicableError("the rewrite would touch a number or a quoted string")
        return reworded(item, text, "the rewrite equals the question")
