"""Every method on every family through the checks that `vlmbench check` makes of a user's model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_clip_text import save_clip
from tiny_models import FAMILIES

from vlmbench.conditions import Condition
from vlmbench.engine.checks import (
    BATCH,
    CHECKS,
    MASKING,
    RESTORE,
    SELECTION,
    Check,
    batch_equals_single,
    check,
)
from vlmbench.engine.checks_run import Bench, Method, Sample
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Preparer, Settled
from vlmbench.experiments.prune import part_of
from vlmbench.items import Item
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import VisualInput
from vlmbench.models.loading import load_model
from vlmbench.prune import PRUNERS

Tiny = Callable[[str], Path]
Load = Callable[[str], Bench]

NEW = 2
RATIOS = (0.5,)
METHODS = tuple(entry.name for entry in PRUNERS)
NATIVE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "pixtral")
NEVER = {
    ("visionzip", "keep-all is identity"): "exempt",
    ("prumerge", "keep-all is identity"): "exempt",
    ("prumerge+", "keep-all is identity"): "exempt",
    ("sparsevlm", "keep-all is identity"): "exempt",
    ("pool", "keep-all is identity"): "exempt",
    ("blind", "keep-all is identity"): "n.a.",
    ("downsample", "removing equals masking"): "n.a.",
    ("identity", "removing equals masking"): "n.a.",
    ("swapped", "removing equals masking"): "n.a.",
}
"""What cannot be asked of a method, on any family."""


def picture(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))[..., None]
    return Image.fromarray((slope * rng.random(3) + rng.integers(0, 55, (height, width, 3))).astype(np.uint8))


SQUARE, WIDE, TALL = picture(1, 100, 100), picture(2, 90, 60), picture(3, 70, 150)
ASKS = (
    ("What colour is it?", (SQUARE,)),
    ("Is there a blue square above the green triangle in the picture? Answer yes or no.", (WIDE,)),
    ("Which of the two is larger?", (TALL, SQUARE)),
)


LARGE = (("What colour is it?", (picture(4, 170, 170),)), ("Is it red?", (picture(5, 220, 120),)))
"""Half of their pixels are still more than the least that Qwen's processors make of an image."""


def bench_of(folder: Path, dtype: str = "float32", asks: tuple[Any, ...] = ASKS) -> Bench:
    """Three requests of different lengths, the last one with two images of different sizes."""
    adapter = Adapter(load_model(str(folder), dtype=dtype, device="cpu"))
    samples = []
    for text, images in asks:
        prompt = adapter.render(text, len(images))
        samples.append(Sample(text, prompt, images, adapter.prepare(prompt, images, NEW), text))
    return Bench(adapter, tuple(samples), RATIOS, NEW)


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: bench_of(tiny_model(family)))


def method(spec: str) -> Method:
    return Method(part_of(spec))


def told(found: Check) -> str:
    return f"{found.name}: {found.state} {found.detail}"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(
    family: str, name: str, load: Load, tiny_model: Tiny, tmp_path: Path
) -> None:
    bench, asked = load(family), method(name)
    if name == "cdpruner":  # with the text tower of a checkpoint as wide as the model's own tower
        vision = bench.adapter.model.config.vision_config
        asked = method(f"cdpruner(clip={save_clip(tmp_path / 'clip', vision.hidden_size)})")
    if name == "downsample" and family.startswith("qwen"):
        assert "enlarges smaller images" in check(BATCH, bench, method(name)).detail
        bench = bench_of(tiny_model(family), asks=LARGE)
    found = [check(each, bench, asked) for each in CHECKS]
    assert not [told(each) for each in found if each.state == "FAIL"]
    reasons = {each.detail for each in found if each.state == "n.a." and each.name != MASKING}
    if all(each.state in {"n.a.", "exempt"} for each in found):
        assert any(
            (
                name == "downsample" and family not in NATIVE,
                name == "cdpruner" and vision.model_type != "clip_vision_model",
                (name, family) == ("sparsevlm", "qwen3_vl"),  # its first cut is among the deepstack layers
            )
        )
        pytest.skip(reasons.pop())
    for each in found:
        assert each.state == NEVER.get((name, each.name), "pass"), told(each)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_has_something_to_see(family: str, load: Load) -> None:
    """Pruned logits are far from the full model's, and counts within a batch differ."""
    bench = load(family)
    pruner = method("random@0.75").budgets(())[0]
    run = bench.run(method("random@0.75"), pruner)
    for row, plain in zip(run.answers.logits[0], bench.plain.logits[0], strict=True):
        assert (row - plain).abs().max() > 100 * bench.limit(bench.plain)
    assert len({len(part.rows) for part in run.visual}) > 1
    full = batch_equals_single(bench, None)
    assert full.difference is not None
    assert full.difference <= 1e-4 / 2


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_half_precision_raises_no_false_alarm(family: str, tiny_model: Tiny) -> None:
    bench = bench_of(tiny_model(family), "bfloat16")
    for name in ("zoo", "visionzip", "fastv"):
        for each in CHECKS:
            found = check(each, bench, method(name))
            assert found.state != "FAIL", told(found)


@pytest.mark.parametrize("spec", ["divprune(keep=1)", "zoo(keep=9)", "uniform(keep=1)"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "smolvlm"])
def test_budgets_as_counts(family: str, spec: str, load: Load) -> None:
    """The smallest image has nine tokens: one of them, and all of them. SmolVLM's tiles are one image."""
    bench = load(family)
    run = bench.run(method(spec), method(spec).budgets(())[0])
    keep = run.pruner.keep
    images = [len(features.images) for features in run.encoded.features]
    assert images == [1, 1, 1 if family == "smolvlm" else 2]
    assert [len(part.rows) for part in run.visual] == [keep * n for n in images]
    for name in (MASKING, BATCH, SELECTION):
        found = check(name, bench, method(spec))
        assert found.state in {"pass", "n.a."}, told(found)


@pytest.mark.parametrize("spec", ["zoo(estimator=sampled,m=4)", "zoo(estimator=jvp,m=4)", "zoo(rank=4)"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "pixtral"])
def test_estimators(family: str, spec: str, load: Load) -> None:
    for name in (BATCH, SELECTION):
        found = check(name, load(family), method(spec))
        assert found.state == "pass", told(found)


# ------------------------------------------------------------------------------------------------ newlines


@pytest.mark.parametrize("newline", ["counted", "kept", "dropped"])
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_newline_tokens(family: str, newline: str, load: Load) -> None:
    """Of n tokens l are newlines: k(n) stay, or l and k(n - l), or k(n - l) and no newline."""
    whole = load(family)
    bench = Bench(whole.adapter, whole.samples, RATIOS, NEW, newline)
    run = bench.run(method("random@0.75"), method("random@0.75").budgets(())[0])
    lines_seen = 0
    for part, features in zip(run.visual, run.encoded.features, strict=True):
        assert isinstance(part, VisualInput)
        for image in features.images:
            n, lines = image.stop - image.start, image.grid[:, 1] < 0
            count = int(lines.sum())
            lines_seen += count
            mine = part.keep[(part.keep >= image.start) & (part.keep < image.stop)] - image.start
            kept_lines = int(lines[mine].sum())
            if newline == "counted":
                assert (len(mine), kept_lines) == (rounded(0.25 * n), 0)
            else:
                stay = count if newline == "kept" else 0
                assert (len(mine), kept_lines) == (rounded(0.25 * (n - count)) + stay, stay)
    if family == "llava_next":
        assert lines_seen
    for spec in ("random", "pool", "visionzip", "fastv", "identity", "blind"):
        for name in (MASKING, BATCH, SELECTION, RESTORE)[: 3 if spec != "fastv" else 4]:
            found = check(name, bench, method(spec))
            assert found.state == NEVER.get((spec, name), "pass"), told(found)


def rounded(x: float) -> int:
    return max(1, int(x + 0.5 + 1e-9))


def test_keeping_all_with_newlines_outside_the_budget(load: Load) -> None:
    whole = load("llava_next")
    for newline, state in (("kept", "pass"), ("dropped", "FAIL")):
        bench = Bench(whole.adapter, whole.samples, RATIOS, NEW, newline)
        assert check("keep-all is identity", bench, method("random")).state == state


# ---------------------------------------------------------------------------------- reasons, round-trips


@pytest.mark.parametrize(
    ("family", "spec"),
    [("llava", "downsample@0.5"), ("gemma3", "downsample@0.5"), ("llava", "random(keep=999)")],
)
def test_the_reason_of_a_check_is_that_of_a_run(family: str, spec: str, load: Load) -> None:
    bench = load(family)
    found = check(BATCH, bench, method(spec))
    assert found.state == "n.a."
    item = Item("one", ASKS[0][0], (Source(),), (), "c")
    request = Request("task", item, Condition(prune=part_of(spec)))
    settled = Preparer(bench.adapter, 0, {"task": NEW}).prepare(request)
    assert isinstance(settled, Settled)
    assert settled.detail == found.detail


class Source:
    key = "square"

    def load(self) -> Image.Image:
        return SQUARE


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_a_schedule_out_of_reach_is_named(family: str, load: Load) -> None:
    """The layers before the cut work on all tokens: no ratio takes that away."""
    whole = load(family)
    bench = Bench(whole.adapter, whole.samples, (0.25, 0.75), NEW)
    least = f"{200 / bench.adapter.layers:.3g} %"
    for spec, state in (("fastv@0.75", "n.a."), ("fastv", "pass")):
        found = check(SELECTION, bench, method(spec))
        assert found.state == state
        assert least in found.detail


@pytest.mark.parametrize("name", METHODS)
def test_configurations_survive_a_round_trip(name: str) -> None:
    """Part -> object -> Part, part -> label -> part, part -> JSON -> part; with defaults and without."""
    entry = PRUNERS.get(name)
    numbers = {"ratio": 0.9, "m": 16, "h": 0.005, "rank": 3, "K": 3}
    changed = {p.name: numbers[p.name] for p in entry.params if p.name in numbers}
    for p in entry.params:
        if p.choices and p.name != "mask":  # which only `perturb --churn` sets
            changed[p.name] = next(choice for choice in p.choices if choice != p.default)
    for given in ({}, changed):
        part = entry.part(**given)
        pruner = entry.build(part)
        assert {key: getattr(pruner, key) for key in part.parameters} == part.parameters
        assert part_of(part.label) == part
        described = json.loads(json.dumps(part.describe()))
        assert entry.part(**described["params"]) == part
        assert entry.build(part) == pruner
