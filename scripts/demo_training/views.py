"""Training views: what the model sees of a master (the whole or a crop), with what lies where.

`python -m demo_training.views --out DIR --chunks N` (or `train_demo.py`, which starts it) renders chunks of
masters beside the training, so that no training step ever waits for Pillow.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vlmbench.demo.glyphs import DIGIT_COLUMNS, DIGIT_ROWS, DIGITS, OUTLINES, place
from vlmbench.demo.scenes import COLOURS, SHAPES, SIZE, Scene, make_scene, render, stream

SIDE = 144
"""Side of the model's input in pixels."""
MAX_OBJECTS = 6
CHUNK = 1000
"""Masters per file; each gives two views."""
Rect = tuple[int, int, int, int]
WHOLE: Rect = (0, 0, SIZE, SIZE)

_BITMAPS = [
    Image.fromarray(np.array([[255 * int(bit) for bit in row] for row in digit.split()], np.uint8))
    for digit in DIGITS
]


@dataclass(frozen=True)
class View:
    """One input picture and its truth.

    image: uint8 [SIDE, SIDE, 3]. objects: float32 [MAX_OBJECTS, 6], per row centre x and y, radius (pixels
    of the view), colour, shape, digit (-1 none); an absent object has radius 0. masks: packed bits of
    [2, SIDE/2, SIDE/2], where any shape is and where any digit's ink is.
    """

    image: NDArray[np.uint8]
    objects: NDArray[np.float32]
    masks: NDArray[np.uint8]


def sample_crop(scene: Scene, random: np.random.RandomState) -> Rect:
    """A crop of the master: around one object (two of three) or anywhere, objects at 10-60 model pixels."""
    if random.randint(3):
        target = scene.objects[random.randint(len(scene.objects))]
        side = max(target.box[2] - target.box[0], target.box[3] - target.box[1]) * random.uniform(1.15, 3.6)
        width, height = (side * random.uniform(0.85, 1.18) for _ in range(2))
        x, y = (c + random.uniform(-0.3, 0.3) * max(side - 2 * target.radius, 0) for c in target.centre)
    else:
        width = height = random.uniform(150, 400)
        x, y = random.uniform(0, SIZE, 2)
    width, height = min(int(width), SIZE), min(int(height), SIZE)
    left = int(np.clip(x - width / 2, 0, SIZE - width))
    top = int(np.clip(y - height / 2, 0, SIZE - height))
    return left, top, left + width, top + height


def make_view(scene: Scene, master: Image.Image, rect: Rect) -> View:
    """Cut `rect` out of the master and stretch it to the model's input, as the processor does."""
    left, top, right, bottom = rect
    sx, sy = SIDE / (right - left), SIDE / (bottom - top)
    image = master if rect == WHOLE else master.crop(rect)
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    objects = np.full((MAX_OBJECTS, 6), -1, np.float32)
    objects[:, 2] = 0
    solid, ink = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(solid)
    for row, o in enumerate(scene.objects):
        x, y = (o.centre[0] - left) * sx, (o.centre[1] - top) * sy
        digit = -1 if o.digit is None else o.digit
        radius = o.radius * (sx + sy) / 2
        objects[row] = (x, y, radius, COLOURS.index(o.colour), SHAPES.index(o.shape), digit)
        corners = place(OUTLINES[o.shape], int(o.radius), int(o.angle), 16)
        draw.polygon([(x + cx * sx / 16, y + cy * sy / 16) for cx, cy in corners], fill=255)
        if digit >= 0:
            height = o.radius * 1.05
            w, h = max(1, round(height * DIGIT_COLUMNS / DIGIT_ROWS * sx)), max(1, round(height * sy))
            glyph = _BITMAPS[digit].resize((w, h), Image.Resampling.BOX)
            ink.paste(glyph, (round(x - w / 2), round(y - h / 2)))
    bits = np.stack([np.asarray(m.reduce(2)) > 127 for m in (solid, ink)])
    return View(np.asarray(small), objects, np.packbits(bits))


def unpack_masks(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[n, bytes] -> 0/1 [n, 2, SIDE/2, SIDE/2]"""
    return np.unpackbits(packed, axis=1).reshape(len(packed), 2, SIDE // 2, SIDE // 2)


def write_chunk(folder: Path, chunk: int, first_seed: int) -> None:
    """Render CHUNK masters as two views each (whole, one crop) into `folder`/chunk-NNNN-*.npy."""
    images = np.empty((CHUNK, 2, SIDE, SIDE, 3), np.uint8)
    objects = np.empty((CHUNK, 2, MAX_OBJECTS, 6), np.float32)
    masks = np.empty((CHUNK, 2, 2 * (SIDE // 2) ** 2 // 8), np.uint8)
    for row in range(CHUNK):
        scene = make_scene(first_seed + chunk * CHUNK + row)
        master = render(scene)
        rects = (WHOLE, sample_crop(scene, stream(scene.seed, "training crop")))
        for column, rect in enumerate(rects):
            view = make_view(scene, master, rect)
            images[row, column], objects[row, column], masks[row, column] = (
                view.image,
                view.objects,
                view.masks,
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images", images), ("objects", objects), ("masks", masks)):
        partial = folder / f"partial-{name}.npy"
        np.save(partial, array)
        partial.replace(folder / f"chunk-{chunk:04d}-{name}.npy")
    # Written last: a chunk without this file is not finished.
    (folder / f"chunk-{chunk:04d}.json").write_text(json.dumps({"first_seed": first_seed + chunk * CHUNK}))


def finished_chunks(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("chunk-????.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    done = finished_chunks(arguments.out) if arguments.out.exists() else []
    for chunk in range(arguments.chunks):
        if chunk not in done:
            start = time.monotonic()
            write_chunk(arguments.out, chunk, arguments.first_seed)
            print(f"chunk {chunk}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
