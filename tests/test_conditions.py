"""The grammar of conditions: what a table calls a condition is what the command line reads back."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.conditions import CLEAN, Condition, Part, parse_spec, show_value, split_list
from vlmbench.errors import UsageError
from vlmbench.experiments.perturb import PerturbOptions, variations
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.text import QUESTIONS
from vlmbench.registry import Entry, Param, Registry

ENTRIES = [*IMAGES, *QUESTIONS]


def values_of(param: Param) -> st.SearchStrategy:
    """Values that the parameter allows, of its own type."""
    if param.choices:
        return st.sampled_from(param.choices)
    if isinstance(param.default, bool):
        return st.booleans()
    if isinstance(param.default, int):
        return st.integers(math.ceil(param.low), math.floor(param.high))
    if isinstance(param.default, float):
        return st.floats(param.low, param.high, exclude_max=param.open_high)
    return st.from_regex(r"[a-z][a-z0-9_ .-]{0,12}[a-z0-9]", fullmatch=True)


@st.composite
def chosen(draw: st.DrawFn) -> tuple[Entry, Part]:
    entry = draw(st.sampled_from(ENTRIES))
    given_ = {p.name: draw(values_of(p)) for p in entry.params if draw(st.booleans())}
    return entry, entry.part(**given_)


@settings(max_examples=200, deadline=None)
@given(chosen())
def test_the_id_of_a_part_reads_back_as_the_same_part(pair: tuple[Entry, Part]) -> None:
    entry, part = pair
    name, text = parse_spec(part.label)
    assert name == entry.name
    assert entry.part(**text) == part
    assert part.label == entry.part(**text).label
    shown = {p.name for p in entry.params if part.parameters[p.name] != p.default}
    assert list(text) == sorted(shown)  # every parameter that is no default, sorted, and no other
    assert set(part.parameters) == {p.name for p in entry.params}


@settings(max_examples=100, deadline=None)
@given(st.lists(chosen(), min_size=1, max_size=4))
def test_a_list_of_parts_splits_into_the_same_parts(pairs: list[tuple[Entry, Part]]) -> None:
    labels = [part.label for _, part in pairs]
    assert split_list(" , ".join(labels)) == labels


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1@().,=+ \n-", max_size=14))
def test_any_text_is_read_or_refused_but_never_crashes(text: str) -> None:
    specs = []
    with contextlib.suppress(UsageError):  # any other exception would be a crash
        specs = [parse_spec(spec) for spec in split_list(text)]
    for name, params in specs:
        assert name
        assert all(key and value for key, value in params.items())


def test_the_id_of_a_condition_shows_its_parts_in_order_of_application() -> None:
    zoo = Part("zoo", (("m", 16), ("ratio", 0.9)), "zoo(m=16,ratio=0.9)")
    shift = IMAGES.get("shift").part(dx=2)
    assert CLEAN.id == "clean"
    assert Condition(repeat=2).id == "repeat(index=2)"
    both = Condition(prune=zoo, image=shift, question=QUESTIONS.get("case").part(mode="upper"))
    assert both.id == "case(mode=upper)+shift(dx=2)+zoo(m=16,ratio=0.9)"
    assert both.describe()["image"]["params"]["fill"] == "wrap"  # defaults are stored though not shown


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" , ", []),
        ("a,b", ["a", "b"]),
        ("a(x=1,y=2),b", ["a(x=1,y=2)", "b"]),
        ("a( x = 1 , y=(2,3) ) , b@0.5", ["a( x = 1 , y=(2,3) )", "b@0.5"]),
    ],
)
def test_split_list(text: str, parts: list[str]) -> None:
    assert split_list(text) == parts


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("zoo", "zoo", {}),
        (" zoo @ 0.9 ", "zoo", {"ratio": "0.9"}),
        ("zoo@0.90(m=16, estimator = sampled)", "zoo", {"ratio": "0.90", "m": "16", "estimator": "sampled"}),
        ("sd-rpn(k=a=b)", "sd-rpn", {"k": "a=b"}),
    ],
)
def test_parse_spec(text: str, name: str, params: dict[str, str]) -> None:
    assert parse_spec(text) == (name, params)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected NAME"),
        ("2x", "expected NAME"),
        ("a b", "expected NAME"),
        ("a@", r"NAME@RATIO\(key=value,\.\.\)"),
        ("a(x=1)b", "expected NAME"),
        ("a(x)", "expected key=value"),
        ("a(x=)", "expected key=value"),
        ("a(=1)", "expected key=value"),
        ("a(x=1,x=2)", "'x' is given twice"),
        ("a@0.5(ratio=0.5)", "'ratio' is given twice"),
        ("a(x=(1)", "unbalanced"),
    ],
)
def test_parse_spec_says_what_it_expected(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_spec(text)


@pytest.mark.parametrize("text", ["a(", "a)", "a)(", "b,a(x=1"])
def test_unbalanced_lists_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unbalanced parenthesis"):
        split_list(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.90, "0.9"),
        (-5.0, "-5"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-7, "1e-07"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        ("x", "x"),
    ],
)
def test_show_value_is_the_shortest_text_of_the_value(value: object, text: str) -> None:
    assert show_value(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_shown_float_reads_back_exactly(value: float) -> None:
    assert float(show_value(value)) == value


@dataclass(frozen=True)
class Method:
    ratio: float
    m: int
    hard: bool
    kind: str
    free: float


METHOD = Entry(
    "method",
    Method,
    "for this test",
    (
        Param("ratio", 0.5, "", low=0, high=1, open_high=True, strength=True),
        Param("m", 4, "", low=1, high=16),
        Param("hard", False, ""),
        Param("kind", "mean", "", choices=("mean", "max")),
        Param("free", 0.0, ""),
    ),
)


@pytest.mark.parametrize(
    ("given_", "value"),
    [
        ({"ratio": "0.9"}, 0.9),
        ({"ratio": 0}, 0.0),
        ({"m": "16"}, 16),
        ({"m": "1e1"}, 10),
        ({"m": 2.0}, 2),
        ({"hard": "True"}, True),
        ({"hard": "0"}, False),
        ({"kind": "max"}, "max"),
        ({"free": "-1e30"}, -1e30),
    ],
)
def test_a_parameter_takes_the_type_of_its_default(given_: dict[str, object], value: object) -> None:
    (name,) = given_
    got = METHOD.part(**given_).parameters[name]
    assert got == value
    assert type(got) is type(value)
    built = METHOD.build(METHOD.part(**given_))
    assert getattr(built, name) == value


def test_minus_zero_is_zero_so_that_one_condition_has_one_description() -> None:
    assert math.copysign(1, METHOD.part(free="-0.0").parameters["free"]) == 1


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"ratio": "1"}, "method: ratio must be in [0, 1): got 1"),
        ({"ratio": -0.1}, "method: ratio must be in [0, 1): got -0.1"),
        ({"ratio": "nan"}, "method: ratio must be in [0, 1): got nan"),
        ({"ratio": "half"}, "method: ratio must be float: got 'half'"),
        ({"m": "17"}, "method: m must be in [1, 16]: got 17"),
        ({"m": "2.5"}, "method: m must be int: got '2.5'"),
        ({"m": "inf"}, "method: m must be int: got 'inf'"),
        ({"m": None}, "method: m must be int: got None"),
        ({"hard": "yes"}, "method: hard must be bool: got 'yes'"),
        ({"kind": "mea"}, "method: kind='mea' is unknown: did you mean 'mean'?"),
        ({"kind": "qqq"}, "method: kind='qqq' is unknown; known: max, mean"),
        ({"free": "inf"}, "method: free must be in the finite numbers: got inf"),
        ({"rati": 0.1}, "method has no parameter 'rati': did you mean 'ratio'?"),
    ],
)
def test_a_wrong_parameter_is_told_with_its_range(given_: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        METHOD.part(**given_)
    assert str(caught.value) == says


def test_unknown_names_come_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match=r"unknown perturbation 'rotat': did you mean 'rotate'\?"):
        IMAGES.get("rotat")
    with pytest.raises(UsageError, match=r"; known: brightness, contrast"):
        IMAGES.get("qqqqqq")
    with pytest.raises(UsageError, match="instruction_order has no parameter 'k'; it takes none"):
        QUESTIONS.get("instruction_order").part(k=1)


def test_strength_stays_out_of_the_draw_and_everything_else_is_in() -> None:
    keys = {METHOD.draw_key(METHOD.part(ratio=ratio, m=3)) for ratio in (0.1, 0.5, 0.9)}
    assert len(keys) == 1
    assert keys != {METHOD.draw_key(METHOD.part(m=4))}
    for entry in ENTRIES:
        part = entry.part()
        named = {key for key, _ in entry.draw_key(part)[1:]}
        assert named == {p.name for p in entry.params if not p.strength}


def test_a_taken_name_is_never_overridden() -> None:
    registry = Registry("method", "vlmbench.none", (METHOD,))
    with pytest.raises(UsageError, match="method 'method' is already registered"):
        registry.add(Entry("method", Part, "another"))
    assert registry.get("method") is METHOD
    registry.add(Entry("other", Method, "new"))
    assert registry.names == ["method", "other"]


def grid(*values: float) -> tuple[dict[str, float], ...]:
    return tuple({"free": value} for value in values)


@pytest.mark.parametrize(
    ("suites", "asked", "values"),
    [
        ({"benign": grid(1), "stress": grid(9)}, ("benign",), [1]),
        ({"benign": grid(1), "stress": grid(9)}, ("stress",), [9]),
        ({"benign": grid(1), "stress": grid(9)}, ("benign", "stress"), [1, 9]),
        ({"benign": grid(1), "stress": grid(9)}, ("null",), [1]),
        ({"rules": grid(3, 4), "stress": grid(9)}, ("benign",), [3, 4]),
        ({}, ("benign",), [0]),
    ],
)
def test_a_bare_name_stands_for_its_grid_and_stress_is_never_mixed_in(
    suites: dict[str, tuple[dict[str, float], ...]], asked: tuple[str, ...], values: list[float]
) -> None:
    entry = Entry("method", Method, "", METHOD.params, suites)
    registry = Registry("method", "vlmbench.none", (entry,))
    assert [part.parameters["free"] for part in registry.expand("method", asked)] == values
    assert [part.parameters["free"] for part in registry.expand("method(free=7)", asked)] == [7]


def size(registry: Registry, *suites: str) -> int:
    return sum(len(entry.suites.get(suite, ())) for entry in registry for suite in suites)


PHRASINGS = ("fr", "formal")


@pytest.mark.parametrize(
    ("options", "images", "questions"),
    [
        ({}, ("null", "benign"), ("rules", "templates")),
        ({"suite": "all"}, ("null", "benign", "stress"), ("rules", "templates")),
        ({"suite": "stress"}, ("stress",), ()),
        ({"suite": "null"}, ("null",), ()),
        ({"rewrite": "none"}, ("null", "benign"), ()),
        ({"rewrite": "rules"}, ("null", "benign"), ("rules",)),
        ({"suite": "none", "rewrite": "rules,templates"}, (), ("rules", "templates")),
        ({"suite": "stress", "rewrite": "templates"}, ("stress",), ("templates",)),
        ({"suite": "none"}, (), ()),
    ],
)
def test_suite_chooses_the_images_and_rewrite_the_questions(
    options: dict[str, str], images: tuple[str, ...], questions: tuple[str, ...]
) -> None:
    found = variations(PerturbOptions(**options, repeats=2), PHRASINGS)
    count = {
        axis: sum(v.axis == axis for v in found) for axis in ("clean", "repeat", "null", "image", "question")
    }
    expected = size(QUESTIONS, *questions) + len(PHRASINGS) * ("templates" in questions)
    null = size(IMAGES, "null") * ("null" in images)
    wanted = size(IMAGES, *images) - null + ("benign" in images)  # the shift by one patch of the model
    assert count == {"clean": 1, "repeat": 2, "null": null, "image": wanted, "question": expected}
    assert found[0].condition is CLEAN
    assert len({v.condition.id for v in found}) == len(found)
    assert all(v.reference == "clean" for v in found[1:])


def test_families_take_the_place_of_the_suites() -> None:
    def ids(**options: str) -> list[str]:
        return [v.condition.id for v in variations(PerturbOptions(repeats=0, **options), PHRASINGS)[1:]]

    assert ids(families="shift(dx=2),case(mode=upper)") == ["shift(dx=2)", "case(mode=upper)"]
    assert ids(families="rotate", suite="stress") == ["rotate(deg=-30)", "rotate(deg=30)"]
    assert ids(families="jpeg", suite="stress") == ids(families="jpeg")  # it has no stress: its own grid
    assert ids(families="phrasing") == ["phrasing(name=fr)", "phrasing(name=formal)"]
    assert ids(families="lsb(share=1),lsb(share=1.0)") == ["lsb(share=1)"]  # no condition twice
    added = ids(families="lsb(share=1)", rewrite="rules")
    assert len(added) == 1 + size(QUESTIONS, "rules")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"families": " , "}, "--perturb names nothing: got ' , '"),
        ({"rewrite": ""}, "--rewrite names nothing: got ''"),
        ({"rewrite": "none,rules"}, "none goes with no other"),
        ({"rewrite": "rule"}, "unknown rewrite 'rule': did you mean 'rules'?"),
        ({"suite": "bening"}, "unknown suite 'bening': did you mean 'benign'?"),
        ({"space": "modell"}, "unknown space 'modell': did you mean 'model'?"),
        ({"families": "shfit"}, "unknown perturbation 'shfit': did you mean 'shift'?"),
    ],
)
def test_a_choice_of_nothing_is_an_error(options: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        variations(PerturbOptions(**options))
    assert says in str(caught.value)
