"""Question perturbations: every entry of the registry under the same contract, then each rule by example."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.conditions import Part
from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.items import LABEL_STYLES, Item
from vlmbench.perturb.base import QuestionPerturbation
from vlmbench.perturb.text import QUESTIONS
from vlmbench.perturb.text.template import matching
from vlmbench.perturb.text.template_rules import RULES

relaxed = settings(deadline=None)  # shared machines stall; slowness is no failure here

ENTRIES = list(QUESTIONS)
PARTS = [
    *QUESTIONS.suite("rules", "templates"),
    QUESTIONS.get("phrasing").part(name="alt-1"),
    QUESTIONS.get("phrasing").part(name="de-1"),
]


def item(question: str = "What is this?", **fields: object) -> Item:
    given_fields: dict[str, object] = {
        "id": "i",
        "images": (),
        "answers": ("yes",),
        "cluster": "c",
        "instruction": "Answer with one word.",
        **fields,
    }
    return Item(question=question, **given_fields)  # type: ignore[arg-type]


PHRASINGS = {
    "alt-1": 'How large a number of {red} "No. 7" signs do the 12 NASA men see?',
    "de-1": 'Wie viele {rote} "No. 7"-Schilder sehen die 12 Männer der NASA?',
}
ITEMS = [
    item('How many {red} "No. 7" signs can you see near the 12 NASA men?', phrasings=PHRASINGS),
    item("Is there a dog that isn't in the 3 images {0}?"),
    item("Where is the red circle?"),
    item("where is the red circle relative to the 2nd square ?", instruction=""),
    item("What's the man's name on the 'Don't {walk}' sign", options=("A b", "{c}"), answers=("0",)),
    item(
        "What color is the car at point B?",
        options=("red", "blue", "5 greens"),
        option_order=(2, 0, 1),
        answers=("0",),
        label_style="colon",
    ),
    item("Which sign says “STOP”?", options=("left", "right", "above", "below"), answers=("right",)),
    item("WHAT IS NOT ON THE SIGN?"),
    item("is there a dog ?", options=("yes", "no"), answers=("1",), instruction_first=True),
    item("Is it a cat or is it not a cat?", frame="Q: {}"),
]
NUMBER = re.compile(r"\d+")
NOT = re.compile(r"\b(?:not|no|never)\b|n['’]t\b", re.IGNORECASE)
QUOTE = re.compile(r'"([^"]+)"|“([^”]+)”|\'((?:[^\']|\'(?=\w))+)\'(?!\w)|‘((?:[^’]|’(?=\w))+)’(?!\w)')
IN_QUOTES = ("No. 7", "Don't {walk}", "STOP")


def apply(part: Part, to: Item) -> Item:
    built: Item = QUESTIONS.get(part.name).build(part)(to, seed=1)
    return built


def applicable(part: Part) -> list[tuple[Item, Item]]:
    """(before, after) for the items that this part can change."""
    pairs, reasons = [], []
    for before in ITEMS:
        try:
            pairs.append((before, apply(part, before)))
        except NotApplicableError as error:
            reasons.append(str(error))
    assert all(5 < len(reason) < 100 for reason in reasons)
    return pairs


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_parameters_are_the_fields_of_the_class(entry):
    fields = {field.name: field.default for field in dataclasses.fields(entry.load())}
    assert fields == {param.name: param.default for param in entry.params}
    assert entry.load().__dataclass_params__.frozen
    assert isinstance(entry.build(entry.part()), QuestionPerturbation)
    assert entry.summary
    assert entry.source


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.label)
class TestEveryPart:
    def test_applies_somewhere_and_changes_what_the_model_reads(self, part):
        pairs = applicable(part)
        assert pairs
        for before, after in pairs:
            assert after.text() != before.text()

    def test_is_deterministic_and_ignores_the_seed(self, part):
        for before, after in applicable(part):
            assert QUESTIONS.get(part.name).build(part)(before, seed=99) == after

    def test_leaves_its_input_alone(self, part):
        for before in ITEMS:
            untouched = copy.deepcopy(before)
            with contextlib.suppress(NotApplicableError):
                apply(part, before)
            assert before == untouched

    def test_numbers_negations_and_quoted_strings_survive(self, part):
        for before, after in applicable(part):
            assert sorted(NUMBER.findall(after.text())) == sorted(NUMBER.findall(before.text()))
            for text in IN_QUOTES:
                assert (text in after.text()) == (text in before.text())
            if part.name != "phrasing":  # the task vouches for its own wordings
                assert len(NOT.findall(after.text())) == len(NOT.findall(before.text()))
                assert len(QUOTE.findall(after.question)) == len(QUOTE.findall(before.question))

    def test_answers_options_and_everything_else_stay(self, part):
        free = {"question", "options", "option_order", "label_style", "frame", "instruction",
                "instruction_first", "language"}  # fmt: skip
        for before, after in applicable(part):
            for field in dataclasses.fields(Item):
                if field.name not in free:
                    assert getattr(after, field.name) == getattr(before, field.name)
            assert originals(after) == originals(before)

    def test_nothing_to_say_is_not_applicable(self, part):
        blank = item("", instruction="")
        if part.name == "frame":  # a frame around nothing is still a frame
            assert apply(part, blank).question == ""
        else:
            with pytest.raises(NotApplicableError):
                apply(part, blank)


def originals(of: Item) -> dict[int, str]:
    order = of.option_order or range(len(of.options))
    return dict(zip(order, of.options, strict=True))


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.identity is not None], ids=lambda e: e.name)
def test_identity_changes_nothing(entry):
    reached = 0
    for before in ITEMS:
        try:
            after = entry.build(entry.part(**entry.identity))(before)
        except NotApplicableError:
            continue
        reached += 1
        assert after.text() == before.text()
        assert originals(after) == originals(before)
    assert reached


OPTION = st.text("abcdefgh ", min_size=1, max_size=5)


@relaxed
@given(st.lists(OPTION, min_size=2, max_size=8), st.integers(0, 7), st.integers(0, 7), st.data())
def test_rotation_keeps_the_answer_as_original_index(options, first, second, data):
    before = item(options=tuple(options))
    rotate = QUESTIONS.get("options_rotate")
    after = before
    for r in (first, second):
        if r < len(options):
            after = rotate.build(rotate.part(r=r))(after)
    gold = data.draw(st.integers(0, len(options) - 1))
    shown_at = (after.option_order or tuple(range(len(options)))).index(gold)
    assert after.options[shown_at] == options[gold]
    assert sorted(after.options) == sorted(options)


@relaxed
@given(st.lists(OPTION, min_size=2, max_size=8, unique=True))
def test_rotations_are_all_different_and_full_turns_are_refused(options):
    before = item(options=tuple(options))
    rotate = QUESTIONS.get("options_rotate")
    n = len(options)
    seen = {rotate.build(rotate.part(r=r))(before).options for r in range(n)}
    assert len(seen) == n
    with pytest.raises(NotApplicableError):
        rotate.build(rotate.part(r=n))(before)


@pytest.mark.parametrize("option", ["All of the above", "none of the above", "Both A and B", "(A) or (C)"])
def test_options_that_refer_to_others_are_not_rotated(option):
    with pytest.raises(NotApplicableError, match="refers"):
        apply(QUESTIONS.get("options_rotate").part(), item(options=("a", "b", option)))


@relaxed
@given(st.text(max_size=60))
def test_any_text_is_changed_or_not_applicable(question):
    before = item(question, options=("x", "y"))
    for part in QUESTIONS.suite("rules", "templates"):
        try:
            after = apply(part, before)
        except NotApplicableError:
            continue
        assert after.text() != before.text()
        if part.name in {"frame", "polite", "whitespace"}:
            assert "".join(question.split()) in "".join(after.text().split())


def question_after(name: str, question: str, **parameters: object) -> str | None:
    try:
        return apply(QUESTIONS.get(name).part(**parameters), item(question)).question
    except NotApplicableError:
        return None


@pytest.mark.parametrize(
    ("mode", "question", "expected"),
    [
        ("lower", "Is John's TV near A or B?", "is john's TV near A or B?"),
        ("lower", "WHAT IS THIS?", "what is this?"),
        ("lower", 'Is the "EXIT" sign near the iPhone?', 'is the "EXIT" sign near the iPhone?'),
        ("upper", "Is it 5kg or 5mg, 'in words'?", "IS IT 5kg OR 5mg, 'in words'?"),
        ("title", "what's the dog's name?", "What's The Dog's Name?"),
        ("lower", "what is this?", None),
    ],
)
def test_case(mode, question, expected):
    assert question_after("case", question, mode=mode) == expected


@pytest.mark.parametrize(
    ("mode", "question", "expected"),
    [
        ("drop", "Is it red ?", "Is it red"),
        ("drop", "Is it red", None),
        ("drop", 'What is "Stop?"', None),
        ("drop", "??", None),
        ("double", "Is it red?", "Is it red??"),
        ("space", "Is it red?", "Is it red ?"),
        ("space", "Is it red ?", "Is it red?"),
    ],
)
def test_punctuation(mode, question, expected):
    assert question_after("punctuation", question, mode=mode) == expected


@pytest.mark.parametrize(
    ("mode", "question", "expected"),
    [
        ("contract", "What is on the sign that is not red?", "What's on the sign that's not red?"),
        ("contract", "The sign says what it is", None),
        ("contract", "WHERE IS IT?", "WHERE'S IT?"),
        ("contract", "He cannot see and will not run", "He can't see and won't run"),
        ("expand", "What's this?", "What is this?"),
        ("expand", "What’s been eaten?", None),
        ("expand", "Why isn't he red?", None),
        ("expand", "The dog can't see and he won't run", "The dog cannot see and he will not run"),
        ("expand", "Whose is the man's 'What's up' shirt?", None),
    ],
)
def test_contraction(mode, question, expected):
    assert question_after("contraction", question, mode=mode) == expected


@pytest.mark.parametrize(
    ("style", "question", "expected"),
    [
        ("curly", "Where's the \"it's\" sign?", "Where’s the “it's” sign?"),
        ("straight", "Where’s the “it’s” sign?", 'Where\'s the "it’s" sign?'),
        ("single", 'Is the 15" screen "on"?', "Is the 15\" screen 'on'?"),
        ("single", "Is it on?", None),
        ("curly", "Is it on?", None),
    ],
)
def test_quotes(style, question, expected):
    assert question_after("quotes", question, style=style) == expected


def test_white_space_inside_quoted_strings_stays():
    assert question_after("whitespace", 'Is "a b" on it?', mode="double") == 'Is  "a b"  on  it?'


@pytest.mark.parametrize("question", ["{} {0} {x!r} }{", "plain"])
@pytest.mark.parametrize("style", ["question", "qa"])
@pytest.mark.parametrize("first", [True, False])
def test_frames_keep_braces_and_answer_is_the_last_line(question, style, first):
    framed = apply(QUESTIONS.get("frame").part(style=style), item(question, instruction_first=first))
    assert f"Question: {question}" in framed.text()
    assert framed.text().endswith("\nAnswer:") == (style == "qa")


def test_answer_cue_follows_options():
    framed = apply(
        QUESTIONS.get("frame").part(style="qa"), item("Which?", options=("x", "y"), instruction="")
    )
    assert framed.text() == "Question: Which?\nA. x\nB. y\nAnswer:"


def test_label_styles_are_those_of_items():
    choices = QUESTIONS.get("option_labels").params[0].choices
    assert set(choices) == set(LABEL_STYLES)


REWRITES = [
    ("Is there a dog in the image?", 1, "Can you see a dog in the image?"),
    ("Are there any dogs?", 3, "Would you say there are any dogs?"),
    ("can you see a dog ?", 1, "is there a dog ?"),
    ("Do you see any dogs?", 1, "Are there any dogs?"),
    ("How many dogs are there on the bed?", 1, "What is the number of dogs on the bed?"),
    ('How many "no" signs are there?', 2, 'How many "no" signs can you see?'),
    ("How many dogs can you see?", 1, "How many dogs are there?"),
    ("How many men are wearing hats?", 1, "What is the number of men that are wearing hats?"),
    ("What is the number of red dogs on the bed?", 1, "How many red dogs are there on the bed?"),
    ("What color is the man's hat?", 1, "Which color does the man's hat have?"),
    ("What colour are the hats?", 1, "Which colour do the hats have?"),
    ("Which colour does the hat have?", 1, "What colour is the hat?"),
    ("What shape do the plates have?", 1, "What shape are the plates?"),
    ("Where is the dog?", 1, "In which place is the dog?"),
    ("In which place is the dog?", 1, "Where is the dog?"),
    ("where is the dog relative to the cat ?", 1, "where does the dog lie relative to the cat ?"),
    ("Is the dog to the left of the cat?", 2, "Is it true that the dog is to the left of the cat?"),
    ("In which part of the image is the dog?", 1, "Where in the image is the dog?"),
    ("Where in the image is the dog?", 2, "Which part of the image has the dog?"),
    ("What number is on the shirt?", 2, "What number can you see on the shirt?"),
    ("Which digit is on the shirt?", 1, "What digit is on the shirt?"),
    ("What kind of hat is he wearing?", 2, "What type of hat is he wearing?"),
    ("Which type of hat is it?", 1, "What type of hat is it?"),
    ("What is the name of the {shop}?", 1, "Can you tell what the name of the {shop} is?"),
]


@pytest.mark.parametrize(("question", "k", "expected"), REWRITES)
def test_template_rewrites(question, k, expected):
    assert question_after("template", question, k=k) == expected
    assert question_after("template", question, k=0) == question


def test_every_template_rule_is_shown_by_an_example():
    found = [matching(question.rstrip(" ?")) for question, _, _ in REWRITES]
    used = {rule.pattern for rule, _ in filter(None, found)}
    assert used == {rule.pattern for rule in RULES}


@pytest.mark.parametrize(
    "question",
    [
        "What color is the man wearing?",
        "What is the dog looking at?",
        "What is this a picture of?",
        "What is the weather like?",
        "What is the man about to throw?",
        "What is the girl eating with her hand?",
        "Where is the man going?",
        "How many years old are they?",
        "How many of the dogs are there?",
        "How many people do you think are there?",
        "Is the man on the bike behind the car?",
        "Is there no dog?",
        "What color is it, red or blue?",
        "Is this a dog? Is it red?",
        "Describe the image.",
    ],
)
def test_template_leaves_alone_what_it_cannot_surely_rewrite(question):
    assert question_after("template", question, k=1) is None


def test_english_rules_leave_other_languages_alone():
    german = item("Is there a dog that is red?", language="de")
    for name in ("contraction", "polite", "frame", "template"):
        with pytest.raises(NotApplicableError, match="English"):
            apply(QUESTIONS.get(name).part(), german)


def test_phrasing_sets_the_language_and_keeps_the_instruction():
    before = ITEMS[0]
    german = apply(QUESTIONS.get("phrasing").part(name="de-1"), before)
    assert (german.question, german.language) == (PHRASINGS["de-1"], "de")
    assert german.instruction == before.instruction
    assert apply(QUESTIONS.get("phrasing").part(name="alt-1"), before).language == "en"
    forced = "Answer with one word. Answer in English."
    asked = before.changed(force_answer_language=True)
    assert apply(QUESTIONS.get("phrasing").part(name="de-1"), asked).instruction == forced
    assert apply(QUESTIONS.get("phrasing").part(name="de-1", force="true"), before).instruction == forced
    assert apply(QUESTIONS.get("phrasing").part(name="de-1", force="false"), asked).instruction != forced
    assert apply(QUESTIONS.get("phrasing").part(name="alt-1", force="true"), asked) == apply(
        QUESTIONS.get("phrasing").part(name="alt-1"), asked
    )
    told = asked.changed(phrasing_languages={"alt-1": "fr", "de-1": "en"})
    french = apply(QUESTIONS.get("phrasing").part(name="alt-1"), told)
    assert (french.instruction, french.language) == (forced, "fr")
    assert apply(QUESTIONS.get("phrasing").part(name="de-1"), told).instruction == before.instruction
    with pytest.raises(NotApplicableError, match="no sentence that asks for an answer in 'pt'"):
        apply(QUESTIONS.get("phrasing").part(name="de-1"), asked.changed(language="pt"))
    for name in ("", "fr-1"):
        with pytest.raises(NotApplicableError, match="known: alt-1, de-1"):
            apply(QUESTIONS.get("phrasing").part(name=name), before)


def test_bad_parameters_are_usage_errors():
    for name, parameters in [("case", {"mode": "lowr"}), ("polite", {"k": 4}), ("template", {"k": -1})]:
        with pytest.raises(UsageError):
            QUESTIONS.get(name).part(**parameters)
    with pytest.raises(UsageError, match="did you mean 'template'"):
        QUESTIONS.get("templat")


def test_registry_imports_no_family_and_nothing_heavy():
    code = (
        "import sys; import vlmbench.perturb.text as t; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'PIL', 'numpy', 'transformers') "
        "or m.startswith('vlmbench.perturb.text.')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
