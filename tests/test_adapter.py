"""The adapter against `model.generate` on the stock processor's output, one request at a time, for all
families; and what it tells of sizes against what the processors do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, build

from vlmbench.errors import ItemError, UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.models.decoding import Generation
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import load_model
from vlmbench.models.pruning import Applied
from vlmbench.models.replay import SeenImages

Tiny = Callable[[str], Path]
Images = tuple[Image.Image, ...]

NEW = 4
TILES = ("llava_next", "llava_onevision", "smolvlm", "idefics3")
QUESTIONS = (
    "What colour is it?",
    "Is there a blue square above the green triangle in the picture? Answer yes or no.",
    "Which option is correct?\nA. yellow\nB. purple\nC. white\nAnswer with the option's letter.",
)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Noise on a slope: no two places look alike."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))[..., None]
    noise = rng.integers(0, 55, (height, width, 3))
    return Image.fromarray((slope * rng.random(3) + noise).astype(np.uint8))


PICTURES = (picture(1, 100, 100), picture(2, 90, 60), picture(3, 70, 150))
"""Square, wide and tall: as many tiles, grids and crops as the families know."""


@dataclass(frozen=True)
class Ask:
    text: str
    images: Images


ASKS = (
    *(Ask(text, (image,)) for image in PICTURES for text in QUESTIONS[:2]),
    Ask(QUESTIONS[2], (PICTURES[1],)),
    Ask(QUESTIONS[0], (PICTURES[2], PICTURES[0])),
    Ask(QUESTIONS[1], (PICTURES[0], PICTURES[1])),
)


@dataclass(frozen=True)
class Loaded:
    """A family's adapter, the rows of ASKS and what the model answers without the adapter."""

    adapter: Adapter
    rows: tuple[RowInputs, ...]
    stock: tuple[tuple[str, float, float], ...]
    """Text, probability of its first token, smallest margin."""


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Callable[[str], Loaded]:
    @cache
    def loaded(family: str) -> Loaded:
        adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
        stock = tuple(stock_answer(adapter, ask) for ask in ASKS)
        return Loaded(adapter, tuple(prepare(adapter, ask) for ask in ASKS), stock)

    return loaded


def prepare(adapter: Adapter, ask: Ask, seen: SeenImages | None = None) -> RowInputs:
    return adapter.prepare(adapter.render(ask.text, len(ask.images)), ask.images, NEW, seen)


def stock_inputs(adapter: Adapter, ask: Ask) -> dict[str, Any]:
    """As the model cards do it: the chat template, then the processor; a template's BOS is not doubled."""
    processor = adapter.processor
    content = [*({"type": "image"} for _ in ask.images), {"type": "text", "text": ask.text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    bos = processor.tokenizer.bos_token
    options = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
    images = [list(ask.images)] if ask.images else None
    batch = dict(processor(text=[prompt], images=images, return_tensors="pt", **options))
    batch.pop("labels", None)
    return batch


def stock_answer(adapter: Adapter, ask: Ask) -> tuple[str, float, float]:
    inputs = stock_inputs(adapter, ask)
    with torch.inference_mode():
        output = adapter.model.generate(
            **inputs,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    top = torch.stack([logits[0].float().topk(2).values for logits in output.logits])
    text = adapter.tokenizer.decode(new, skip_special_tokens=True).strip()
    return text, output.logits[0][0].softmax(-1).max().item(), (top[:, 0] - top[:, 1]).min().item()


def answers(adapter: Adapter, rows: list[RowInputs], asks: tuple[Ask, ...], size: int) -> list[Generation]:
    """As the engine does it: batches of a fixed number of rows, each distinct list of images encoded once."""
    found: list[Generation] = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        keys = [tuple(map(id, ask.images)) for ask in asks[start : start + size]]
        distinct = {key: row for key, row in zip(keys, part, strict=True) if row.visual_tokens}
        encoded = adapter.encode(list(distinct.values())) if distinct else None
        features = dict(zip(distinct, encoded.features, strict=True)) if encoded else {}
        fill = size - len(part)
        order = [features.get(key) for key in [*keys, *[keys[-1]] * fill]]
        generated = adapter.answer([*part, *[part[-1]] * fill], encoded, Applied(tuple(order)), NEW)
        assert len(generated) == size
        found += generated[: len(part)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_generate(family: str, load: Callable[[str], Loaded]) -> None:
    """Token-identical text, equal probability and margin, in one batch and whatever its size."""
    loaded = load(family)
    texts = [text for text, _, _ in loaded.stock]
    assert len(set(texts)) > len(texts) / 2, "the oracle must tell images and questions apart"
    by_size = {size: answers(loaded.adapter, list(loaded.rows), ASKS, size) for size in (1, 3, len(ASKS), 16)}
    for generated in by_size.values():
        assert [g.text for g in generated] == texts
        assert [g.prob for g in generated] == pytest.approx([p for _, p, _ in loaded.stock], abs=1e-4)
        assert [g.min_margin for g in generated] == pytest.approx(
            [margin for _, _, margin in loaded.stock], abs=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_prepared_is_what_the_processor_makes(family: str, load: Callable[[str], Loaded]) -> None:
    """Same tokens and pixels, nothing lost but training labels; the beginning is marked at most once."""
    loaded = load(family)
    bos = loaded.adapter.tokenizer.bos_token_id
    for ask, row in zip(ASKS, loaded.rows, strict=True):
        expected = stock_inputs(loaded.adapter, ask)
        assert {**row.sequence, **row.vision}.keys() == expected.keys()
        for key, value in {**row.sequence, **row.vision}.items():
            assert torch.equal(value, expected[key]), key
        assert bos is None or int((row.sequence["input_ids"] == bos).sum()) == 1
        assert row.visual_tokens == sum(f.count for f in loaded.adapter.encode([row]).features) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_pixels_equal_processed_ones(family: str, load: Callable[[str], Loaded]) -> None:
    loaded = load(family)
    seen: dict[tuple[int, ...], SeenImages] = {}
    for ask, plain in zip(ASKS, loaded.rows, strict=True):
        row = prepare(loaded.adapter, ask, seen.setdefault(tuple(map(id, ask.images)), SeenImages()))
        assert row.sequence.keys() == plain.sequence.keys()
        assert row.vision.keys() == plain.vision.keys()
        for key, value in {**row.sequence, **row.vision}.items():
            assert torch.equal(value, {**plain.sequence, **plain.vision}[key]), key
        assert (row.visual_tokens, row.input_size) == (plain.visual_tokens, plain.input_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaves_no_trace(family: str, load: Callable[[str], Loaded]) -> None:
    adapter = load(family).adapter
    weights = copy.deepcopy(adapter.model.state_dict())
    before = traces(adapter)
    row = prepare(adapter, ASKS[-1], SeenImages())
    encoded = adapter.encode([row])
    adapter.answer([row], encoded, Applied(encoded.features), NEW)
    adapter.resized((90, 60))
    with pytest.raises(ItemError):
        adapter.prepare(adapter.render("?", 1), [], 1 << 40)
    assert traces(adapter) == before
    after = adapter.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def traces(adapter: Adapter) -> dict[str, Any]:
    """Hooks, attributes and overridden methods of every module; settings of model and processor."""
    # transformers itself keeps the offset of the last positions there
    own = {"rope_deltas"}
    modules = {
        name: (
            type(module),
            sorted(set(vars(module)) - own),
            [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks")],
            module.training,
        )
        for name, module in adapter.model.named_modules()
    }
    processor = adapter.processor
    parts = (processor, processor.image_processor, processor.tokenizer)
    return {
        "modules": modules,
        "config": adapter.model.config.to_dict(),
        "generation": adapter.model.generation_config.to_dict(),
        "parts": [(id(part), type(part), repr(sorted(vars(part)))) for part in parts],
        "processor": repr(processor),
        "padding": (processor.tokenizer.padding_side, processor.tokenizer.truncation_side),
    }


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "paligemma"])
def test_rows_without_images_mix_with_others(family: str, load: Callable[[str], Loaded]) -> None:
    """PaliGemma's processor needs an image."""
    loaded = load(family)
    blind = Ask(QUESTIONS[1], ())
    asks = (ASKS[0], blind, ASKS[-1])
    rows = [loaded.rows[0], prepare(loaded.adapter, blind), loaded.rows[-1]]
    expected = [loaded.stock[0], stock_answer(loaded.adapter, blind), loaded.stock[-1]]
    for order in ([0, 1, 2], [1, 0, 2], [1]):
        got = answers(loaded.adapter, [rows[i] for i in order], tuple(asks[i] for i in order), 3)
        assert [g.text for g in got] == [expected[i][0] for i in order]
        assert [g.prob for g in got] == pytest.approx([expected[i][1] for i in order], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_unusable_input_concerns_one_item(family: str, load: Callable[[str], Loaded]) -> None:
    adapter = load(family).adapter
    for empty in ("", " \n"):
        with pytest.raises(ItemError, match="empty question"):
            adapter.render(empty, 1)
    for token in {adapter.image_token, getattr(adapter.processor, "boi_token", adapter.image_token)}:
        with pytest.raises(ItemError, match="image token"):
            adapter.render(f"What is {token} here?", 1)
    assert adapter.context is not None
    with pytest.raises(ItemError, match=f"exceed the model's context of {adapter.context}"):
        adapter.prepare(adapter.render("word " * adapter.context, 1), ASKS[0].images, NEW)
    row = prepare(adapter, ASKS[0])
    adapter.prepare(adapter.render(ASKS[0].text, 1), ASKS[0].images, adapter.context - row.length)
    with pytest.raises(ItemError, match="exceed"):
        adapter.prepare(adapter.render(ASKS[0].text, 1), ASKS[0].images, adapter.context - row.length + 1)


@pytest.mark.parametrize(
    ("family", "start"),
    [
        ("llava", "<image><image>\n"),
        ("paligemma", "<image><image>"),
        ("gemma3", "<start_of_image><start_of_image>\n"),
    ],
)
def test_checkpoint_without_template(family: str, start: str, tmp_path: Path) -> None:
    """The images, then the question: what the model card of PaliGemma writes by hand."""
    adapter = Adapter(load_model(str(build(family, tmp_path / family, template=None)), device="cpu"))
    assert adapter.processor.chat_template is None
    row = prepare(adapter, ASKS[-1])
    stock = adapter.processor(
        text=[start + QUESTIONS[1]], images=[list(ASKS[-1].images)], return_tensors="pt"
    )
    assert torch.equal(row.sequence["input_ids"], stock["input_ids"])
    encoded = adapter.encode([row])
    stock.pop("labels", None)
    expected = adapter.model.generate(**stock, max_new_tokens=NEW, do_sample=False)
    text = adapter.tokenizer.decode(expected[0, row.length :], skip_special_tokens=True).strip()
    assert adapter.answer([row], encoded, Applied(encoded.features), NEW)[0].text == text
    with pytest.raises(ItemError, match="image token"):
        adapter.render(f"a {adapter.image_token} here", 1)


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_input_sizes_are_the_tensors(family: str, load: Callable[[str], Loaded]) -> None:
    """As many pixels as the encoder is given: neither filling tiles nor filling pixels are counted."""
    loaded = load(family)
    patch = loaded.adapter.model.config.vision_config.patch_size
    patch = patch[0] if isinstance(patch, list) else patch
    for ask in ASKS:
        row = prepare(loaded.adapter, ask)
        pixels = row.vision["pixel_values"]
        sizes = row.input_size
        if family.startswith("qwen"):
            assert sum(w * h for w, h in sizes) == pixels.shape[0] * patch**2
        elif family in {"mistral3", "pixtral"}:
            for (w, h), image in zip(sizes, pixels, strict=True):
                assert image[:, h - 1, w - 1].any()
                assert not image[:, h:].any()
                assert not image[..., w:].any()
        else:
            assert set(sizes) == {(pixels.shape[-1], pixels.shape[-2])}
            assert len(sizes) == int(pixels.flatten(0, -4).flatten(1).any(1).sum())
    two = prepare(loaded.adapter, ASKS[-1]).input_size
    single = [prepare(loaded.adapter, Ask("?", (image,))).input_size for image in ASKS[-1].images]
    if family != "llava_onevision":  # which gives several images one tile each
        assert two == sum(single, ())


@pytest.mark.parametrize("source", [(84, 84), (168, 84), (90, 60), (61, 151), (10, 13)])
@pytest.mark.parametrize("family", FAMILIES)
def test_resized_is_the_size_before_any_crop(
    family: str, source: tuple[int, int], load: Callable[[str], Loaded]
) -> None:
    """At that size, another resize by the processor changes nothing."""
    adapter = load(family).adapter
    size = adapter.resized(source)
    assert adapter.resized(source) == size
    if family in TILES or (family == "internvl" and source in {(168, 84), (61, 151)}):
        assert size is None
        with pytest.raises(UsageError, match="--space model"):
            adapter.resize_like_processor(Image.new("RGB", source))
        return
    assert size is not None
    image = picture(5, *source)
    small = adapter.resize_like_processor(image)
    assert small.size == size
    assert adapter.resized(size) == size
    images = adapter.processor.image_processor
    if family == "llava":
        assert pixel_values(images, image, do_center_crop=False).shape[-2:] == size[::-1]
    one, other = (prepare(adapter, Ask("?", (i,))).vision["pixel_values"] for i in (image, small))
    assert one.shape == other.shape
    # one step of rounding to bytes, in units of the normalised pixels
    assert (one - other).abs().max() < 0.03


def pixel_values(images: Any, image: Image.Image, **options: Any) -> torch.Tensor:
    values: torch.Tensor = images(images=[image], return_tensors="pt", **options)["pixel_values"]
    return values


def rolled(image: Image.Image, dx: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), dx, axis=1))


@pytest.mark.parametrize(("family", "factor"), [("llava", 2), ("llava", 1), ("gemma3", 3), ("paligemma", 1)])
def test_a_shift_by_source_pixels_per_patch_moves_whole_patches(
    family: str, factor: int, load: Callable[[str], Loaded]
) -> None:
    adapter = load(family).adapter
    source = (84 * factor, 84 * factor)
    step = adapter.source_pixels_per_patch(source)
    assert step == 14 * factor
    image = picture(6, *source)
    before, after = (pixel_values(adapter.processor.image_processor, i) for i in (image, rolled(image, step)))
    inner = slice(2 * 14, -14)  # the resampling window reaches over the seam
    moved = torch.roll(before, 14, dims=-1)
    assert torch.allclose(after[..., inner], moved[..., inner], atol=1e-5)
    other = pixel_values(adapter.processor.image_processor, rolled(image, step - 1))
    assert not torch.allclose(other[..., inner], moved[..., inner], atol=1e-2)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "pixtral", "internvl"])
def test_source_pixels_per_patch_of_patch_grids(family: str, load: Callable[[str], Loaded]) -> None:
    """Where the size stays what it is, a patch is a patch: its own pixels, one column to the right."""
    adapter = load(family).adapter
    patch = adapter.model.config.vision_config.patch_size
    patch = patch[0] if isinstance(patch, list) else patch
    side = 84 if patch == 14 else 96
    assert adapter.resized((side, side)) == (side, side)
    assert adapter.source_pixels_per_patch((side, side)) == patch


def test_source_pixels_per_patch_is_whole_or_none(load: Callable[[str], Loaded]) -> None:
    llava = load("llava").adapter
    assert llava.source_pixels_per_patch((100, 100)) is None
    assert llava.source_pixels_per_patch((168, 336)) == 28  # cropped, but resized alike in both directions
    assert load("gemma3").adapter.source_pixels_per_patch((168, 84)) is None  # squeezed into a square
    assert load("llava_next").adapter.source_pixels_per_patch((84, 84)) is None


def test_centre_crop_of_llava(load: Callable[[str], Loaded]) -> None:
    """A wide source is resized by its short side, so a shift by a patch moves the crop by a patch."""
    adapter = load("llava").adapter
    image = picture(7, 336, 168)
    assert adapter.resized(image.size) == (168, 84)
    step = adapter.source_pixels_per_patch(image.size)
    assert step == 28
    before, after = (pixel_values(adapter.processor.image_processor, i) for i in (image, rolled(image, step)))
    assert torch.allclose(after[..., 14:], before[..., :-14], atol=1e-5)
    assert prepare(adapter, Ask("?", (image,))).input_size == ((84, 84),)
