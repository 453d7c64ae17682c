"""What region methods read off a model, against eager attention, finite differences and known layouts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import picture as noise
from tiny_models import FAMILIES, build
from torch import Tensor

from vlmbench.errors import ContractError, NotApplicableError, UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.models.answer_gradient import attention_gradients, picture, pixel_gradients
from vlmbench.models.features import EncoderOutput
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import load_model
from vlmbench.models.places import image_places
from vlmbench.models.pruning import Applied
from vlmbench.models.responses import Response, last_attention, responses
from vlmbench.roi.reading import GENERAL, Subject, View, read, view

Tiny = Callable[[str], Path]
Load = Callable[..., Adapter]

NEW = 5
CLOSE = 1e-5
BATCH = 2e-5
SIZES = (100, 100), (90, 60), (70, 150)
QUESTIONS = ("What colour is it?", "Is there a blue square above the green triangle?", "How many?")


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family, attn="auto": opened(tiny_model(family), attn))


def opened(folder: Path, attn: str = "auto") -> Adapter:
    return Adapter(load_model(str(folder), dtype="float32", device="cpu", attn=attn))


def prepared(adapter: Adapter, text: str = "") -> list[RowInputs]:
    return [
        adapter.prepare(adapter.render(text or asked, 1), [noise(i, size)], NEW)
        for i, (size, asked) in enumerate(zip(SIZES, QUESTIONS, strict=True))
    ]


def encoded(adapter: Adapter, rows: Sequence[RowInputs]) -> EncoderOutput:
    return adapter.encode(rows, frozenset())


def eager(adapter: Adapter, row: RowInputs, new: int = NEW) -> tuple[list[int], list[list[Tensor]]]:
    """Of one request alone: the new tokens, and per pass and layer [A, K], attention of the last query."""
    output = encoded(adapter, [row])
    inputs = adapter.model_inputs([row], output, Applied(output.features))
    with torch.inference_mode():
        made = adapter.model.generate(
            **inputs,
            max_new_tokens=new,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    rows = [[layer[0, :, -1] for layer in step] for step in made.attentions]
    return made.sequences[0, inputs["input_ids"].shape[1] :].tolist(), rows


def visual(adapter: Adapter, row: RowInputs) -> Tensor:
    """Columns of the visual tokens in the padded prompt of one request alone."""
    output = encoded(adapter, [row])
    inputs = adapter.model_inputs([row], output, Applied(output.features))
    return (inputs["input_ids"][0] == adapter.image_token_id).nonzero()[:, 0]


def expected(
    adapter: Adapter, row: RowInputs, ends: Sequence[int], new: int = NEW
) -> tuple[list[Tensor], int]:
    """Per layer [A, n], by hand from every pass behind the first, and how many passes count."""
    tokens, passes = eager(adapter, row, new)
    columns = visual(adapter, row)
    length = passes[0][0].shape[-1]
    read_again = tokens[: len(passes) - 1]
    count = next((i for i, token in enumerate(read_again) if token in ends), len(read_again))
    found = []
    for layer in range(len(passes[0])):
        full = []
        for step in range(1, count + 1):
            short = passes[step][layer]
            # a layer that slides shows its last columns alone
            full.append(torch.nn.functional.pad(short, (length + step - short.shape[-1], 0))[:, columns])
        zeros = torch.zeros(passes[0][layer].shape[0], len(columns))
        found.append(torch.stack(full).mean(0) if full else zeros)
    return found, count


def all_responses(adapter: Adapter, rows: Sequence[RowInputs], new: int = NEW) -> list[Response]:
    output = encoded(adapter, rows)
    return responses(adapter, rows, output, output.features, new, range(adapter.layers))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attn", ["auto", "eager"])
def test_attention_of_the_answer(family: str, attn: str, load: Load) -> None:
    """Rows that end at different steps, in one batch, against each request alone and eager."""
    adapter, plain = load(family, attn), load(family, "eager")
    rows = prepared(adapter)
    tokens = [eager(plain, row)[0] for row in rows]
    # one answer ends behind its first token, unless that is an answer's first
    firsts = {each[0] for each in tokens}
    end = next((t for each in tokens for t in each[1:] if t not in firsts), None)
    ends = [] if end is None else [end]
    before = adapter.model.generation_config.eos_token_id
    try:
        for each in (adapter, plain):
            each.model.generation_config.eos_token_id = ends or None
        found = all_responses(adapter, rows)
        answers = adapter.answer(rows, output := encoded(adapter, rows), Applied(output.features), NEW)
        for row, got, answer in zip(rows, found, answers, strict=True):
            oracle, count = expected(plain, row, ends)
            assert got.tokens == count
            assert got.generation.text == answer.text
            assert got.generation.new_tokens == answer.new_tokens
            assert list(got.attention) == list(range(adapter.layers))
            for layer, weights in got.attention.items():
                assert weights.shape == oracle[layer].shape
                assert (weights - oracle[layer]).abs().max() <= BATCH
                assert float(weights.sum(1).max()) <= 1 + 1e-5
        assert not adapter.model._forward_pre_hooks
    finally:
        for each in (adapter, plain):
            each.model.generation_config.eos_token_id = before


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_answers_of_one_token_and_of_none(family: str, load: Load) -> None:
    adapter, plain = load(family), load(family, "eager")
    rows = prepared(adapter)
    tokens = [eager(plain, row)[0] for row in rows]
    before = adapter.model.generation_config.eos_token_id
    try:
        for end, count in ((tokens[0][1], 1), (tokens[0][0], 0)):
            if count and tokens[0][1] == tokens[0][0]:
                continue
            for each in (adapter, plain):
                each.model.generation_config.eos_token_id = end
            (got,) = all_responses(adapter, rows[:1])
            oracle, counted = expected(plain, rows[0], [end])
            assert got.tokens == counted == count
            assert max(float((got.attention[i] - oracle[i]).abs().max()) for i in got.attention) <= CLOSE
            assert all(bool(weights.any()) == bool(count) for weights in got.attention.values())
    finally:
        for each in (adapter, plain):
            each.model.generation_config.eos_token_id = before
    assert [each.tokens for each in all_responses(adapter, rows, new=1)] == [0, 0, 0]


def test_layers_that_slide_forget_the_image(tmp_path: Path) -> None:
    folder = build("gemma3", tmp_path / "gemma3", sliding_window=16)
    adapter, plain = opened(folder), opened(folder, "eager")
    ends = plain.model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends
    (row,) = prepared(adapter)[1:2]
    (got,) = all_responses(adapter, [row])
    oracle, count = expected(plain, row, ends)
    assert got.tokens == count > 0
    assert max(float((got.attention[i] - oracle[i]).abs().max()) for i in got.attention) <= CLOSE
    assert bool((got.attention[0] == 0).any())
    assert not bool((got.attention[2] == 0).any())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attn", ["auto", "eager"])
def test_attention_of_the_last_prompt_token(family: str, attn: str, load: Load) -> None:
    adapter, plain = load(family, attn), load(family, "eager")
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    ran: list[int] = []
    layers = adapter.model.base_model.get_decoder().layers
    handles = [
        layer.mlp.register_forward_pre_hook(lambda m, a, i=i: ran.append(i)) for i, layer in enumerate(layers)
    ]
    found = last_attention(adapter, rows, output, output.features, [2, 0])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    for row, got in zip(rows, found, strict=True):
        passes, columns = eager(plain, row, 1)[1], visual(adapter, row)
        assert list(got) == [0, 2]
        for layer, weights in got.items():
            assert (weights - passes[0][layer][:, columns]).abs().max() <= BATCH
    for wrong in ([], [-1], [adapter.layers]):
        with pytest.raises(UsageError, match=r"layers must be in 0\.\."):
            last_attention(adapter, rows, output, output.features, wrong)


# ------------------------------------------------------------------------------------------- gradients


def log_p(adapter: Adapter, row: RowInputs) -> float:
    output = encoded(adapter, [row])
    inputs = adapter.model_inputs([row], output, Applied(output.features))
    with torch.inference_mode():
        made = adapter.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return float(made.logits[0][0].double().log_softmax(-1).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_attention(
    family: str, load: Load, tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against finite differences: eager attention whose weights are moved, in two layers at once."""
    adapter, plain = opened(tiny_model(family)), opened(tiny_model(family), "eager")
    rows, layers = prepared(adapter)[:2], (1, 3)
    output = encoded(adapter, rows)
    asked = [p.requires_grad for p in adapter.model.parameters()]
    found = attention_gradients(adapter, rows, output, output.features, layers)
    assert [p.requires_grad for p in adapter.model.parameters()] == asked
    seen = last_attention(adapter, rows, output, output.features, layers)
    decoder = plain.model.base_model.get_decoder()
    module = sys.modules[type(decoder.layers[0].self_attn).__module__]
    original = module.eager_attention_forward
    moves: dict[Any, Tensor] = {}

    def moved(own: Any, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any) -> Any:
        result, weights = original(own, query, key, value, *mask, **options)
        # eager softmax works in float32, where the mask of double precision is -inf: padding sees nothing
        result = result.nan_to_num()
        if own in moves:
            values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            result[:, -1] += torch.einsum("hk,hkd->hd", moves[own], values[0])
        return result, weights

    monkeypatch.setattr(module, "eager_attention_forward", moved)
    plain.model.double()
    generator = torch.Generator().manual_seed(0)
    for row, own, attention in zip(rows, found, seen, strict=True):
        columns = visual(plain, row)
        length = -(-row.length // 8) * 8
        for layer in layers:
            assert (own.attention[layer] - attention[layer]).abs().max() <= CLOSE
            gradient = own.gradient[layer].double()
            direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            # mostly along the gradient: elsewhere the change drowns in rounding
            direction = direction / direction.norm() + gradient / gradient.norm()
            step = 1e-4 * direction / direction.norm()
            whole = torch.zeros(len(gradient), length, dtype=torch.float64)
            values = []
            for sign in (1, -1):
                whole[:, columns] = sign * step
                moves[decoder.layers[layer].self_attn] = whole
                values.append(log_p(plain, row))
            moves.clear()
            assert (values[0] - values[1]) / 2 == pytest.approx(float((gradient * step).sum()), rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_pixels(family: str, tiny_model: Tiny) -> None:
    adapter = opened(tiny_model(family))
    rows = prepared(adapter)
    alone = pixel_gradients(adapter, rows[:1])[0]
    found = pixel_gradients(adapter, rows)
    assert (found[0] - alone).abs().max() <= 1e-3 * float(alone.abs().max())
    adapter.model.double()
    generator = torch.Generator().manual_seed(0)
    for row, gradient in zip(rows, found, strict=True):
        pixels = row.vision["pixel_values"].double()
        assert gradient.shape == pixels.shape
        direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
        direction = direction / direction.norm() + gradient.double() / gradient.double().norm()
        direction[gradient == 0] = 0  # whether a tile is padding is told from its zeros
        step = 1e-3 * direction / direction.norm()
        ends = [
            log_p(adapter, replace(row, vision={**row.vision, "pixel_values": pixels + sign * step}))
            for sign in (1, -1)
        ]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float((gradient.double() * step).sum()), rel=0.03)


# ------------------------------------------------------------------------------------------------ views

WHOLE = {"llava_next": 0, "llava_onevision": 0, "internvl": -1, "smolvlm": -1, "idefics3": -1}
"""Of families that cut tiles, which one shows the whole image."""


def viewed(adapter: Adapter, output: EncoderOutput, row: int, sizes: Sequence[tuple[int, int]]) -> View:
    features = output.features[row]
    places = image_places(adapter, sizes)
    assert places is not None
    return view(features, places.place([image.grid for image in features.images]), sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_view_of_the_whole_image(family: str, load: Load) -> None:
    adapter = load(family)
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    for i, size in enumerate(SIZES):
        found = viewed(adapter, output, i, [size])
        (image,) = output.features[i].images
        rows_, columns = found.grid
        assert len(found.index) == len(found.cells) == rows_ * columns
        grid = image.grid[found.index]
        raster = [(r, c) for r in range(rows_) for c in range(columns)]
        assert [tuple(each) for each in grid[:, 1:].tolist()] == raster
        tile = WHOLE.get(family, 0) % (int(image.grid[:, 0].max()) + 1)
        assert found.at == (0, tile)
        assert set(grid[:, 0].tolist()) == {tile}
        sides = found.cells[:, 2:] - found.cells[:, :2]
        assert not found.cells.isnan().any()
        # cells do not overlap; together they are the image, or what a centre crop leaves of it
        seen = min(size) ** 2 if family == "llava" else size[0] * size[1]
        assert float(sides.prod(1).sum()) == pytest.approx(seen, rel=0.03)
        # and its pixels are those of the picture
        vision = rows[i].vision
        own = picture(adapter.model.config, vision, vision["pixel_values"], found.tiles, *found.at)
        assert own.shape[0] == 3
        assert abs(own.shape[1] / rows_ - own.shape[2] / columns) <= 1


def test_pixels_of_a_grid_of_patches(load: Load) -> None:
    """At a size that is kept, the picture is the normalised image itself, once per frame."""
    adapter = load("qwen2_5_vl")
    image = noise(3, (112, 84))
    row = adapter.prepare(adapter.render("?", 2), [noise(4, (84, 112)), image], 0)
    own = picture(adapter.model.config, row.vision, row.vision["pixel_values"], (1, 1), 1, 0) / 2
    processor = adapter.processor.image_processor
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(84, 112, 3)
    assert own.shape == (3, 84, 112)
    assert (own - (pixels.permute(2, 0, 1) / 255 - mean) / std).abs().max() < 1e-5


def test_no_view(load: Load) -> None:
    adapter = load("llava_next")
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    features = output.features[0]
    (image,) = features.images
    placed = image_places(adapter, SIZES[:1]).place([image.grid])
    with pytest.raises(NotApplicableError, match="needs an image"):
        view(replace(features, images=()), placed, SIZES[:1])
    with pytest.raises(NotApplicableError, match="places of this model's visual tokens"):
        view(features, None, SIZES[:1])
    hidden = placed[0].cells.clone()
    hidden[image.grid[:, 0] == 0] = 0
    with pytest.raises(NotApplicableError, match="shows it nowhere as a whole"):
        view(features, [replace(placed[0], cells=hidden)], SIZES[:1])
    holes = image.grid.clone()
    holes[3] = -1
    part = replace(image, grid=holes)
    with pytest.raises(NotApplicableError, match="no grid of rows and columns"):
        view(replace(features, images=(part,)), placed, SIZES[:1])


# ---------------------------------------------------------------------------------------------- signals

EVERY = frozenset(
    {
        "response_attention",
        "last_attention",
        "general_attention",
        "attention_gradient",
        "pixel_gradient",
        "boxes",
        "probability",
    }
)


def subjects(adapter: Adapter, output: EncoderOutput, rows: Sequence[RowInputs]) -> list[Subject]:
    general = prepared(adapter, GENERAL)
    return [
        Subject(row, part, viewed(adapter, output, i, [size]), other, ((0.0, 0.0, 9.0, 9.0),), 7 + i)
        for i, (row, part, size, other) in enumerate(zip(rows, output.features, SIZES, general, strict=True))
    ]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_signals(family: str, load: Load) -> None:
    adapter, layers = load(family), (1, 3)
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    asked = subjects(adapter, output, rows)
    together = read(adapter, asked, output, EVERY, layers, NEW)
    answers = adapter.answer(rows, output, Applied(output.features), NEW)
    general = prepared(adapter, GENERAL)
    last = [last_attention(adapter, each, output, output.features, layers) for each in (rows, general)]
    for i, (found, subject, answer) in enumerate(zip(together, asked, answers, strict=True)):
        signals, index = found.signals, subject.view.index
        n = len(index)
        assert (signals.size, signals.grid, signals.depth) == (SIZES[i], subject.view.grid, adapter.layers)
        assert (signals.boxes, signals.seed) == (subject.boxes, 7 + i)
        assert signals.probability == answer.prob
        assert found.answer is not None
        assert found.answer.text == answer.text
        for name in ("response_attention", "attention_gradient", "last_attention", "general_attention"):
            got = getattr(signals, name)
            assert list(got) == list(layers)
            assert all(each.shape == (4, n) and each.dtype == torch.float32 for each in got.values())
        for layer in layers:
            for got, by_hand in zip((signals.last_attention, signals.general_attention), last, strict=True):
                assert (got[layer] - by_hand[i][layer][:, index]).abs().max() <= BATCH
        assert signals.pixel_gradient is not None
        assert signals.pixel_gradient.shape[0] == 2
        high, wide = signals.pixel_gradient.shape[1:]
        assert high % signals.grid[0] == wide % signals.grid[1] == 0
        assert bool((signals.pixel_gradient >= 0).all())
        assert bool(signals.pixel_gradient.any())
        assert bool(signals.shown.any())
    alone = read(adapter, asked[1:2], replace_features(output, 1), EVERY, layers, NEW)[0].signals
    for name in ("response_attention", "last_attention", "general_attention"):
        for layer in layers:
            assert (
                getattr(alone, name)[layer] - getattr(together[1].signals, name)[layer]
            ).abs().max() <= BATCH
    assert alone.pixel_gradient is not None
    scale = float(alone.pixel_gradient.max())
    assert (alone.pixel_gradient - together[1].signals.pixel_gradient).abs().max() <= 1e-3 * scale


def replace_features(output: EncoderOutput, row: int) -> EncoderOutput:
    return replace(output, features=output.features[row : row + 1])


def test_nothing_else_is_read(load: Load) -> None:
    adapter = load("llava")
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    asked = subjects(adapter, output, rows)
    optional = [*EVERY, "rpn"]
    for need in sorted(EVERY):
        signals = read(adapter, asked[:1], output, frozenset({need}), (1,), NEW)[0].signals
        assert {name for name in optional if getattr(signals, name) is not None} - {
            "probability",
            "boxes",
        } == {need} - {"probability", "boxes"}
        assert (signals.probability is not None) == (need == "probability")
        assert (signals.boxes is not None) == (need == "boxes")
    with pytest.raises(ContractError, match="unknown need 'maps'"):
        read(adapter, asked, output, frozenset({"maps"}))
    with pytest.raises(ContractError, match="without a region proposal network"):
        read(adapter, asked, output, frozenset({"rpn"}))
    with pytest.raises(ContractError, match="without the general prompt"):
        read(adapter, [replace(asked[0], general=None)], output, frozenset({"general_attention"}), (1,))
