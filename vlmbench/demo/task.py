"""The demo's rows: seven questions on each rendered scene. Ids are known without building a scene."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from vlmbench.demo.questions import KINDS, SceneQuestion, ask
from vlmbench.demo.scenes import SPLITS, STRATA, Scene, make_scene, render
from vlmbench.items import ImageSource
from vlmbench.seeds import digest
from vlmbench.tasks.loaders.base import row_source

if TYPE_CHECKING:
    from PIL import Image

_CHEAP = frozenset({"id", "category", "stratum", "cluster"})


@dataclass(frozen=True)
class SceneImage:
    """A scene's picture, drawn when it is loaded."""

    seed: int

    @property
    def key(self) -> str:
        return f"scene-{self.seed}"

    def load(self) -> Image.Image:
        """RGB, 432 x 432."""
        return render(make_scene(self.seed))


@row_source
def rows(n_scenes: int = 3000, split: str = "test") -> DemoRows:
    """`n_scenes` scenes of a split, one question of each kind.

    Raises:
        ValueError: unknown split, or a number of scenes that it does not have.
    """
    return DemoRows(n_scenes, split)


class DemoRows:
    """Rows of the demo. Every scene allows every kind of question, so row i is kind i % 7 of scene i // 7.

    Another collection of scenes derives from it and names its own.
    """

    name = "demo"
    splits: Mapping[str, range] = SPLITS
    slots: tuple[str, ...] = tuple(f"{kind}-0" for kind in KINDS)
    """Kind and number of each question on a scene."""
    columns = (
        "id", "question", "image", "answer", "category", "stratum", "cluster", "boxes", "phrasings",
    )  # fmt: skip

    def __init__(self, n_scenes: int, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(self.splits)}")
        if not isinstance(n_scenes, int) or not 1 <= n_scenes <= len(self.splits[split]):
            raise ValueError(f"n_scenes must be in [1, {len(self.splits[split])}]: got {n_scenes}")
        self.source = f"{self.name} {split} scenes"
        self._n_scenes, self._split = n_scenes, split

    def __len__(self) -> int:
        return self._n_scenes * len(self.slots)

    @cached_property
    def fingerprint(self) -> str:
        """Layout, questions and pixels of one scene per stratum: changes when the way of drawing changes."""
        probes = []
        for seed in self.splits[self._split][: len(STRATA)]:
            scene, questions = self.scene(seed)
            pixels = hashlib.sha256(render(scene).tobytes()).hexdigest()
            probes.append([repr(scene), [repr(question) for question in questions], pixels])
        return digest(self._n_scenes, self._split, probes, length=32)

    @cached_property
    def phrasing_names(self) -> tuple[str, ...]:
        """Phrasings belong to kinds and every scene asks every kind: one scene has them all."""
        _, questions = self.scene(self.splits[self._split][0])
        return tuple(dict.fromkeys(name for question in questions for name in question.phrasings))

    @property
    def prefix(self) -> str:
        """Of the scenes' names."""
        return self._split[0]

    def place(self, index: int) -> str:
        return f"{self.source}, row {index}"

    def read(
        self, columns: Sequence[str], indices: Sequence[int] | None = None
    ) -> Iterator[Mapping[str, Any]]:
        whole = not _CHEAP.issuperset(columns)
        for index in range(len(self)) if indices is None else indices:
            row = self._row(index) if whole else self._labels(index)
            yield {column: row[column] for column in columns}

    def images(self, index: int, columns: Sequence[str]) -> tuple[ImageSource, ...]:
        return (self.image(self._seed(index)),)

    def scene(self, seed: int) -> tuple[Scene, list[SceneQuestion]]:
        """With one question per slot, in their order."""
        return _scene(seed)

    def image(self, seed: int) -> ImageSource:
        return SceneImage(seed)

    def _seed(self, index: int) -> int:
        return self.splits[self._split][index // len(self.slots)]

    def _labels(self, index: int) -> dict[str, Any]:
        number, slot = divmod(index, len(self.slots))
        cluster = f"{self.prefix}{number:06d}"
        return {
            "id": f"{cluster}-{self.slots[slot]}",
            "category": self.slots[slot].rpartition("-")[0],
            "stratum": STRATA[self._seed(index) % len(STRATA)],
            "cluster": cluster,
        }

    def _row(self, index: int) -> dict[str, Any]:
        _, questions = self.scene(self._seed(index))
        asked = questions[index % len(self.slots)]
        return {
            **self._labels(index),
            "question": asked.question,
            "answer": asked.answer,
            "boxes": [list(box) for box in asked.boxes],
            "phrasings": asked.phrasings,
        }


@lru_cache(maxsize=4)
def _scene(seed: int) -> tuple[Scene, list[SceneQuestion]]:
    scene = make_scene(seed)
    questions = ask(scene, seed=0)
    assert tuple(question.kind for question in questions) == KINDS, f"scene {seed} lacks a kind of question"
    return scene, questions
