"""Questions about a scene: seven kinds, one-word answers, unambiguous by construction."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.demo.phrasings import CANONICAL, TEMPLATES, language, noun_phrase
from vlmbench.demo.scenes import COLOURS, SHAPES, Box, Scene, SceneObject, clear_relation, stream

KINDS = ("colour", "shape", "existence", "count", "relation", "position", "digit")
POSITIONS = (
    "top-left", "top", "top-right", "left", "centre", "right", "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
"""Names of the nine cells, row by row."""
CHOICES: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "existence": ("yes", "no"),
    "count": ("0", "1", "2", "3", "4"),
    "relation": ("left", "right", "above", "below"),
    "position": POSITIONS,
    "digit": tuple(string.digits),
}
# High counts are rare in the scenes: draw them more often where they are to be had.
_COUNT_WEIGHT = {"0": 0.45, "1": 0.5, "2": 1.3, "3": 3.5, "4": 9.0}


@dataclass(frozen=True)
class Mention:
    """One noun phrase of a question: its slot, the named attributes, the object meant (None: no such one)."""

    slot: str
    colour: str | None
    shape: str | None
    target: int | None


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its one-word answer.

    boxes: of each object asked about, in master pixels, in the order of the mentions or of the scene; none
    where nothing is there (a "no", a count of 0).
    phrasings: name -> the same question in other exact words, see `phrasings.TEMPLATES`.
    choices: every answer this kind can have.
    """

    kind: str
    question: str
    answer: str
    boxes: tuple[Box, ...]
    phrasings: dict[str, str]
    choices: tuple[str, ...]
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Candidate:
    """What could be asked: the question without its words."""

    answer: str
    mentions: tuple[Mention, ...]
    boxes: tuple[Box, ...]


def ask(scene: Scene, seed: int, per_kind: int = 1, kinds: Sequence[str] = KINDS) -> list[SceneQuestion]:
    """Questions about a scene, in the order of `kinds`, at most `per_kind` different ones of each.

    The same scene and seed give the same questions. Answers are balanced where the scene allows it; a
    "no" mostly recombines a colour and a shape that are there.
    """
    random = stream(scene.seed * 1000 + seed, "questions")
    questions = []
    for kind in kinds:
        candidates = candidates_of(kind, scene)
        for _ in range(per_kind):
            chosen = candidates[draw(kind, candidates, random)]
            questions.append(_question(kind, chosen))
            candidates = [c for c in candidates if c != chosen]
            if not candidates:
                break
    return questions


def candidates_of(kind: str, scene: Scene) -> list[Candidate]:
    """Everything of this kind that can be asked about the scene without doubt, in a fixed order."""
    return _CANDIDATES[kind](scene)


def spell(kind: str, name: str, mentions: tuple[Mention, ...], mark: str = "") -> str:
    """The question in the words of a phrasing; `mark` is put behind each noun phrase that names an object."""
    tongue = language(name)
    words = {
        m.slot: noun_phrase(m.slot, m.colour, m.shape, tongue) + (mark if m.target is not None else "")
        for m in mentions
    }
    return TEMPLATES[kind][name].format(**words)


def _question(kind: str, candidate: Candidate) -> SceneQuestion:
    texts = {name: spell(kind, name, candidate.mentions) for name in TEMPLATES[kind]}
    question = texts.pop(CANONICAL)
    return SceneQuestion(
        kind, question, candidate.answer, candidate.boxes, texts, CHOICES[kind], candidate.mentions
    )


def draw(kind: str, candidates: list[Candidate], random: np.random.RandomState) -> int:
    """First an answer among those to be had, then one of its candidates."""
    answers = sorted({c.answer for c in candidates})
    weights = np.array([_COUNT_WEIGHT[a] if kind == "count" else 1.0 for a in answers])
    edges = np.cumsum(weights)
    answer = answers[int(np.searchsorted(edges, random.random_sample() * edges[-1], side="right"))]
    fitting = [i for i, c in enumerate(candidates) if c.answer == answer]
    return fitting[int(random.randint(len(fitting)))]


def _named(slot: str, scene: Scene, index: int) -> Mention:
    o = scene.objects[index]
    return Mention(slot, o.colour if slot != "s" else None, o.shape if slot != "o" else None, index)


def _single(scene: Scene, slot: str, answer: Callable[[SceneObject], str | None]) -> list[Candidate]:
    """Candidates about one object; None as an answer leaves it out."""
    found = []
    for index, o in enumerate(scene.objects):
        text = answer(o)
        if text is not None:
            found.append(Candidate(text, (_named(slot, scene, index),), (o.box,)))
    return found


def _colour(scene: Scene) -> list[Candidate]:
    shapes = [o.shape for o in scene.objects]
    return _single(scene, "s", lambda o: o.colour if shapes.count(o.shape) == 1 else None)


def _shape(scene: Scene) -> list[Candidate]:
    colours = [o.colour for o in scene.objects]
    return _single(scene, "o", lambda o: o.shape if colours.count(o.colour) == 1 else None)


def _digit(scene: Scene) -> list[Candidate]:
    return _single(scene, "a", lambda o: None if o.digit is None else str(o.digit))


def _position(scene: Scene) -> list[Candidate]:
    cell = scene.size // 3
    return _single(scene, "a", lambda o: POSITIONS[int(o.centre[1]) // cell * 3 + int(o.centre[0]) // cell])


def _existence(scene: Scene) -> list[Candidate]:
    present = {(o.colour, o.shape) for o in scene.objects}
    colours, shapes = {o.colour for o in scene.objects}, {o.shape for o in scene.objects}
    found = _single(scene, "an", lambda o: "yes")
    for colour in COLOURS:
        for shape in SHAPES:
            near = (colour in colours) + (shape in shapes)
            # Both attributes are there, only not together: three times as likely as one alone.
            copies = {0: 0, 1: 1, 2: 3}[near] if (colour, shape) not in present else 0
            found += [Candidate("no", (Mention("an", colour, shape, None),), ())] * copies
    return found


def _count(scene: Scene) -> list[Candidate]:
    found = []
    named = [(colour, None) for colour in COLOURS] + [(None, shape) for shape in SHAPES]
    for colour, shape in named:
        boxes = tuple(o.box for o in scene.objects if o.colour == colour or o.shape == shape)
        if len(boxes) <= 4:
            found.append(Candidate(str(len(boxes)), (Mention("items", colour, shape, None),), boxes))
    return found


def _relation(scene: Scene) -> list[Candidate]:
    found = []
    for i, a in enumerate(scene.objects):
        for j, b in enumerate(scene.objects):
            answer = clear_relation(a, b) if i != j else None
            if answer is not None:
                mentions = (_named("a", scene, i), _named("b", scene, j))
                found.append(Candidate(answer, mentions, (a.box, b.box)))
    return found


_CANDIDATES: dict[str, Callable[[Scene], list[Candidate]]] = {
    "colour": _colour,
    "shape": _shape,
    "existence": _existence,
    "count": _count,
    "relation": _relation,
    "position": _position,
    "digit": _digit,
}
