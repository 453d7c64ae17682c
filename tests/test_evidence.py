"""What was kept of each box asked about: against pixels counted one by one, through real methods and runs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from runs import run, write_rows
from test_metrics_fairness import cells_of, changed, made_up
from test_places import boxes, partitions
from test_prune_selection import MERGING, context, method
from torch import Tensor

from vlmbench.engine.sight import KEPT, Sight, recall
from vlmbench.engine.store import read_records
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.models.places_map import coverage
from vlmbench.schema import Record

Tiny = Callable[[str], Path]
SIDE = 112


@settings(max_examples=100, deadline=None)
@given(partitions(), st.lists(boxes(), min_size=1, max_size=3), st.data())
def test_recall_is_the_count_of_kept_pixels_of_each_box(
    cell: Tensor, drawn: list[list[int]], data: st.DataObject
) -> None:
    """Tokens of two sets of tiles and a newline; a share of exactly one half is not enough."""

    def mask(box: list[float]) -> np.ndarray[Any, Any]:
        found = np.zeros((24, 24), bool)
        x0, y0, x1, y1 = (min(max(int(v), 0), 24) for v in box)
        found[y0:y1, x0:x1] = True
        return found

    on_picture = [box for box in drawn if mask(box).any()]  # type: ignore[arg-type]
    whole = torch.tensor([[0.0, 0, 24, 24], [torch.nan] * 4])
    parts = [cell, whole]
    n = sum(map(len, parts))
    share = data.draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.51, 1.0]), min_size=n, max_size=n))
    wanted = []
    for box in on_picture:
        kept = total = 0
        for token, at in zip(share, torch.cat(parts).tolist(), strict=True):
            seen = 0 if np.isnan(at[0]) else int((mask(at) & mask(box)).sum())  # type: ignore[arg-type]
            total += seen
            kept += seen * (token > 0.5)
        wanted.append(kept / total)
    evidence = [coverage(part, on_picture, (24, 24)) for part in parts]
    assert recall(torch.tensor(share), evidence) == pytest.approx(wanted, abs=1e-6)


@pytest.fixture(scope="module")
def adapter(tiny_model: Tiny) -> Adapter:
    return Adapter(load_model(str(tiny_model("llava")), device="cpu"))


def test_only_boxes_that_some_token_sees_are_among_them(adapter: Adapter) -> None:
    """The processor crops 90 x 60 pixels to the 60 in the middle; boxes are of the first image."""
    images = [Image.new("RGB", (90, 60)), Image.new("RGB", (60, 60))]
    row = adapter.prepare(adapter.render("?", 2), images, 0)
    features = adapter.encode([row], frozenset()).features[0]
    pixels = SimpleNamespace(images=images, showing=None)

    def evidence(*told: tuple[int, int, int, int]) -> tuple[Tensor, ...] | None:
        prepared: Any = SimpleNamespace(boxes=told, pixels=pixels)
        return Sight(adapter).evidence(prepared, features)

    found = evidence((0, 0, 10, 60), (15, 0, 45, 60), (15, 0, 75, 60))
    assert found is not None
    first, second = found
    assert first.shape == second.shape == (first.shape[0], 2)
    assert first.sum(0).tolist() == pytest.approx([1, 1], abs=0.02)
    assert not second.any()
    left = features.images[0].grid[:, 2] < 3
    assert first[left, 0].sum() == pytest.approx(1, abs=0.03)
    assert first[left, 1].sum() == pytest.approx(0.5, abs=0.02)
    assert evidence((0, 0, 10, 60)) is None
    assert evidence() is None


@pytest.mark.parametrize("name", MERGING)
def test_a_merging_method_keeps_some_tokens_or_says_that_it_averages(name: str) -> None:
    ctx = context([(4, 6)])
    pruner = method(name, keep=6)
    weights = pruner.reduce(ctx, 6).weights[:, : ctx.n]
    assert pruner.averages != bool((weights > KEPT).any())


def test_what_is_kept_of_merged_tokens() -> None:
    """visionzip: the dominant tokens and the targets, not what joins them; pool's cells are plain means."""
    from test_prune_selection import visionzip_by_definition

    ctx = context([(4, 6)], extra=1)
    weights = method("visionzip", keep=8).reduce(ctx, 8).weights[:, : ctx.n]
    _, _, positions = visionzip_by_definition(ctx, 8)
    alone = (weights > 0).sum(1) == 2  # a target that one token joins is the sum of both
    joined = set((weights[alone] > 0).nonzero()[:, 1].tolist())
    kept = set((weights.amax(0) > KEPT).nonzero()[:, 0].tolist())
    assert kept == set(positions[1:]) | joined


@pytest.fixture(scope="module")
def records(
    tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, str, str], Record]:
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "0.png")
    corner, rest = [0, 0, 6, 6], [SIDE / 2, 0, SIDE, SIDE]
    rows = [
        {"id": name, "image": "0.png", "question": "what is it ?", "answer": "yes", "boxes": given}
        for name, given in (("two", [corner, rest]), ("turned", [rest, corner]), ("none", []))
    ]
    methods = "identity,blind,pool@0.5,oracle(keep=1),oracle(keep=2),oracle@0.5"
    run(
        tiny_model("llava"),
        write_rows(folder, rows),
        folder / "run",
        families="crop(n=8)",
        prune=methods,
        repeats=0,
    )
    return read_records(folder / "run")


def test_records_tell_of_each_box(records: Mapping[tuple[str, str, str], Record]) -> None:
    """Of two boxes, one is a corner within a token, the other half of the picture."""

    def told(condition: str, item: str = "two") -> tuple[float | None, float | None]:
        record = records["own", item, condition]
        return record.evidence, record.evidence_least

    assert told("identity") == (pytest.approx(1), pytest.approx(1))
    assert told("blind") == (0, 0)
    assert told("pool(ratio=0.5)") == (None, None)
    assert told("identity", "none") == (None, None)
    assert told("oracle(keep=1)") == (pytest.approx(0.5), 0)
    mean, least = told("oracle(keep=1)", "turned")
    assert mean is not None
    assert least == 0
    part = 2 * mean  # of the half of the picture, one token
    assert 0 < part < 0.2
    for item in ("two", "turned"):
        assert told("oracle(keep=2)", item) == (pytest.approx((1 + part) / 2), pytest.approx(part))
    # the crop takes the corner away: what is left is one box
    mean, least = told("crop(n=8)+oracle(keep=1)")
    assert mean == least
    assert mean is not None
    assert 0 < mean < 0.2
    assert told("crop(n=8)+identity") == (pytest.approx(1), pytest.approx(1))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_an_item_is_dropped_where_one_of_its_boxes_is(seed: int) -> None:
    """Means far above the bound change nothing; records of older versions have the mean alone."""
    result = made_up(seed)

    def with_boxes(record: Record, old: bool = False) -> Record:
        if record.evidence is None:
            return record
        drawn = np.random.default_rng([seed, zlib.crc32(record.item.encode())]).choice([0, 0.04, 0.06, 1], 3)
        least = None if old else float(drawn.min())
        return record.model_copy(update={"evidence": float(drawn.mean()), "evidence_least": least})

    for old in (False, True):
        for name, cell in cells_of(changed(result, lambda r, old=old: with_boxes(r, old))).items():
            if "evidence_dropped" not in cell.metrics:
                continue
            mine = [
                with_boxes(record, old)
                for (item, condition), record in result.records.items()
                if condition == name and record.evidence is not None and record.state.counts
            ]
            figures = [r.evidence if r.evidence_least is None else r.evidence_least for r in mine]
            dropped = [figure is not None and figure < 0.05 for figure in figures]
            assert cell.metrics["evidence_dropped"].value == pytest.approx(np.mean(dropped))
            recalls = [record.evidence for record in mine]
            assert cell.metrics["evidence_recall"].value == pytest.approx(np.mean(recalls))  # type: ignore[arg-type]
