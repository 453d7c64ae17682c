"""The demo's scenes and questions: same bytes everywhere, unambiguous, balanced, splits apart."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest

from vlmbench.demo.painting import PAINT
from vlmbench.demo.phrasings import CANONICAL, EXTRA_WORDS, FRAMES, TEMPLATES, held_out, language
from vlmbench.demo.questions import CHOICES, KINDS, POSITIONS, ask
from vlmbench.demo.scenes import CELL, SPLITS, STRATA, make_scene, render

HASHES = {
    0: "5c3e8a43b8d4b1860e723968118c6bf3b634206cd0b5bda5f4e29ad90b2212d0",
    1: "06100402b6fc2a8f9f9410ab965fab8a5fc1cf02709e47ab5cbf18848ee46550",
    2: "6b80f24b786daed18062c0265cef16cd9a82b515ef1a6340abdf70c32f77690f",
    3: "e2505b852c410851b3596f91aeb4768a8991befa4d1af2a8480814d189043ae7",
    10000001: "ed3b1b91b9385268062c6a85df2825595e4c09d19b014c60661efed4454c5a74",
    11000002: "8b096c58398c96ec7558152edec329b0d910ccca1e512aa0859266d05ac819bb",
}


@pytest.mark.parametrize(("seed", "expected"), HASHES.items())
def test_a_seed_gives_the_same_bytes_on_every_machine(seed: int, expected: str) -> None:
    image = render(make_scene(seed))
    assert image.mode == "RGB"
    assert image.size == (432, 432)
    assert hashlib.sha256(image.tobytes()).hexdigest() == expected


def test_splits_share_no_seed() -> None:
    for a, b in itertools.combinations(SPLITS.values(), 2):
        assert a.stop <= b.start or b.stop <= a.start
    assert len(SPLITS["test"]) >= 1_000_000


def test_strata_alternate_and_can_be_asked_for() -> None:
    assert Counter(make_scene(seed).stratum for seed in range(30)) == dict.fromkeys(STRATA, 10)
    plain, cluttered = make_scene(4, "bland"), make_scene(4, "clutter")
    assert plain.objects == cluttered.objects
    assert render(plain).tobytes() != render(cluttered).tobytes()
    with pytest.raises(ValueError, match="unknown stratum 'foggy'"):
        make_scene(4, "foggy")
    with pytest.raises(ValueError, match="negative"):
        make_scene(-1)


@pytest.mark.parametrize("seed", SPLITS["test"][:60])
def test_objects_lie_inside_apart_and_are_told_apart(seed: int) -> None:
    objects = make_scene(seed).objects
    assert len({(o.colour, o.shape) for o in objects}) == len(objects)
    for o in objects:
        x0, y0, x1, y1 = o.box
        assert 0 <= x0 < o.centre[0] < x1 <= 432
        assert 0 <= y0 < o.centre[1] < y1 <= 432
        assert all(c % CELL >= 15 or c // CELL == 0 for c in o.centre)
        assert 6 <= o.radius / 3 <= 55
    for a, b in itertools.combinations(objects, 2):
        distance = np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1])
        assert distance > a.radius + b.radius


@pytest.mark.parametrize("stratum", STRATA)
def test_an_object_is_drawn_where_the_layout_says_in_its_colour(stratum: str) -> None:
    seen = 0
    for seed in range(40):
        scene = make_scene(seed, stratum)
        pixels = np.asarray(render(scene)).astype(int)
        for o in scene.objects:
            if o.digit is None:
                x, y = (int(c) for c in o.centre)
                shown = pixels[y - 4 : y + 5, x - 4 : x + 5].mean((0, 1))
                paint = np.array(PAINT[o.colour])  # then +-20 per object, the scene's light, the grain
                assert (shown >= (paint - 20) * 0.88 - 7).all()
                assert (shown <= np.minimum((paint + 20) * 1.06, 255) + 7).all()
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("seed", SPLITS["test"][:60])
def test_every_scene_allows_one_question_of_each_kind(seed: int) -> None:
    scene = make_scene(seed)
    questions = ask(scene, 0)
    assert [q.kind for q in questions] == list(KINDS)
    assert questions == ask(scene, 0)
    for q in questions:
        assert q.answer in q.choices == CHOICES[q.kind]
        assert bool(q.boxes) != (q.kind in ("existence", "count") and q.answer in ("no", "0"))


@pytest.mark.parametrize("seed", SPLITS["test"][:60])
def test_a_question_has_the_boxes_of_the_objects_it_speaks_of(seed: int) -> None:
    """One box for each, read off the words; never one around several."""
    objects = make_scene(seed).objects
    boxes: dict[str, list[object]] = {}
    for o in objects:
        for words in (o.colour, o.shape, f"{o.colour} {o.shape}"):
            boxes.setdefault(words, []).append(o.box)
    for q in ask(make_scene(seed), 2, per_kind=3):
        words = q.question.split()
        pairs = [pair for pair in map(" ".join, itertools.pairwise(words)) if pair in boxes]
        if q.kind == "count":
            stem = words[2] if words[2] in boxes else words[2].removesuffix("s")
            stem = stem if stem in boxes else stem.removesuffix("e")
            assert list(q.boxes) == boxes.get(stem, [])
            assert len(q.boxes) == int(q.answer)
        elif q.kind in ("colour", "shape"):
            assert list(q.boxes) == boxes[words[4]]
        else:
            assert list(q.boxes) == [box for pair in pairs for box in boxes[pair]]
            assert len(q.boxes) == (2 if q.kind == "relation" else int(q.answer != "no"))


@pytest.mark.parametrize("seed", SPLITS["test"][:40])
def test_answers_are_true(seed: int) -> None:
    """Answers from the layout again, by another way than the questions take."""
    scene = make_scene(seed)
    by_look = {f"{o.colour} {o.shape}": o for o in scene.objects}
    for q in ask(scene, 1, per_kind=3):
        words = q.question.split()
        named = [by_look[look] for look in map(" ".join, itertools.pairwise(words)) if look in by_look]
        if q.kind == "existence":
            assert (q.answer == "yes") == bool(named)
        elif q.kind == "digit":
            assert str(named[0].digit) == q.answer
        elif q.kind == "position":
            x, y = (int(c // CELL) for c in named[0].centre)
            assert POSITIONS[3 * y + x] == q.answer
        elif q.kind == "relation":
            (ax, ay), (bx, by) = named[0].centre, named[1].centre
            sides = {"left": bx - ax, "right": ax - bx, "above": by - ay, "below": ay - by}
            assert max(sides, key=sides.__getitem__) == q.answer
            assert sorted(sides.values())[-1] >= 2 * sorted(sides.values())[-2]
        elif q.kind == "count":
            thing = words[2]
            assert q.answer == str(
                sum(thing in (o.colour, o.shape + "s", o.shape + "es") for o in scene.objects)
            )
        else:
            thing = words[4]
            found = [o for o in scene.objects if thing in (o.shape, o.colour)]
            assert [getattr(o, q.kind) for o in found] == [q.answer]


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for seed in SPLITS["calibration"][:600]:
        for q in ask(make_scene(seed), 0):
            answers[q.kind][q.answer] += 1
    for kind, counts in answers.items():
        assert set(counts) == set(CHOICES[kind])
        # A model that always gives the commonest answer stays far below one that looks.
        assert max(counts.values()) / 600 < {"existence": 0.56, "count": 0.40}.get(
            kind, 1.6 / len(CHOICES[kind])
        )


def test_per_kind_gives_different_questions() -> None:
    questions = [q.question for q in ask(make_scene(3), 0, per_kind=4)]
    assert len(set(questions)) == len(questions) > len(KINDS)


def test_a_phrasing_never_repeats_another_of_its_kind() -> None:
    for q in ask(make_scene(5), 0):
        texts = [q.question, *q.phrasings.values()]
        assert len(set(texts)) == len(texts)
        assert sum(held_out(name) and language(name) == "en" for name in q.phrasings) >= 2
        assert {language(name) for name in q.phrasings} == {"en", "de", "fr"}


@pytest.mark.parametrize("tongue", ["en", "de", "fr"])
def test_held_out_phrasings_use_trained_words_only(tongue: str) -> None:
    def words(name: str, template: str) -> set[str]:
        return set(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", re.sub(r"\{\w+\}", "", template)))

    named = [
        (n, t) for templates in TEMPLATES.values() for n, t in templates.items() if language(n) == tongue
    ]
    trained = set().union(*(words(n, t) for n, t in named if not held_out(n)))
    for name, template in named:
        if held_out(name):
            assert words(name, template) <= trained, (name, template)
    assert all("{q}" in frame for frame in FRAMES)
    assert CANONICAL not in EXTRA_WORDS
