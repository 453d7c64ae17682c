"""The demo's large canvas: same bytes everywhere, true boxes and answers, seeds of its own, and a picture on
which the right region pays and no other does."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vlmbench.demo import canvas
from vlmbench.demo.canvas import CANVAS_SIZE, CANVAS_SPLITS, RADII, make_canvas, rows
from vlmbench.demo.painting import paint
from vlmbench.demo.questions import CHOICES, ask
from vlmbench.demo.scenes import SIZE, SPLITS, STRATA, render, stream
from vlmbench.demo.task import rows as master_rows
from vlmbench.errors import UsageError
from vlmbench.tasks.load import Task, load_task, packaged_files

HASHES = {
    30_000_000: "ec900087d11a2721aeb2fa61e55f91617bdf0298172352bdd58f8c98a47b3d3f",
    35_000_000: "903152f7d5ec9f07e26c8abb7b3ebbef1254096230d3d87cdc2e85eee9061f70",
    35_000_002: "fbf0f28edf27741fa69f8efc74ca713601b625b9015637f522dc4f4452b53c87",
}
SEEDS = CANVAS_SPLITS["test"][:60]


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("demo-canvas")


@pytest.mark.parametrize(("seed", "expected"), HASHES.items())
def test_a_seed_gives_the_same_bytes_on_every_machine(seed: int, expected: str) -> None:
    image = render(make_canvas(seed))
    assert (image.mode, image.size) == ("RGB", (864, 864))
    assert hashlib.sha256(image.tobytes()).hexdigest() == expected


def test_no_seed_is_shared_with_another_split_or_with_the_masters() -> None:
    ranges = [*SPLITS.values(), *CANVAS_SPLITS.values()]
    for a, b in itertools.combinations(ranges, 2):
        assert a.stop <= b.start or b.stop <= a.start
    assert CANVAS_SPLITS.keys() == SPLITS.keys()
    keys = {image.key for some in (rows(9), master_rows(9)) for image in some.images(0, [])}
    assert len(keys) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_lie_inside_apart_and_are_told_apart(seed: int) -> None:
    scene = make_canvas(seed)
    objects = scene.objects
    assert scene.stratum == STRATA[seed % 3]
    assert 3 <= len(objects) <= 6
    assert len({(o.colour, o.shape) for o in objects}) == len(objects)
    assert len({(o.centre[0] // 288, o.centre[1] // 288) for o in objects}) == len(objects)
    for o in objects:
        x0, y0, x1, y1 = o.box
        assert 0 <= x0 < o.centre[0] < x1 <= CANVAS_SIZE
        assert 0 <= y0 < o.centre[1] < y1 <= CANVAS_SIZE
        assert o.radius in RADII
    for a, b in itertools.combinations(objects, 2):
        distance = np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1])
        assert distance > a.radius + b.radius


@pytest.mark.parametrize("stratum", STRATA)
def test_boxes_hold_all_that_is_painted_of_an_object(stratum: str) -> None:
    """Two pictures that differ in one object's colour alone differ within its box alone, and up to its
    edges."""
    for seed in [seed for seed in SEEDS[:12] if make_canvas(seed).stratum == stratum]:
        objects = [
            (o.shape, o.colour, o.digit, (int(o.centre[0]), int(o.centre[1])), int(o.radius), int(o.angle))
            for o in make_canvas(seed).objects
        ]
        shape, colour, *rest = objects[0]
        other = [(shape, "green" if colour != "green" else "red", *rest), *objects[1:]]
        one, two = (
            np.asarray(paint(each, stratum, CANVAS_SIZE, stream(seed, "pixels"), 4)).astype(int)
            for each in (objects, other)
        )
        ys, xs = np.nonzero((one != two).any(2))
        box = make_canvas(seed).objects[0].box
        assert np.abs(np.subtract(box, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))).max() <= 2


@pytest.mark.parametrize("stratum", ["clutter", "distractors"])
def test_a_canvas_is_as_cluttered_as_a_master(stratum: str) -> None:
    """The share of a picture that what is behind the shapes covers, against the bare background."""

    def share(size: int, density: int) -> float:
        covered = []
        for seed in range(4):
            bare, full = (
                np.asarray(paint([], kind, size, stream(seed, "pixels"), density)).astype(int)
                for kind in ("bland", stratum)
            )
            covered.append((np.abs(full - bare).max(2) > 13).mean())  # the grain differs by at most 11
        return float(np.mean(covered))

    assert share(CANVAS_SIZE, 4) == pytest.approx(share(SIZE, 1), rel=0.2)
    assert share(CANVAS_SIZE, 1) < 0.4 * share(SIZE, 1)


@pytest.mark.parametrize("number", range(40))
def test_questions_are_true_and_have_the_box_of_their_one_object(number: int) -> None:
    """From the layout again, by another way than the questions take."""
    objects = make_canvas(CANVAS_SPLITS["test"][number]).objects
    found = rows(40)
    asked = [
        *found.read(("id", "category", "question", "answer", "boxes"), range(4 * number, 4 * number + 4))
    ]
    assert [row["id"] for row in asked] == [
        f"canvas-test-{number:06d}-{slot}" for slot in ("digit-0", "digit-1", "shape-0", "colour-0")
    ]
    assert len({row["question"] for row in asked}) == 4
    for row in asked:
        words = row["question"].split()
        named = [o for o in objects if {o.colour, o.shape} & {*words}]
        if row["category"] == "digit":
            named = [o for o in objects if {o.colour, o.shape} <= {*words}]
        (o,) = named
        assert row["boxes"] == [list(o.box)]
        assert row["answer"] == str(getattr(o, row["category"]))


def test_answers_are_balanced() -> None:
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in ("digit", "shape", "colour")}
    for row in rows(400, "calibration").read(("category", "answer")):
        answers[row["category"]][row["answer"]] += 1
    assert answers["digit"].total() == 2 * answers["shape"].total() == 2 * answers["colour"].total()
    for kind, counts in answers.items():
        assert set(counts) == set(CHOICES[kind])
        assert max(counts.values()) / counts.total() < 1.5 / len(CHOICES[kind])


def test_a_position_is_a_cell_of_the_canvas_itself() -> None:
    for seed in SEEDS[:20]:
        scene = make_canvas(seed)
        (question,) = ask(scene, 0, kinds=("position",))
        left, top, right, bottom = question.boxes[0]
        x, y = ((left + right) / 2, (top + bottom) / 2)
        word = {0: "left", 1: "", 2: "right"}[int(x // 288)], {0: "top", 1: "", 2: "bottom"}[int(y // 288)]
        assert question.answer == ("-".join(part for part in word[::-1] if part) or "centre")


def test_the_task_draws_whole_canvases_of_all_strata(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "demo-canvas" in packaged_files()
    assert task.n_total == 12_000
    built = []
    canvas._scene.cache_clear()
    monkeypatch.setattr(canvas, "make_canvas", lambda seed: built.append(seed) or make_canvas(seed))
    items = task.items(limit=24, seed=3)
    assert len(built) == 6, "no more canvases than are asked about"
    assert set(Counter(item.cluster for item in items).values()) == {4}
    assert Counter(item.stratum for item in items) == dict.fromkeys(STRATA, 8)
    assert len({(item.cluster, image.key) for item in items for image in item.images}) == 6
    assert not items[0].force_answer_language
    assert set(items[0].phrasings) <= set(task.phrasing_names)
    last = items[-1]
    seed = CANVAS_SPLITS["test"][int(last.cluster.rpartition("-")[2])]
    assert last.images[0].load().tobytes() == render(make_canvas(seed)).tobytes()


def test_the_fingerprint_tells_splits_and_drawings_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(9).fingerprint
    assert before == rows(9).fingerprint != rows(9, "train").fingerprint
    assert before not in (rows(8).fingerprint, master_rows(9).fingerprint)
    monkeypatch.setattr(canvas, "RADII", (28, 31))
    canvas._scene.cache_clear()
    assert rows(9).fingerprint != before
    canvas._scene.cache_clear()


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be negative: got -1"):
        make_canvas(-1)
    text = packaged_files()["demo-canvas"].read_text()
    for old, new, said in (
        ("split: test", "split: tset", "unknown split 'tset': choose one of train, calibration, test"),
        ("n_scenes: 3000", "n_scenes: 0", "n_scenes must be in [1, 1000000]: got 0"),
    ):
        path = tmp_path / "wrong.yaml"
        path.write_text(text.replace(old, new))
        with pytest.raises(UsageError) as caught:
            load_task(str(path))
        assert said in str(caught.value)


def test_the_right_region_pays_and_another_does_not(tmp_path: Path) -> None:
    """On the demo model itself, 30 digits."""
    from vlmbench.engine.store import read_records
    from vlmbench.experiments.options import RunOptions, TimingPlan
    from vlmbench.experiments.roi import RoiOptions, run

    options = RunOptions(tasks="demo-canvas", limit=60, out=tmp_path / "run", show_progress=False)
    run(options, RoiOptions("oracle,duplicate", timing=TimingPlan(repeats=0)))
    scores: dict[str, list[float]] = {}
    for (_, item, condition), record in read_records(options.out).items():
        if "-digit-" in item:
            scores.setdefault(condition, []).append(record.score)
    mean = {condition: float(np.mean(each)) for condition, each in scores.items()}
    assert {len(each) for each in scores.values()} == {30}
    assert mean["oracle"] > 0.9
    assert mean["clean"] < 0.4
    assert abs(mean["duplicate"] - mean["clean"]) < 0.1
