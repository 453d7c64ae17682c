"""The picture shown larger: as the stock processor and model do it when asked by hand, counted truly, and
nothing of either is changed for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import picture, write_rows

from vlmbench.conditions import Condition
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Prepared, Preparer, Settled
from vlmbench.engine.sight import Sight
from vlmbench.engine.store import read_records
from vlmbench.errors import NotApplicableError
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.session import Session
from vlmbench.experiments.tables import TaskPlan
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.adapter import Adapter
from vlmbench.models.larger import _nearest
from vlmbench.models.loading import load_model
from vlmbench.perturb.image import IMAGES
from vlmbench.prune import PRUNERS
from vlmbench.roi import ROIS
from vlmbench.schema import Record, State
from vlmbench.tasks.load import load_tasks

Tiny = Callable[[str], Path]
SIZE = (100, 60)
QUESTION = "what is it ?"

ASKED: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "llava": ({"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}}, 8 * 8),
    "paligemma": ({"size": {"height": 112, "width": 112}}, 8 * 8),
    "qwen2_vl": ({"size": {"shortest_edge": 28**2, "longest_edge": 10**6}}, 6 * 4),
    "qwen2_5_vl": ({"size": {"shortest_edge": 28**2, "longest_edge": 10**6}}, 6 * 4),
    "qwen3_vl": ({"size": {"shortest_edge": 32**2, "longest_edge": 10**6}}, 6 * 4),
    "mistral3": ({"size": {"longest_edge": 999}}, 6 * 4),
    "pixtral": ({"size": {"longest_edge": 999}}, 9 * 5),
    "internvl": ({"crop_to_patches": True, "min_patches": 6, "max_patches": 6}, 7 * 9),
    "smolvlm": ({"size": {"longest_edge": 336}}, 13 * 9),
    "idefics3": ({"size": {"longest_edge": 336}}, 13 * 9),
}
"""What the image processor of a tiny model is asked for by hand, and the visual tokens by the family's rule:
patches, blocks of 2 x 2 of them, or tiles of 9 and an overview."""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for i in range(3):
        picture(i, SIZE).save(tmp_path / "images" / f"{i}.png")
        rows.append({"id": f"i{i}", "image": f"{i}.png", "question": QUESTION, "answer": "cat"})
        rows[-1]["box"] = [40, 20, 70, 50]
    return write_rows(tmp_path, rows)


def more(tokens: float = 2.0) -> Condition:
    return Condition(roi=ROIS.get("more-pixels").part(tokens=tokens))


def answered(model: Path, task: Path, out: Path, *asked: Condition, batch_size: int = 4) -> dict[Any, Record]:
    options = RunOptions(str(model), str(task), out=out, batch_size=batch_size, show_progress=False)
    session = Session(options, "roi")
    plan = [Variation(c, "roi" if c.roi else "clean", "", "", None) for c in asked]
    ((chosen, items, limit),) = session.chosen
    session.run([TaskPlan(chosen, items, limit, plan)])
    return {(item, condition): r for (_, item, condition), r in read_records(out).items()}


def by_hand(
    family: str, adapter: Adapter, image: Image.Image, options: Mapping[str, Any], tokens: int
) -> tuple[float, int]:
    """Probability of the first token, and visual tokens: the checkpoint's processor and class, nothing of
    ours but the loading and the prompt."""
    model, processor = adapter.model, copy.copy(adapter.processor)
    if family == "paligemma":
        processor.image_seq_length = tokens
    prompt = adapter.render(QUESTION, 1)
    starts = prompt.startswith(processor.tokenizer.bos_token or "\0")
    inputs = processor(
        text=[prompt],
        images=[[image]],
        return_tensors="pt",
        images_kwargs=dict(options),
        add_special_tokens=not starts,
    )
    inputs.pop("labels", None)
    body, places = model.base_model, inputs["input_ids"] == model.config.image_token_id
    with torch.inference_mode():
        if family == "llava":
            tower = body.vision_tower(
                inputs["pixel_values"], interpolate_pos_encoding=True, output_hidden_states=True
            )
            words = model.get_input_embeddings()(inputs["input_ids"])
            words[places] = body.multi_modal_projector(tower.hidden_states[-2][0, 1:])
            logits = model.lm_head(body.language_model(inputs_embeds=words).last_hidden_state)
        else:
            if family == "paligemma":
                seen = body.get_image_features(inputs.pop("pixel_values"), interpolate_pos_encoding=True)
                inputs["mm_encoder_outputs"] = {"image": seen}
            logits = model(**inputs).logits
    return float(logits[0, -1].softmax(-1).max()), int(places.sum())


@pytest.mark.parametrize("family", ASKED)
def test_answers_as_the_larger_picture_given_by_hand(
    family: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    options, tokens = ASKED[family]
    adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
    found = answered(tiny_model(family), task, tmp_path / "run", Condition(), more())
    record, plain = found["i1", "more-pixels"], found["i1", "clean"]
    assert record.detail == plain.detail == ""
    assert record.image_size is not None
    image = picture(1, SIZE).convert("RGB")
    larger = image.resize(tuple(record.image_size[0]), adapter.processor.image_processor.resample)
    prob, count = by_hand(family, adapter, larger, options, tokens)
    assert (record.visual_tokens, count) == (tokens, tokens)
    assert record.prob == pytest.approx(prob, abs=1e-5)
    assert plain.visual_tokens is not None
    assert 1.5 <= tokens / plain.visual_tokens <= 2.67
    assert plain.prob == pytest.approx(by_hand(family, adapter, image, {}, plain.visual_tokens)[0], abs=1e-5)
    area, before = (sum(w * h for w, h in r.input_size or ()) for r in (record, plain))
    assert area > 1.5 * before


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_a_batch_answers_as_one_by_one(family: str, tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    many, single = (
        answered(tiny_model(family), task, tmp_path / f"{size}", more(), batch_size=size) for size in (4, 1)
    )
    for key, record in many.items():
        assert (record.state, record.raw) == (single[key].state, single[key].raw)
        assert record.prob == pytest.approx(single[key].prob, abs=1e-5)


@pytest.mark.parametrize("family", [*ASKED, "gemma3", "llava_next", "llava_onevision"])
def test_as_many_tokens_as_before_is_the_plain_answer(
    family: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    """By the full way; and where a family cannot show more, one line says what it can."""
    found = answered(tiny_model(family), task, tmp_path / "run", Condition(), more(1), more())
    for i in range(3):
        plain, same = found[f"i{i}", "clean"], found[f"i{i}", "more-pixels(tokens=1)"]
        assert (same.raw, same.visual_tokens, same.input_size) == (
            plain.raw,
            plain.visual_tokens,
            plain.input_size,
        )
        assert same.prob == pytest.approx(plain.prob, abs=1e-6)
        assert same.roi is None or same.roi.box is None
        if family not in ASKED:
            refused = found[f"i{i}", "more-pixels"]
            n = plain.visual_tokens or 0
            assert refused.state is State.NOT_APPLICABLE
            assert refused.detail.startswith(
                f"100 x 60 pixels, {n} visual tokens, cannot be shown with about {2 * n}: of this {family} "
            )


def prepared(folder: Path, task: Path, condition: Condition) -> tuple[Adapter, Prepared | Settled]:
    adapter = Adapter(load_model(str(folder), device="cpu"))
    (chosen,) = load_tasks([str(task)])
    item = chosen.items(limit=None, seed=0)[0]
    return adapter, Preparer(adapter, 0, {"own": 3}).prepare(Request("own", item, condition))


def test_a_prompt_that_gets_too_long_leaves_the_method_out(tiny_model: Tiny, task: Path) -> None:
    """With the answer: the picture alone would fit."""
    folder = tiny_model("llava")
    adapter, ready = prepared(folder, task, more())
    assert isinstance(ready, Prepared)
    adapter.model.config.get_text_config().max_position_embeddings = ready.row.length + 2
    refused = Preparer(Adapter(adapter.loaded), 0, {"own": 3}).prepare(ready.request)
    assert isinstance(refused, Settled)
    assert refused.state is State.NOT_APPLICABLE
    assert refused.detail.startswith("it cannot be shown larger: ")


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "idefics3"])
def test_tokens_of_the_larger_picture_lie_on_it(family: str, tiny_model: Tiny, task: Path) -> None:
    """Those of each tile cover what it shows once, and the box moved with the picture."""
    adapter, ready = prepared(tiny_model(family), task, more())
    assert isinstance(ready, Prepared)
    features = adapter.encode([ready.row], frozenset()).features[0]
    (placed,) = Sight(adapter).placed(ready, features) or ()
    width, height = ready.pixels.images[0].size
    assert len(placed.cells) == ready.row.visual_tokens
    areas = (placed.cells[:, 2:] - placed.cells[:, :2]).prod(1)
    shown = height * height if family == "llava" else width * height  # its middle square
    views = {"internvl": 2, "idefics3": 2}.get(family, 1)  # the tiles together, and the overview
    assert float(areas.sum()) == pytest.approx(views * shown, rel=0.03)
    scale = width / SIZE[0], height / SIZE[1]
    expected = (40 * scale[0], 20 * scale[1], 70 * scale[0], 50 * scale[1])
    assert ready.boxes[0] == pytest.approx(expected)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_pruners_and_perturbations_work_on_the_larger_picture(
    family: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    roi, prune = ROIS.get("more-pixels").part(), PRUNERS.get("divprune").part(ratio=0.5)
    shift, down = IMAGES.get("shift").part(dx=10), PRUNERS.get("downsample").part(ratio=0.5)
    asked = [Condition(roi=roi, prune=prune), Condition(image=shift, roi=roi), Condition(roi=roi, prune=down)]
    found = answered(tiny_model(family), task, tmp_path / "run", *asked)
    pruned, moved, smaller = (found["i0", c.id] for c in asked)
    tokens = ASKED[family][1]
    assert (pruned.visual_tokens, moved.visual_tokens) == (tokens, tokens)
    assert pruned.layer_tokens is not None
    assert pruned.layer_tokens[0] == tokens // 2
    assert pruned.evidence is not None
    assert 0 < pruned.evidence < 1
    # ten source pixels on an input whose shorter side is 112 in place of 60, or whose width is 168, not 100
    wide = 10 * 112 / 60 if family == "llava" else 10 * 168 / 100
    assert moved.displacement == pytest.approx((wide, 0), rel=0.01)
    assert smaller.state is State.NOT_APPLICABLE
    assert smaller.detail == "one method shows the picture larger, the other smaller"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "mistral3", "idefics3", "llava_onevision"])
def test_several_pictures_are_all_larger_or_none_is(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    sizes = [(100, 60), (60, 200)]
    for i, size in enumerate(sizes):
        picture(i, size).save(tmp_path / "images" / f"{i}.png")
    row = {"id": "i", "images": ["0.png", "1.png"], "question": QUESTION, "answer": "cat"}
    adapter, ready = prepared(tiny_model(family), write_rows(tmp_path, [row]), more())
    if family in ("idefics3", "llava_onevision"):
        assert isinstance(ready, Settled)
        assert ready.state is State.NOT_APPLICABLE
        return
    assert isinstance(ready, Prepared)
    parts = [adapter.larger(size, 2.0) for size in sizes]
    assert ready.row.visual_tokens == sum(part.tokens for part in parts)
    assert [image.size for image in ready.pixels.images] == [part.size for part in parts]
    if family != "llava":
        assert list(ready.row.input_size) == [part.size for part in parts]
    encoded = adapter.encode([ready.row], frozenset()).features[0]
    assert [image.stop - image.start for image in encoded.images] == [part.tokens for part in parts]


def test_tiles_fill_the_next_layout_that_a_model_knows(tiny_model: Tiny) -> None:
    """A picture that has one row of tiles gets two; one that has all there are gets no more."""
    adapter = Adapter(load_model(str(tiny_model("llava_next")), device="cpu"))
    small = adapter.larger((30, 30), 2.0)
    row = adapter.prepare(adapter.render(QUESTION, 1), [picture(0, small.size).convert("RGB")], 3)
    assert small.size == (84, 84)
    assert row.visual_tokens == small.tokens == 9 + 6 * (6 + 1)  # overview, rows of the canvas with a newline
    with pytest.raises(NotApplicableError, match=r"84 x 84 pixels, 51 visual tokens"):
        adapter.larger((84, 84), 2.0)


def test_nothing_is_set_on_model_or_processor(tiny_model: Tiny) -> None:
    for family in ("llava", "paligemma", "qwen2_5_vl", "idefics3"):
        adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
        before = adapter.processor.to_json_string(), adapter.model.config.to_json_string()
        length = getattr(adapter.processor, "image_seq_length", None)
        image = picture(0, SIZE).convert("RGB")
        plain = adapter.prepare(adapter.render(QUESTION, 1), [image], 3)
        showing = adapter.larger(SIZE, 2.0).showing
        adapter.prepare(adapter.render(QUESTION, 1), [image], 3, showing=showing)
        again = adapter.prepare(adapter.render(QUESTION, 1), [image], 3)
        assert before == (adapter.processor.to_json_string(), adapter.model.config.to_json_string())
        assert length == getattr(adapter.processor, "image_seq_length", None)
        assert torch.equal(plain.sequence["input_ids"], again.sequence["input_ids"])
        assert torch.equal(plain.vision["pixel_values"], again.vision["pixel_values"])


@settings(max_examples=40, deadline=None)
@given(wide=st.integers(20, 400), high=st.integers(20, 400), area=st.integers(1, 200))
def test_the_grid_is_the_best_there_is(wide: int, high: int, area: int) -> None:
    """Of all pairs of whole numbers, by the count, which weighs twice, and by the shape of the picture."""

    def misfit(steps: tuple[int, int]) -> float:
        count, shape = steps[0] * steps[1] / area, steps[0] / steps[1] / (wide / high)
        return 2 * abs(math.log(count)) + abs(math.log(shape))

    best = min(map(misfit, product(range(1, 80), repeat=2)))
    assert misfit(_nearest((wide, high), area)) == pytest.approx(best)
