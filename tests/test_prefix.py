"""A prompt whose beginning was read before is answered as if it were read whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import picture as noise
from runs import write_task
from test_roi_reading import NEW, QUESTIONS, SIZES, opened
from tiny_models import FAMILIES
from torch import Tensor

from vlmbench.conditions import Condition
from vlmbench.engine.compute import Answer, Answerer
from vlmbench.engine.looking import Looked, Looker
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.engine.sight import Sight
from vlmbench.models.adapter import Adapter
from vlmbench.models.before import kept_input
from vlmbench.models.early import early_states
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.inputs import RowInputs
from vlmbench.models.prefix import Begun, FirstPass, refusal, resumed
from vlmbench.models.pruning import Applied
from vlmbench.models.replay import SeenImages, both
from vlmbench.roi import ROIS
from vlmbench.roi.base import Region, RoiMethod, Signals
from vlmbench.roi.rpn import Rpn, rpn_shape
from vlmbench.roi.sd_rpn import SdRpn
from vlmbench.tasks.load import load_task

Tiny = Callable[[str], Path]
Load = Callable[..., Adapter]

CAUSAL = tuple(family for family in FAMILIES if family not in ("gemma3", "paligemma"))
EQUAL = 1e-4
"""Logits in float32, by design."""


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family, attn="auto": opened(tiny_model(family), attn))


def pictures() -> list[Any]:
    return [noise(i, size) for i, size in enumerate(SIZES)]


def read_first(adapter: Adapter, layer: int | None = None) -> tuple[FirstPass | None, EncoderOutput]:
    rows = [
        adapter.prepare(adapter.render(question, 1), [image], NEW)
        for image, question in zip(pictures(), QUESTIONS, strict=True)
    ]
    encoded = adapter.encode(rows, frozenset())
    start = rpn_shape(adapter.model).start if layer is None else layer
    return early_states(adapter, rows, encoded, encoded.features, start, keep=True).first, encoded


def asked_again(
    adapter: Adapter, first: FirstPass, before: EncoderOutput
) -> tuple[list[RowInputs], list[ImageFeatures], EncoderOutput, list[Begun]]:
    """Three prompts with a second image, the last of them without; in another order than they were read in,
    one of them twice."""
    rows, visual, begun = [], [], []
    encoded = before
    for i in (2, 0, 1, 0):
        images = [pictures()[i]] + ([noise(7, (60, 60))] if i != 1 else [])
        row = adapter.prepare(adapter.render(QUESTIONS[i], len(images)), images, NEW)
        encoded = adapter.encode([row], frozenset())
        n = before.features[i].count
        same = encoded.features[0].count >= n and torch.allclose(
            encoded.features[0].rows[:n], before.features[i].rows, atol=1e-5
        )
        rows.append(row)
        visual.append(encoded.features[0])
        begun.append(Begun(first, i, n if same else 0))
    return rows, visual, encoded, begun


def logits(adapter: Adapter, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """[NEW, B, V] of every step, and the tokens [B, NEW]."""
    with torch.inference_mode():
        made = adapter.model.generate(
            **inputs,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(made.logits), made.sequences[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("attn", ["auto", "eager"])
def test_a_prompt_taken_up_again_is_read_the_same(family: str, attn: str, load: Load) -> None:
    adapter = load(family, attn)
    first, before = read_first(adapter)
    assert first is not None
    rows, visual, encoded, begun = asked_again(adapter, first, before)
    assert any(each.visual for each in begun)
    applied = Applied(tuple(visual))
    whole = adapter.model_inputs(rows, encoded, applied)
    ran: list[tuple[int, int]] = []
    layers = adapter.model.base_model.get_decoder().layers
    handles = [
        layer.mlp.register_forward_pre_hook(lambda m, a, i=i: ran.append((i, a[0].shape[1])))
        for i, layer in enumerate(layers)
    ]
    left = resumed(
        adapter.model, whole, rows, encoded, applied, begun, adapter.image_token_id, adapter.pad_id
    )
    assert left is not None
    again, tokens = logits(adapter, left)
    for handle in handles:
        handle.remove()
    width, start = left["input_ids"].shape[1], len(first.cache)
    assert width < whole["input_ids"].shape[1]
    once = left["attention_mask"].shape[1] - width
    assert ran[: len(layers) - start - 1] == [(i, once) for i in range(start, len(layers) - 1)]
    assert ran[len(layers) - start - 1 :][: len(layers)] == [(i, width) for i in range(len(layers))]
    expected, wanted = logits(adapter, whole)
    assert (again - expected).abs().max() <= EQUAL
    assert torch.equal(tokens, wanted)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_prompt_of_several_pictures_is_taken_up(family: str, load: Load) -> None:
    """Behind its last picture, whose tokens and those of the others are not read again."""
    adapter = load(family)
    shown = [pictures()[:2], pictures()[1:], pictures()]
    rows = [
        adapter.prepare(adapter.render(question, len(images)), images, NEW)
        for images, question in zip(shown, QUESTIONS, strict=True)
    ]
    before = adapter.encode(rows, frozenset())
    start = rpn_shape(adapter.model).start
    first = early_states(adapter, rows, before, before.features, start, keep=True).first
    assert first is not None
    again = [[*images, noise(7, (60, 60))] for images in shown]
    asked = [
        adapter.prepare(adapter.render(question, len(images)), images, NEW)
        for images, question in zip(again, QUESTIONS, strict=True)
    ]
    encoded = adapter.encode(asked, frozenset())
    begun = [Begun(first, i, row.visual_tokens) for i, row in enumerate(rows)]
    applied = Applied(encoded.features)
    whole = adapter.model_inputs(asked, encoded, applied)
    left = adapter.resumed(whole, asked, encoded, applied, begun)
    assert "past_key_values" in left
    places = left["input_ids"] == adapter.image_token_id
    more = [new.visual_tokens - old.visual_tokens for new, old in zip(asked, rows, strict=True)]
    assert places.sum(1).tolist() == more
    made, tokens = logits(adapter, left)
    expected, wanted = logits(adapter, whole)
    assert (made - expected).abs().max() <= EQUAL
    assert torch.equal(tokens, wanted)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_region_without_some_of_its_tokens(family: str, load: Load) -> None:
    """The crop's tokens that are not shown are not in the prompt; nothing of its beginning moves."""
    adapter = load(family)
    first, before = read_first(adapter)
    assert first is not None
    rows, visual, encoded, begun = asked_again(adapter, first, before)
    parts: list[Any] = list(visual)
    for i in (0, 1):
        n = begun[i].visual
        keep = torch.cat((torch.arange(n), torch.arange(n + 2, parts[i].count, 2)))
        parts[i] = replace(kept_input(parts[i], keep), images=parts[i].images)
    applied = Applied(tuple(parts))
    whole = adapter.model_inputs(rows, encoded, applied)
    left = adapter.resumed(whole, rows, encoded, applied, begun)
    assert "past_key_values" in left
    again, tokens = logits(adapter, left)
    expected, wanted = logits(adapter, whole)
    assert (again - expected).abs().max() <= EQUAL
    assert torch.equal(tokens, wanted)


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_where_attention_is_not_causal_all_is_read_again(family: str, load: Load) -> None:
    first, _ = read_first(load(family))
    assert first is None


def test_image_features_that_come_late_are_not_lost(load: Load) -> None:
    """Qwen3-VL adds some behind its first layers: before that nothing can be taken up."""
    adapter = load("qwen3_vl")
    assert read_first(adapter, 1)[0] is None
    assert read_first(adapter, 2)[0] is not None


def test_a_mask_that_looks_ahead_is_found(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a family that nobody has described: told from the mask itself, however it is written."""
    adapter = load("llava", "eager")
    rows = [adapter.prepare(adapter.render("what ?", 1), [pictures()[0]], NEW)]
    encoded = adapter.encode(rows, frozenset())
    inputs = adapter.model_inputs(rows, encoded, Applied(encoded.features))
    length = inputs["input_ids"].shape[1]
    valid = inputs["attention_mask"].bool()
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None] & valid[:, None, None]
    ahead = causal.clone()
    ahead[..., -3, -2] = True
    for mask, found in ((causal, None), (ahead, "its attention is not causal")):
        additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        for form in (mask, additive):
            assert refusal(adapter.model, inputs, [{"attention_mask": form}]) == found
    assert refusal(adapter.model, inputs, [{"attention_mask": None}]) is None
    assert refusal(adapter.model, inputs, [{"attention_mask": None, "extra": torch.zeros(length)}])
    for layer in adapter.model.base_model.get_decoder().layers:
        monkeypatch.setattr(layer.self_attn, "is_causal", False, raising=False)
    assert refusal(adapter.model, inputs, [{"attention_mask": None}]) == "its attention is not causal"


def test_what_cannot_be_taken_up_is_read_whole(load: Load) -> None:
    adapter = load("llava")
    first, before = read_first(adapter)
    other, _ = read_first(adapter)
    assert first is not None
    assert other is not None
    rows, visual, encoded, begun = asked_again(adapter, first, before)
    applied = Applied(tuple(visual))
    whole = adapter.model_inputs(rows, encoded, applied)
    changed = [
        [begun[0], None, *begun[2:]],  # a row that was not begun
        [*begun[:3], Begun(other, 0, begun[3].visual)],  # of another pass
        [],
    ]
    for each in changed:
        assert adapter.resumed(whole, rows, encoded, applied, each) is whole
    # another picture: the prompt begins with the same text alone, up to its first visual token
    alone = [replace(each, visual=0) for each in begun]
    left = adapter.resumed(whole, rows, encoded, applied, alone)
    if left is not whole:
        places = whole["input_ids"] == adapter.image_token_id
        assert int((left["input_ids"] == adapter.image_token_id).sum()) == int(places.sum())
    # planted fault: features that are said to be the same and are not
    moved = [replace(part, rows=part.rows.flip(0)) for part in visual]
    faulty = Applied(tuple(moved))
    inputs = adapter.model_inputs(rows, encoded, faulty)
    wrong, _ = logits(adapter, adapter.resumed(inputs, rows, encoded, faulty, begun))
    right, _ = logits(adapter, inputs)
    assert (wrong - right).abs().max() > 100 * EQUAL


@dataclass(frozen=True, kw_only=True)
class Sometimes(SdRpn):
    """By the network, on some of the items."""

    def region(self, signals: Signals) -> Region | None:
        width, height = signals.size
        box = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
        return Region(box) if signals.seed % 2 else None


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "llava_next"])
@pytest.mark.parametrize("give", ["tokens", "image", "replace"])
def test_tables_do_not_tell_whether_it_was_reused(family: str, give: str, load: Load, tmp_path: Path) -> None:
    """Answers and figures through the engine, of batches in which some rows are shown a region."""
    adapter = load(family)
    task = load_task(str(write_task(tmp_path, images=4)))
    limits = {task.name: 3}
    preparer = Preparer(adapter, 0, limits)
    condition = Condition(roi=ROIS.get("sd-rpn").part(give=give))
    requests = [Request(task.name, item, condition) for item in task.items()]
    prepared = [p for p in map(preparer.prepare, requests) if isinstance(p, Prepared)]
    sight = Sight(adapter)
    plain = Looker(sight, limits, 0, Rpn(adapter.model, rpn_shape(adapter.model)), reuse=False)
    answers, begun = [], []
    for looker in (plain, replace(plain, reuse=True)):
        looks = _Looking(looker, Sometimes(give=give))
        answerer = Answerer(sight, {}, limits, "", 1e-4, looker=looks, needs=frozenset())
        made = answerer.forward(prepared, 9, 4, {"encode": 0.0, "generate": 0.0})
        answers.append([a for a in made if isinstance(a, Answer)])
        zoomed = [a.looked is not None and a.looked.region is not None for a in answers[-1]]
        assert len(zoomed) == len(prepared)
        assert {True, False} == set(zoomed)
        begun.append(looks.begun)
        # an answer does not hold on to what was read for it
        assert not any(a.looked is not None and a.looked.begun is not None for a in answers[-1])
    causal = family != "gemma3" and give != "replace"
    # llava-next shows an image among several in other tiles than alone
    assert all(begun[1]) == causal or family == "llava_next"
    assert begun[0] == [False] * len(answers[0])
    for before, after in zip(*answers, strict=True):
        assert after.generation.text == before.generation.text
        assert after.generation.prob == pytest.approx(before.generation.prob, abs=1e-5)
        assert after.generation.min_margin == pytest.approx(before.generation.min_margin, abs=EQUAL)
        assert after.generation.visual_tokens == before.generation.visual_tokens


@dataclass(frozen=True)
class _Looking:
    """A looker with a method of the test in place of the condition's."""

    looker: Looker
    method: RoiMethod
    begun: list[bool] = field(default_factory=list)
    """Whether what was read of each request can be taken up."""

    def look(self, method: RoiMethod, *batch: Any) -> Any:
        found = self.looker.look(self.method, *batch)
        self.begun.extend(isinstance(each, Looked) and each.begun is not None for each in found)
        return found


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next", "gemma3", "pixtral"])
def test_pixels_of_two_pictures_are_those_of_each(family: str, load: Load) -> None:
    """Where they are put together from what was made before, as where the processor makes them anew."""
    adapter = load(family)
    seen = SeenImages(), SeenImages()
    one, two = pictures()[:2]
    adapter.prepare(adapter.render("what ?", 1), [one], NEW, seen[0])
    adapter.prepare(adapter.render("?", 1), [two], NEW, seen[1])
    joint = both(*seen)
    assert (joint is not None) == (family in ("llava", "qwen2_5_vl"))
    assert both(seen[0], SeenImages()) is None
    if joint is None:
        return
    prompt = adapter.render("what ?", 2)
    put, made = (adapter.prepare(prompt, [one, two], NEW, given) for given in (joint, None))
    assert put.sequence.keys() == made.sequence.keys()
    assert put.vision.keys() == made.vision.keys()
    for name in (*put.sequence, *put.vision):
        assert torch.equal({**put.sequence, **put.vision}[name], {**made.sequence, **made.vision}[name])
    assert put.input_size == made.input_size
