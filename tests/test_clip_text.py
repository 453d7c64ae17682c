"""The relevance of patches to a question, against the CLIP model that the parts are taken from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny.text import make_tokenizer
from transformers import CLIPConfig, CLIPModel

from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.clip_text import ClipText, check_tower, clip_relevance, load_clip

WIDTH, LENGTH = 24, 16
SHORT = "What colour is the car?"
LONG = " ".join([SHORT, "Is there a blue square above the green triangle? Answer yes or no."] * 2)


def save_clip(folder: Path, width: int = WIDTH) -> Path:
    tokenizer = make_tokenizer(
        (), bos="<|startoftext|>", eos="<|endoftext|>", pad="<pad>", adds_bos=True, named={}
    )
    torch.manual_seed(0)
    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        text_config={
            **common,
            "hidden_size": 16,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LENGTH,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**common, "hidden_size": width, "image_size": 8, "patch_size": 2},
        projection_dim=12,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():  # as initialised, the norm would change nothing
        model.vision_model.post_layernorm.weight.uniform_(0.5, 1.5)
        model.vision_model.post_layernorm.bias.uniform_(-0.5, 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipText:
    return load_clip(str(folder))


def vlm(kind: str = "clip_vision_model", width: int = WIDTH, **more: int) -> Any:
    vision = SimpleNamespace(model_type=kind, hidden_size=width, **more)
    return SimpleNamespace(config=SimpleNamespace(vision_config=vision))


def test_a_class_token_gets_clips_own_similarity(folder: Path, clip: ClipText) -> None:
    whole = CLIPModel.from_pretrained(folder).eval()
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    encoded = clip.tokenizer(SHORT, return_tensors="pt")
    assert encoded["input_ids"].shape[1] <= LENGTH
    with torch.no_grad():
        output = whole(**encoded, pixel_values=pixels)
    hidden = output.vision_model_output.last_hidden_state[:, 0]
    wanted = output.logits_per_image[:, 0] / whole.logit_scale.exp()
    torch.testing.assert_close(clip_relevance(vlm(), clip, hidden, SHORT), wanted, atol=1e-6, rtol=1e-5)
    half = clip_relevance(vlm(), clip, hidden.bfloat16(), SHORT)
    assert half.dtype == torch.float32


def test_a_long_question_is_read_in_parts(folder: Path, clip: ClipText) -> None:
    whole = CLIPModel.from_pretrained(folder).eval()
    ids = clip.tokenizer(LONG, return_tensors="pt")["input_ids"][0].tolist()
    assert len(ids) > 2 * LENGTH
    parts = []
    for start in range(0, len(ids), LENGTH):
        part = ids[start : start + LENGTH]
        rest = LENGTH - len(part)
        with torch.no_grad():
            pooled = whole.text_model(
                input_ids=torch.tensor([part + [0] * rest]),
                attention_mask=torch.tensor([[1] * len(part) + [0] * rest]),
            ).pooler_output
            text = whole.text_projection(pooled)[0]
        parts.append(text / text.norm())
    hidden = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        patches = whole.visual_projection(whole.vision_model.post_layernorm(hidden))
    wanted = [sum(float(p @ t / p.norm()) for t in parts) / len(parts) for p in patches]
    torch.testing.assert_close(clip_relevance(vlm(), clip, hidden, LONG), torch.tensor(wanted))
    assert clip_relevance(vlm(), clip, hidden, "").shape == (5,)


def test_another_tower_is_refused(clip: ClipText) -> None:
    hidden = torch.randn(2, WIDTH)
    with pytest.raises(NotApplicableError, match="this model's is siglip_vision_model; use cdpruner-llm"):
        clip_relevance(vlm("siglip_vision_model"), clip, hidden, SHORT)
    with pytest.raises(NotApplicableError, match="is 24 wide and the model's vision tower 32"):
        clip_relevance(vlm(width=32), clip, hidden, SHORT)
    with pytest.raises(NotApplicableError, match="this model's is unknown"):
        clip_relevance(SimpleNamespace(config=SimpleNamespace()), clip, hidden, SHORT)


def test_without_a_checkpoint_the_one_that_fits_is_named() -> None:
    """First what is lacking; never one whose width cannot match, nor any where the tower is no CLIP."""
    for model, says in (
        (vlm(width=1024, patch_size=14, image_size=336), "clip=openai/clip-vit-large-patch14-336"),
        (vlm(width=768, patch_size=32, image_size=224), "clip=openai/clip-vit-base-patch32"),
        (vlm(width=128), "no published CLIP is known for a vision tower 128 wide"),
        (vlm("siglip_vision_model"), "vision tower of CLIP, this model's is siglip_vision_model"),
    ):
        with pytest.raises(NotApplicableError, match=says) as error:
            check_tower(model)
        assert str(error.value).endswith("use cdpruner-llm")
        assert "openai" in says or "openai" not in str(error.value)
    check_tower(vlm(width=128), "my/clip")


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    pickled = save_clip(tmp_path / "pickled")
    state = pickled / "model.safetensors"
    state.rename(pickled / "pytorch_model.bin")
    for folder, message in (
        (other, "this is bert"),
        (pickled, "cannot be loaded"),
        (tmp_path, "cannot be loaded"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            load_clip(str(folder))
        assert "\n" not in str(error.value)
