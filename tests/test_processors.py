"""Processors of all families, without torchvision: placeholders equal feature rows, batches generate."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import FAMILIES, build

from vlmbench.errors import UsageError
from vlmbench.models import processors
from vlmbench.models.processors import ProcessorWarning, load_processor, read_processor

STOCK = {"llava", "llava_next", "idefics3", "gemma3", "paligemma"}
"""Families whose own processor loads without torchvision."""

Folder = Callable[[str], Path]
without_torchvision = pytest.mark.skipif(
    find_spec("torchvision") is not None, reason="the stock processors load where torchvision is installed"
)


def picture(seed: int, width: int, height: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def prompt(processor: Any, images: int, text: str) -> str:
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return rendered


def batch(processor: Any, counts: tuple[int, ...] = (1, 2)) -> Any:
    texts = [prompt(processor, n, "What colour is it?" + " Answer with a word." * n) for n in counts]
    sizes = [(60, 40), (90, 150), (100, 100), (130, 50)]
    images = [[picture(10 * i + j, *sizes[(i + j) % 4]) for j in range(n)] for i, n in enumerate(counts)]
    bos = processor.tokenizer.bos_token
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return processor(
            text=texts,
            images=images,
            return_tensors="pt",
            padding=True,
            add_special_tokens=not (bos and texts[0].startswith(bos)),
        )


@without_torchvision
@pytest.mark.parametrize("family", FAMILIES)
def test_loads_with_one_warning_at_most(family: str, tiny_model: Folder) -> None:
    folder = tiny_model(family)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processor = load_processor(str(folder))
    told = [str(w.message) for w in caught if issubclass(w.category, ProcessorWarning)]
    if family in STOCK:
        assert told == []
    else:
        assert len(told) == 1
        assert "torchvision" in told[0]
        assert 'pip install "vlmbench[vision]"' in told[0]
        assert ("num2words" in told[0]) == (family == "smolvlm" and find_spec("num2words") is None)
    files = [
        json.loads(path.read_text())
        for path in (folder / "processor_config.json", folder / "preprocessor_config.json")
        if path.exists()
    ]
    assert type(processor).__name__ == files[0]["processor_class"]
    assert getattr(processor, "video_processor", None) is None
    assert processor.tokenizer.padding_side == "left"
    assert processor.chat_template == (folder / "chat_template.jinja").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_template_renders_one_and_two_images(family: str, tiny_model: Folder) -> None:
    processor, _ = read_processor(str(tiny_model(family)))
    marker = processor.image_token
    for images in (1, 2):
        text = prompt(processor, images, "Is it red?")
        assert text.count(marker) == images
        assert "Is it red?" in text
        assert text.rindex(marker) < text.index("Is it red?")


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_equal_features_and_a_batch_generates(family: str, tiny_model: Folder) -> None:
    import inspect

    import torch
    from transformers import AutoModelForImageTextToText

    folder = tiny_model(family)
    processor, _ = read_processor(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = batch(processor)

    encode = model.base_model.get_image_features
    wanted = inspect.signature(encode).parameters
    with torch.no_grad():
        pooled = encode(**{k: inputs[k] for k in wanted if k in inputs}, return_dict=True).pooler_output
    parts = [pooled] if torch.is_tensor(pooled) else list(pooled)
    rows = sum(part.reshape(-1, part.shape[-1]).shape[0] for part in parts)
    placeholders = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    assert sum(placeholders) == rows
    assert all(6 <= count <= 100 for count in placeholders)

    mask = inputs["attention_mask"]
    assert mask[:, -1].all()
    assert not mask[0].all(), "rows of one length would not test the padding"
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        # The shorter row alone, without padding, answers the same.
        alone = model.generate(
            **batch(processor, counts=(1,)), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
    assert out.shape == (2, inputs["input_ids"].shape[1] + 3)
    assert out[0, -3:].tolist() == alone[0, -3:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_follow_the_image(family: str, tiny_model: Folder) -> None:
    """What the other tests need of these random models: another picture, another answer, no ties."""
    import torch
    from transformers import AutoModelForImageTextToText

    folder = tiny_model(family)
    processor, _ = read_processor(str(folder))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    text = prompt(processor, 1, "What colour is it?")
    answers, margins = set(), []
    for seed in range(6):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            inputs = processor(text=[text], images=[[picture(seed, 80, 80)]], return_tensors="pt")
            logits = model(**inputs).logits[0, -1]
        top = logits.topk(2)
        answers.add(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    assert len(answers) >= 2
    assert np.median(margins) > 0.01


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    first, same, other = (
        build("llava", tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for path in first.iterdir():
        assert path.read_bytes() == (same / path.name).read_bytes()
    name = "model.safetensors"
    assert (first / name).read_bytes() != (other / name).read_bytes()


@without_torchvision
def test_pixtral_rows_end_as_the_real_processor_writes_them(tiny_model: Folder) -> None:
    """[IMG] x columns, [IMG_BREAK] after each row but the last, which ends with [IMG_END]."""
    processor, _ = read_processor(str(tiny_model("mistral3")))
    inputs = processor(text=["[IMG]x"], images=[[picture(0, 84, 56)]], return_tensors="pt")
    assert inputs["image_sizes"].tolist() == [[56, 84]]
    row = [processor.image_token_id] * 3
    expected = [*row, processor.image_break_token_id, *row, processor.image_end_token_id]
    assert inputs["input_ids"][0, 1:9].tolist() == expected


def test_single_file_layout_of_newer_checkpoints(tiny_model: Folder, tmp_path: Path) -> None:
    """transformers 5 writes the image processor inside processor_config.json."""
    source = tiny_model("qwen2_5_vl")
    folder = tmp_path / "nested"
    shutil.copytree(source, folder)
    image = json.loads((folder / "preprocessor_config.json").read_text())
    video = json.loads((folder / "video_preprocessor_config.json").read_text())
    nested = {"processor_class": image["processor_class"], "image_processor": image, "video_processor": video}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    (folder / "preprocessor_config.json").unlink()
    (folder / "video_preprocessor_config.json").unlink()
    old, _ = read_processor(str(source))
    new, _ = read_processor(str(folder))
    assert type(new).__name__ == type(old).__name__
    one, two = batch(old), batch(new)
    assert all((one[key] == two[key]).all() for key in one)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_legacy_template_of_the_tokenizer_is_used(family: str, tiny_model: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "legacy"
    shutil.copytree(tiny_model(family), folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert read_processor(str(folder))[0].chat_template == template
    text_only = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": text_only}))
    assert read_processor(str(folder))[0].chat_template is None


def test_a_folder_without_image_processor_is_refused(tiny_model: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model("llava"), folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="LlavaProcessor cannot be built") as error:
        read_processor(str(folder))
    assert "\n" not in str(error.value)


@without_torchvision
def test_a_class_that_needs_the_package_for_images_is_named(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "images_only", lambda name: None)
    with pytest.raises(UsageError, match=r"needs torchvision .*vlmbench\[vision\]"):
        read_processor(str(tiny_model("mistral3")))
