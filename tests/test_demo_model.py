"""The embedded model: an ordinary checkpoint for stock classes, small, and right about held-out scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import vlmbench.demo  # noqa: E402
from vlmbench.demo.phrasings import FRAMES  # noqa: E402
from vlmbench.demo.questions import CHOICES, ask  # noqa: E402
from vlmbench.demo.scenes import SPLITS, make_scene, render  # noqa: E402

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
FOLDER = Path(vlmbench.demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def processor() -> Any:
    return transformers.AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(FOLDER).eval()


def prompt(processor: Any, question: str, images: int) -> str:
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    message = {"role": "user", "content": content}
    return str(processor.apply_chat_template([message], add_generation_prompt=True))


def answer(model: Any, processor: Any, asked: Sequence[tuple[list[Any], str]]) -> list[str]:
    texts = [prompt(processor, question, len(images)) for images, question in asked]
    inputs = processor(text=texts, images=[i for i, _ in asked], padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(out, skip_special_tokens=True)]


def test_it_is_a_small_ordinary_llava(model: Any) -> None:
    assert type(model) is transformers.LlavaForConditionalGeneration
    assert model.dtype == torch.float32
    assert (FOLDER / "model.safetensors").stat().st_size < 8_000_000
    assert not list(FOLDER.glob("*.py"))
    assert not list(FOLDER.glob("*.bin"))
    assert 8 <= len(model.base_model.get_decoder().layers) <= 12


def test_each_image_gives_144_tokens(model: Any, processor: Any) -> None:
    image = render(make_scene(0))
    for count in (1, 2):
        inputs = processor(
            text=[prompt(processor, "what colour is the star ?", count)],
            images=[[image] * count],
            return_tensors="pt",
        )
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 144 * count
        assert inputs["pixel_values"].shape == (count, 3, 144, 144)


def test_the_vocabulary_knows_every_question_and_answer(processor: Any) -> None:
    tokenizer = processor.tokenizer
    for seed in range(60):
        for q in ask(make_scene(seed), 0):
            for text in (q.question, *q.phrasings.values()):
                assert tokenizer.unk_token_id not in tokenizer(text.upper()).input_ids, text
    for frame in FRAMES:
        assert tokenizer.unk_token_id not in tokenizer(frame.format(q="")).input_ids, frame
    for choices in CHOICES.values():
        for choice in choices:
            ids = tokenizer(choice).input_ids
            assert len(ids) == 1
            assert tokenizer.decode(ids) == choice


def test_it_answers_held_out_scenes_by_looking(model: Any, processor: Any) -> None:
    """Far from a measurement (that is in the README), but no model that does not look passes."""
    scenes = [make_scene(seed) for seed in SPLITS["test"][5000:5015]]
    masters = [render(scene) for scene in scenes]
    items = [(i, q) for i, scene in enumerate(scenes) for q in ask(scene, 0)]

    def share(shown: list[tuple[list[Any], str]]) -> float:
        found = answer(model, processor, shown)
        return sum(text == q.answer for text, (_, q) in zip(found, items, strict=True)) / len(items)

    once = share([([masters[i]], q.question) for i, q in items])
    twice = share([([masters[i], masters[i]], q.question) for i, q in items])
    blind = share([([masters[i - 3]], q.question) for i, q in items])
    assert once > 0.8
    assert abs(twice - once) < 0.06
    assert blind < 0.55


def test_generation_stops_after_one_word(model: Any, processor: Any) -> None:
    scene = make_scene(SPLITS["test"][1])
    for q in ask(scene, 0):
        inputs = processor(
            text=[prompt(processor, q.question, 1)], images=[render(scene)], return_tensors="pt"
        )
        new = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        assert len(new) == 2
        assert new[-1] == model.generation_config.eos_token_id


def test_packed_questions_read_as_each_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's packing against the stock forward pass, with one image and with two."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from demo_training.export import BOS, BREAK, IMAGE, vocabulary
    from demo_training.language_stage import read_packed
    from demo_training.packing import Questions, pack

    random = np.random.RandomState(0)
    segments = Questions(vocabulary()).draw(make_scene(4), random)[:6]
    packed = pack([segments, segments[:3]])
    for count in (1, 2):
        pixels = torch.randn(count, 3, 144, 144)
        with torch.inference_mode():
            features = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
            projected = [model.model.multi_modal_projector(f[None].expand(2, -1, -1)) for f in features]
            final, _ = read_packed(model, projected, packed)
            logits = model.lm_head(final[packed.answer_at[:, 0], packed.answer_at[:, 1]])
            for got, segment in zip(logits, [*segments, *segments[:3]], strict=True):
                ids = torch.tensor([[BOS, *([*[IMAGE] * 144, BREAK] * count), *segment.tokens[:-1]]])
                alone = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
                assert torch.allclose(got, alone.logits[0, -1], atol=1e-3)


def test_training_that_goes_on_equals_training_without_a_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from demo_training.checkpoints import Checkpoint
    from demo_training.muon import Optimisers

    def begin() -> tuple[Any, Any, Any]:
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 6))
        model[2].weight = model[0].weight  # tied, as embeddings and head
        optimisers = Optimisers(model, [model], 1e-2, 1e-2)
        return model, optimisers, Checkpoint(tmp_path / "a.safetensors", {"model": model}, optimisers)

    def train(model: Any, optimisers: Any, steps: range) -> None:
        for step in steps:
            inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
            model(inputs).square().sum().backward()
            optimisers.step(1.0)

    model, optimisers, _ = begin()
    train(model, optimisers, range(6))
    broken, its, checkpoint = begin()
    assert checkpoint.load() == 0
    train(broken, its, range(3))
    checkpoint.save(3)
    again, others, checkpoint = begin()
    assert checkpoint.load() == 3
    train(again, others, range(3, 6))
    assert [*tmp_path.iterdir()] == [tmp_path / "a.safetensors"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
