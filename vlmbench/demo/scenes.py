"""Procedural scenes of the demo task: coloured shapes with digits on three kinds of background.

A scene is drawn at run time from its seed alone. The layout (`make_scene`) is pure data; the picture
(`render`) is a 432 x 432 RGB master, three times the side the demo model sees, so that a crop has more
detail to give. numpy's `RandomState` is a frozen stream and the drawing is integer arithmetic, so a seed
gives the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vlmbench.demo.glyphs import OUTLINES, REACH, UNIT, place
from vlmbench.demo.painting import paint

Box = tuple[float, float, float, float]

SIZE = 432
"""Side of a master in pixels."""
CELL = SIZE // 3
"""Side of one of the nine cells that the position questions name."""
STRATA = ("bland", "clutter", "distractors")
SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SPLITS = {
    "train": range(0, 10_000_000),
    "calibration": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
}
"""Disjoint seed ranges: nothing is trained or tuned on a scene that is tested."""

# Geometric steps as constants: exp() may differ in its last bit between machines.
_SMALL: tuple[int, ...] = (
    18,
    19,
    21,
    23,
    25,
    27,
    29,
    31,
)  # a digit this small is hard to read without zooming
_RADII: tuple[int, ...] = (33, 35, 37, 39, 41, 44, 47, 50, 53, 56, 60, 64, 68, 72)
_CROWDED = 5  # from this many objects on, the largest radii no longer fit
_CELL_MARGIN = 15  # a centre stays this far from the lines between cells: 5 pixels of the model
_EDGE = 3
_GAP = 8


@dataclass(frozen=True)
class SceneObject:
    """One shape. Lengths in pixels of the master, angle in degrees clockwise."""

    shape: str
    colour: str
    digit: int | None
    centre: tuple[float, float]
    radius: float
    angle: float
    box: Box
    """x0, y0, x1, y1 around the drawn outline."""


@dataclass(frozen=True)
class Scene:
    """The layout of a scene: everything that is asked about."""

    seed: int
    stratum: str
    objects: tuple[SceneObject, ...]
    size: int


def stream(seed: int, purpose: str) -> np.random.RandomState:
    """A random stream of its own for each purpose, so that no part's draws move another's."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


def clear_relation(of: SceneObject, to: SceneObject) -> str | None:
    """Where `of` lies as seen from `to`: left, right, above, below; None where that could be argued about."""
    dx, dy = of.centre[0] - to.centre[0], of.centre[1] - to.centre[1]
    if max(abs(dx), abs(dy)) < 60 or 2 * min(abs(dx), abs(dy)) > max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def make_scene(seed: int, stratum: str | None = None) -> Scene:
    """Lay out the scene of a seed.

    Two to six objects, no two alike, at most one per cell of a 3 x 3 grid. Every layout allows every kind
    of question: one shape and one colour occur once, one object carries a digit, one pair is clearly
    beside or above each other.

    Raises:
        ValueError: the stratum is unknown or the seed negative.
    """
    if stratum is None:
        stratum = STRATA[seed % len(STRATA)]
    if stratum not in STRATA:
        raise ValueError(f"unknown stratum {stratum!r}: choose one of {', '.join(STRATA)}")
    if seed < 0:
        raise ValueError(f"a scene's seed must not be negative: got {seed}")
    random = stream(seed, "layout")
    while True:
        objects = _layout(random)
        if objects is not None and _askable(objects):
            return Scene(seed, stratum, objects, SIZE)


def render(scene: Scene) -> Image.Image:
    """Draw the RGB picture of a scene, `scene.size` pixels square, a multiple of a master's side."""
    shapes = [
        (o.shape, o.colour, o.digit, (int(o.centre[0]), int(o.centre[1])), int(o.radius), int(o.angle))
        for o in scene.objects
    ]
    # as much of what is behind the shapes, per area, on a larger canvas
    density = (scene.size // SIZE) ** 2
    return paint(shapes, scene.stratum, scene.size, stream(scene.seed, "pixels"), density)


def _layout(random: np.random.RandomState) -> tuple[SceneObject, ...] | None:
    """One attempt; None when an object finds no free place."""
    count = int(random.randint(2, 7))
    looks = draw_looks(random, count)
    cells = random.permutation(9)[:count]
    digits = random.randint(0, 10, count)
    digits_shown = random.randint(0, 4, count) > 0
    digits_shown[0] = True
    objects: list[SceneObject] = []
    for (colour, shape), cell, digit, shown in zip(looks, cells, digits, digits_shown, strict=True):
        radii = _RADII[:-3] if count >= _CROWDED else _RADII
        if random.randint(20) < 7:
            radii = _SMALL
        radius = radii[int(random.randint(len(radii)))]
        angle = int(random.randint(-15, 16))
        centre = free_place(random, int(cell), radius, objects)
        if centre is None:
            return None
        objects.append(put(shape, colour, int(digit) if shown else None, centre, radius, angle))
    return tuple(objects)


def put(
    shape: str, colour: str, digit: int | None, centre: tuple[int, int], radius: int, angle: int
) -> SceneObject:
    """The object with the box around its outline."""
    corners = place(OUTLINES[shape], radius, angle)
    xs, ys = [centre[0] + x for x, _ in corners], [centre[1] + y for _, y in corners]
    box = (float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))
    at = (float(centre[0]), float(centre[1]))
    return SceneObject(shape, colour, digit, at, float(radius), float(angle), box)


def draw_looks(random: np.random.RandomState, count: int) -> list[tuple[str, str]]:
    """Distinct (colour, shape) pairs; often one shape or colour repeats, so that counts differ from one."""
    theme = int(random.randint(3))
    main_shape, main_colour = int(random.randint(len(SHAPES))), int(random.randint(len(COLOURS)))
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        shape, colour = int(random.randint(len(SHAPES))), int(random.randint(len(COLOURS)))
        repeats = int(random.randint(3)) > 0
        if theme == 1 and repeats:
            shape = main_shape
        if theme == 2 and repeats:
            colour = main_colour
        look = (COLOURS[colour], SHAPES[shape])
        if look not in looks:
            looks.append(look)
    return looks


def free_place(
    random: np.random.RandomState, cell: int, radius: int, placed: Sequence[SceneObject], times: int = 1
) -> tuple[int, int] | None:
    """A centre in `cell`, 0 to 8, for an outline of this radius, apart from what is `placed`, on a canvas of
    `times` the side of a master; None where a dozen draws found none."""
    side, margin, edge = times * CELL, times * _CELL_MARGIN, times * _EDGE
    reach = radius * REACH // UNIT + 1
    row, column = divmod(cell, 3)
    for _ in range(12):
        x, y = (
            int(random.randint(max(k * side + margin, reach + edge),
                               min((k + 1) * side - margin, 3 * side - reach - edge)))
            for k in (column, row)
        )  # fmt: skip
        if all(_apart(x, y, reach, other, times * _GAP) for other in placed):
            return x, y
    return None


def _apart(x: int, y: int, reach: int, other: SceneObject, gap: int) -> bool:
    dx, dy = x - int(other.centre[0]), y - int(other.centre[1])
    needed = reach + int(other.radius) * REACH // UNIT + gap
    return dx * dx + dy * dy >= needed * needed


def _askable(objects: tuple[SceneObject, ...]) -> bool:
    shapes, colours = [o.shape for o in objects], [o.colour for o in objects]
    return (
        any(shapes.count(s) == 1 for s in shapes)
        and any(colours.count(c) == 1 for c in colours)
        and any(clear_relation(a, b) for a in objects for b in objects if a is not b)
    )
