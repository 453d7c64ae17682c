"""The demo's large canvas: small objects whose digits are lost where the whole picture is made to fit.

A canvas is twice a master's side, six times that of the demo model's input. Its objects are painted as those
of a master are, with as much clutter per area; on the whole picture as the model sees it, their colour and
place can mostly be told and their digit cannot, while the canvas itself holds it in full detail. So a second
look pays where it shows the right region, and hardly anywhere else.

Only questions about ONE object are asked, two of its digit and one each of shape and colour: what a crop can
answer. A count, a relation and a position need the whole picture, which a crop leaves as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vlmbench.demo.questions import SceneQuestion, ask
from vlmbench.demo.scenes import SIZE, STRATA, Scene, SceneObject, draw_looks, free_place, put, render, stream
from vlmbench.demo.task import DemoRows
from vlmbench.tasks.loaders.base import row_source

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vlmbench.items import ImageSource

TIMES = 2
"""Sides of a master in that of a canvas."""
CANVAS_SIZE = TIMES * SIZE
"""Side of a canvas in pixels: 864."""
CANVAS_SPLITS = {
    "train": range(20_000_000, 30_000_000),
    "calibration": range(30_000_000, 35_000_000),
    "test": range(35_000_000, 36_000_000),
}
"""Seed ranges, disjoint from each other and from those of the masters. Sizes were chosen on calibration."""
RADII = (27, 30, 33, 36)
"""In pixels of the canvas: 4.5 to 6 of the demo model's, where it knows most objects' place and few digits,
bitmaps of seven rows that have 5 to 6 pixels there. Smaller ones it does not find, larger ones it reads."""

_FEWEST, _MOST = 3, 6
_ASKED = {"digit": 2, "shape": 1, "colour": 1}


@dataclass(frozen=True)
class CanvasImage:
    """A canvas, drawn when it is loaded."""

    seed: int

    @property
    def key(self) -> str:
        return f"canvas-{self.seed}"

    def load(self) -> Image.Image:
        """RGB, 864 x 864."""
        return _drawn(self.seed).copy()


@row_source
def rows(n_scenes: int = 3000, split: str = "test") -> CanvasRows:
    """`n_scenes` canvases of a split, four questions on each.

    Raises:
        ValueError: unknown split, or a number of scenes that it does not have.
    """
    return CanvasRows(n_scenes, split)


class CanvasRows(DemoRows):
    """Row i is question i % 4 of canvas i // 4."""

    name = "demo canvas"
    splits: Mapping[str, range] = CANVAS_SPLITS
    slots = tuple(f"{kind}-{number}" for kind, count in _ASKED.items() for number in range(count))

    @property
    def prefix(self) -> str:
        return f"canvas-{self._split}-"

    def scene(self, seed: int) -> tuple[Scene, list[SceneQuestion]]:
        return _scene(seed)

    def image(self, seed: int) -> ImageSource:
        return CanvasImage(seed)


def make_canvas(seed: int) -> Scene:
    """Lay out the canvas of a seed: three to six objects, no two alike, at most one per cell of a 3 x 3 grid,
    at least two with a digit; one shape and one colour occur once.

    Raises:
        ValueError: the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"a scene's seed must not be negative: got {seed}")
    random = stream(seed, "canvas layout")
    while True:
        objects = _layout(random)
        if objects is not None and _askable(objects):
            return Scene(seed, STRATA[seed % len(STRATA)], objects, CANVAS_SIZE)


def _layout(random: np.random.RandomState) -> tuple[SceneObject, ...] | None:
    """One attempt; None when an object finds no free place."""
    count = int(random.randint(_FEWEST, _MOST + 1))
    looks = draw_looks(random, count)
    cells = random.permutation(9)[:count]
    digits = random.randint(0, 10, count)
    shown = random.randint(0, 4, count) > 0
    shown[: _ASKED["digit"]] = True
    objects: list[SceneObject] = []
    for i, (colour, shape) in enumerate(looks):
        radius = RADII[int(random.randint(len(RADII)))]
        angle = int(random.randint(-15, 16))
        centre = free_place(random, int(cells[i]), radius, objects, TIMES)
        if centre is None:
            return None
        objects.append(put(shape, colour, int(digits[i]) if shown[i] else None, centre, radius, angle))
    return tuple(objects)


def _askable(objects: tuple[SceneObject, ...]) -> bool:
    shapes, colours = [o.shape for o in objects], [o.colour for o in objects]
    return any(shapes.count(s) == 1 for s in shapes) and any(colours.count(c) == 1 for c in colours)


@lru_cache(maxsize=16)
def _drawn(seed: int) -> Image.Image:
    """Drawing takes as long as an answer, and every question and method asks for the picture again."""
    return render(make_canvas(seed))


@lru_cache(maxsize=4)
def _scene(seed: int) -> tuple[Scene, list[SceneQuestion]]:
    scene = make_canvas(seed)
    found = ask(scene, 0, max(_ASKED.values()), tuple(_ASKED))
    questions = [
        question
        for kind, count in _ASKED.items()
        for question in [each for each in found if each.kind == kind][:count]
    ]
    return scene, questions
