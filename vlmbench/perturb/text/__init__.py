"""Question perturbations by name. Tier 0 is the suite `rules`, tier 1 the suite `templates`, tier 2 comes out
of a file."""

from __future__ import annotations

from vlmbench.perturb.rewriting.languages import KINDS, MOST, PARAPHRASE
from vlmbench.registry import Entry, Grid, Param, Registry

_HERE = "vlmbench.perturb.text"
_TIER0 = "tier 0: surface rules, exact and offline"
_TIER1 = "tier 1: rewrites by question type; arXiv 2511.11206"


def _grid(name: str, *values: int | str) -> Grid:
    return tuple({name: value} for value in values)


def _choice(name: str, default: str, help_: str, *others: str) -> Param:
    return Param(name, default, help_, choices=(default, *others))


QUESTIONS = Registry(
    "question perturbation",
    "vlmbench.question_perturbations",
    (
        Entry(
            "case",
            f"{_HERE}.case:Case",
            "lower, upper or title case, quoted strings excepted",
            (_choice("mode", "lower", "target case", "upper", "title"),),
            {"rules": _grid("mode", "lower", "upper", "title")},
            breaks="names that are told apart by case alone (may, May)",
            source=_TIER0,
        ),
        Entry(
            "punctuation",
            f"{_HERE}.punctuation:Punctuation",
            "final mark dropped, doubled, or its space toggled",
            (_choice("mode", "drop", "what becomes of the mark", "double", "space"),),
            {"rules": _grid("mode", "drop", "double", "space")},
            source=_TIER0,
        ),
        Entry(
            "whitespace",
            f"{_HERE}.whitespace:Whitespace",
            "spaces between, before or after the words",
            (_choice("mode", "double", "where", "leading", "trailing", "newline"),),
            {"rules": _grid("mode", "double", "leading", "trailing", "newline")},
            source=_TIER0,
        ),
        Entry(
            "contraction",
            f"{_HERE}.contraction:Contraction",
            "what is <-> what's, is not <-> isn't",
            (_choice("mode", "contract", "direction", "expand"),),
            {"rules": _grid("mode", "contract", "expand")},
            source=f"{_TIER0}; CheckList, arXiv 2005.04118",
        ),
        Entry(
            "polite",
            f"{_HERE}.polite:Polite",
            "a polite phrase before the question",
            (Param("k", 0, "which phrase", 0, 3),),
            {"rules": _grid("k", 0, 1, 2, 3)},
            source=_TIER0,
        ),
        Entry(
            "frame",
            f"{_HERE}.frame:Frame",
            "Question: and Answer: cues",
            (_choice("style", "question", "which cues", "qa"),),
            {"rules": _grid("style", "question", "qa")},
            source=_TIER0,
        ),
        Entry(
            "instruction_order",
            f"{_HERE}.instruction_order:InstructionOrder",
            "the instruction before instead of after the question",
            suites={"rules": ({},)},
            source=_TIER0,
        ),
        Entry(
            "quotes",
            f"{_HERE}.quotes:Quotes",
            "style of quotation marks and apostrophes",
            (_choice("style", "curly", "target style", "straight", "single"),),
            {"rules": _grid("style", "curly", "straight", "single")},
            source=_TIER0,
        ),
        Entry(
            "options_rotate",
            f"{_HERE}.options_rotate:OptionsRotate",
            "multiple choice: options rotated, answers told as original index",
            (Param("r", 1, "places", 0, 25),),
            {"rules": _grid("r", 1, 2, 3)},
            identity={"r": 0},
            breaks="options that refer to others by place (left alone where recognised)",
            source="CircularEval of MMBench, arXiv 2307.06281",
        ),
        Entry(
            "option_labels",
            f"{_HERE}.option_labels:OptionLabels",
            "multiple choice: how the letter is written",
            (_choice("style", "bracket", "label style", "paren", "colon", "dot"),),
            {"rules": _grid("style", "bracket", "paren", "colon")},
            source=_TIER0,
        ),
        Entry(
            "template",
            f"{_HERE}.template:Template",
            "another sentence for the same question, by question type",
            (Param("k", 1, "which alternative; 0 is the question as it is", 0, 3),),
            {"templates": _grid("k", 1, 2, 3)},
            identity={"k": 0},
            breaks="`can you see` also asks what the image shows clearly",
            source=_TIER1,
        ),
        Entry(
            "phrasing",
            f"{_HERE}.phrasing:Phrasing",
            "a wording that the task brings (`--rewrite templates` takes all); the demo: exact paraphrases, "
            "German (de-..) and French (fr-..)",
            (
                Param("name", "", "name of the wording, as the task declares it"),
                _choice(
                    "force", "auto", "say which language to answer in, where it is another", "true", "false"
                ),
            ),
            source="tiers 1 and 2; arXiv 2511.11206",
        ),
        Entry(
            "rewrite",
            f"{_HERE}.rewrite:Rewrite",
            "a verified paraphrase or translation out of a file (`vlmbench rewrite`, `--rewrite FILE`)",
            (
                Param("kind", PARAPHRASE, "paraphrase or language", choices=KINDS),
                Param("index", 1, "which of several", 1, MOST),
                Param("force", True, "say in the prompt of a translation which language to answer in"),
                Param("file", "", "sha256 of the file"),
            ),
            breaks="what the checks cannot see: read a sample of the file",
            source="tier 2: made by a model, verified, frozen; arXiv 2511.11206",
        ),
    ),
)
