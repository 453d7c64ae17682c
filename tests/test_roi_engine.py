"""A second look through the engine answers as the same prompt made by hand does, plainly where there is no
region; a region is told on the unperturbed picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import picture, write_rows

from vlmbench.conditions import Condition
from vlmbench.engine.store import read_records
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.roi import RoiOptions, run
from vlmbench.experiments.session import Session
from vlmbench.experiments.tables import TaskPlan
from vlmbench.metrics.regions import iou
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.models.pruning import Applied
from vlmbench.perturb import get as get_perturbation
from vlmbench.perturb.back import pieces
from vlmbench.prune import PRUNERS
from vlmbench.registry import Entry
from vlmbench.roi import ROIS
from vlmbench.roi.base import TOKENS, Region, RoiMethod, Signals
from vlmbench.roi.crop import pixel_box
from vlmbench.schema import Record

Tiny = Callable[[str], Path]
FAMILIES = ("llava", "qwen2_5_vl", "llava_next", "internvl")
SIZE = (64, 64)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Three pictures; the last question has no box."""
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(3):
        picture(i, SIZE).save(tmp_path / "images" / f"{i}.png")
        row = {"id": f"i{i}", "image": f"{i}.png", "question": "what is it ?", "answer": "cat"}
        rows.append(row | ({"box": [8, 8, 40, 40]} if i < 2 else {}))
    return write_rows(tmp_path, rows)


def looked(model: Path, task: Path, out: Path, methods: str, batch_size: int = 4) -> Mapping[Any, Record]:
    options = RunOptions(str(model), str(task), out=out, batch_size=batch_size, show_progress=False)
    run(options, RoiOptions(methods))
    return {(item, condition): r for (_, item, condition), r in read_records(out).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_region_the_answer_is_the_plain_one(
    family: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    found = looked(
        tiny_model(family), task, tmp_path / "run", "oracle,rel-attn,duplicate,replace(method=oracle)"
    )
    plain = found["i2", "clean"]
    for method in ("oracle", "replace(method=oracle)"):
        record = found["i2", method]
        assert record.roi is not None
        assert (record.roi.box, record.raw, record.visual_tokens) == (None, plain.raw, plain.visual_tokens)
        assert record.prob == pytest.approx(plain.prob, abs=1e-5)
    for i in range(2):
        region = found[f"i{i}", "oracle"].roi
        assert region is not None
        assert region.recall == pytest.approx(1)
        assert region.iou is not None
        assert 0.3 < region.iou < 1  # it has a margin
        more = found[f"i{i}", "oracle"].visual_tokens, found[f"i{i}", "clean"].visual_tokens
        assert (more[0] or 0) > (more[1] or 0)
    attended = found["i0", "rel-attn"].roi
    assert attended is not None
    assert attended.auroc is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_region_is_a_second_image(family: str, tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    """`duplicate` and `center` answer as the prompt with two images that is made by hand."""
    model = tiny_model(family)
    methods = "duplicate(give=image),center(share=0.3),replace(method=center(share=0.3))"
    found = looked(model, task, tmp_path / "run", methods)
    single = looked(model, task, tmp_path / "single", methods, batch_size=1)
    assert {k: (r.state, r.raw, r.roi) for k, r in found.items()} == {
        k: (r.state, r.raw, r.roi) for k, r in single.items()
    }
    adapter = Adapter(load_model(str(model), device="cpu"))
    seen = picture(0, SIZE).convert("RGB")
    for condition, keeps in (("center(share=0.3)", True), ("replace(method=center(share=0.3))", False)):
        record = found["i0", condition]
        assert record.roi is not None
        assert record.roi.box is not None
        crop = seen.crop(pixel_box(record.roi.box, SIZE))
        if family == "qwen2_5_vl":
            wide, tall = adapter.native_resolution(SIZE).size
            scale = (wide * tall / (crop.width * crop.height)) ** 0.5
            crop = crop.resize((round(crop.width * scale), round(crop.height * scale)), 3)
        images = [seen, crop] if keeps else [crop]
        row = adapter.prepare(adapter.render("what is it ?", len(images)), images, 3)
        encoded = adapter.encode([row], frozenset())
        (answer,) = adapter.answer([row], encoded, Applied((encoded.features[0],)), 3)
        assert (record.raw, record.visual_tokens) == (answer.text, row.visual_tokens)
        assert record.prob == pytest.approx(answer.prob, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["shift", "pad", "crop", "scale_pad"]),
    amount=st.integers(1, 20),
    corner=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
)
def test_boxes_go_back_where_they_came_from(
    name: str, amount: int, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Against a look at every pixel of the old picture."""
    parameters = {
        "shift": {"dx": amount, "dy": -2 * amount},
        "pad": {"n": amount},
        "crop": {"n": min(amount, 9)},
        "scale_pad": {"factor": 0.8},
    }[name]
    image = picture(1, (64, 48)).convert("RGB")
    after, transform = get_perturbation(name)(image, **parameters)
    box = (
        corner[0],
        corner[1],
        min(corner[0] + size[0], after.width),
        min(corner[1] + size[1], after.height),
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        return
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    moved = transform.points(np.stack([x.ravel(), y.ravel()], axis=1))
    with np.errstate(invalid="ignore"):
        inside = (moved >= box[:2]).all(1) & (moved < box[2:]).all(1)
    told = np.zeros(48 * 64, dtype=bool)
    for left, top, right, bottom in pieces(transform, box):
        told |= ((x >= left) & (x < right) & (y >= top) & (y < bottom)).ravel()
    assert (told == inside).all()


def test_overlap_of_boxes_is_that_of_their_pixels() -> None:
    assert iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)


@dataclass(frozen=True, kw_only=True)
class Corners(RoiMethod):
    """Two cells, one at each end of a diagonal: the box around them holds cells that are not the region."""

    own: ClassVar[str] = TOKENS

    def region(self, signals: Signals) -> Region | None:
        mask = torch.zeros(signals.grid, dtype=torch.bool)
        mask[0, 0] = mask[-1, -1] = True
        width, height = signals.size
        return Region((0.0, 0.0, float(width), float(height)), mask)


@pytest.fixture
def corners() -> Iterator[str]:
    ROIS.add(Entry("corners", Corners, "for a test"))
    yield "corners"
    del ROIS._entries["corners"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_region_told_token_by_token_gives_only_its_tokens(
    family: str, corners: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    """Of the whole picture shown again, those in the corners; a pruner counts its budget over these alone."""
    model = tiny_model(family)
    out = tmp_path / "run"
    options = RunOptions(str(model), str(task), out=out, limit=1, batch_size=2, show_progress=False)
    session = Session(options, "roi")
    roi, prune = ROIS.get(corners).part(), PRUNERS.get("divprune").part(ratio=0.5)
    asked = [Condition(), Condition(roi=roi), Condition(roi=roi, prune=prune), Condition(prune=prune)]
    plan = [
        Variation(c, "roi" if c.roi else "clean", "", "", "clean" if c != asked[0] else None) for c in asked
    ]
    ((chosen, items, limit),) = session.chosen
    session.run([TaskPlan(chosen, items, limit, plan)])
    plain, again, pruned, once = (
        next(r for (_, _, name), r in read_records(out).items() if name == c.id) for c in asked
    )
    assert [r.detail for r in (plain, again, pruned, once)] == [""] * 4
    whole = plain.visual_tokens or 0
    assert again.layer_tokens is not None
    shown = again.layer_tokens[0] - whole
    assert 0 < shown < (again.visual_tokens or 0) - whole
    assert pruned.layer_tokens is not None
    assert pruned.layer_tokens[0] == pytest.approx((whole + shown) / 2, abs=1)
    # boxes are of the picture alone, and the region shows them again
    assert (once.evidence is None, pruned.evidence) == (False, None)


def test_a_crop_that_the_processor_refuses(tiny_model: Tiny, tmp_path: Path) -> None:
    """A line of text may be thinner than a family takes: no fault of the item, nor of its neighbours."""
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for i, box in enumerate(([20, 30, 620, 31], [20, 20, 60, 60])):
        picture(i, (640, 64)).save(tmp_path / "images" / f"{i}.png")
        rows.append({"id": f"i{i}", "image": f"{i}.png", "question": "what ?", "answer": "cat", "box": box})
    task = write_rows(tmp_path, rows)
    found = looked(tiny_model("qwen2_5_vl"), task, tmp_path / "run", "oracle(margin=0)")
    thin, fine = (found[f"i{i}", "oracle(margin=0)"] for i in range(2))
    assert thin.state == "NOT_APPLICABLE"
    assert thin.detail is not None
    assert thin.detail.startswith("the region cannot be given back: the processor refused the input: abs")
    assert fine.roi is not None
    assert fine.roi.recall == 1
    alone = looked(tiny_model("qwen2_5_vl"), task, tmp_path / "alone", "oracle(margin=0)", batch_size=1)
    assert (fine.raw, thin.state) == (alone["i1", fine.condition].raw, alone["i0", thin.condition].state)


def test_a_network_that_is_not_there_is_told(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sd-rpn needs a region proposal network of "):
        looked(tiny_model("llava"), task, tmp_path / "run", "sd-rpn,center")
