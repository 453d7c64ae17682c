"""Models of random weights, built in process from configurations, and prompts for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

from vlmbench.models.adapter import Adapter
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import LoadedModel

SEED = 0
TEXT_TOKENS = 40
IMAGE = 32000  # id of the placeholder, in every vocabulary here


@dataclass(frozen=True)
class Case:
    """A model and its prompt: 40 text tokens and one image of `tokens` visual tokens."""

    name: str
    config: dict[str, Any]
    tokens: int
    vision: Callable[[int], dict[str, Tensor]]
    """Vision tensors of an image of so many tokens."""

    def adapter(self, device: torch.device, dtype: torch.dtype) -> Adapter:
        config = AutoConfig.for_model(**self.config)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
        _fill(model)
        model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
        processor = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
        return Adapter(LoadedModel(model, processor, self.name, "random", family=self.config["model_type"]))

    def row(self, tokens: int | None = None) -> RowInputs:
        """A prompt whose image has `tokens` visual tokens, by default the case's own."""
        n = self.tokens if tokens is None else tokens
        generator = torch.Generator().manual_seed(n)
        text = torch.randint(10, 30000, (TEXT_TOKENS,), generator=generator)
        half = TEXT_TOKENS // 2
        ids = torch.cat([text[:half], torch.full((n,), IMAGE), text[half:]])[None]
        sequence = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.config["model_type"].startswith("qwen"):
            sequence["mm_token_type_ids"] = (ids == IMAGE).long()
        return RowInputs(sequence, self.vision(n), n, ())


@torch.no_grad()
def _fill(model: Any) -> None:
    """Weights that keep the scale of what passes through: at .02 a projector answers to all tokens alike."""
    generator = torch.Generator(model.device).manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)


def _pixels(tiles: int) -> Tensor:
    return torch.randn(tiles, 3, 336, 336, generator=torch.Generator().manual_seed(1))


def _llava_pixels(tokens: int) -> dict[str, Tensor]:
    return {"pixel_values": _pixels(1)}


def _next_pixels(tokens: int) -> dict[str, Tensor]:
    return {"pixel_values": _pixels(5)[None], "image_sizes": torch.tensor([[672, 672]])}


def _qwen_pixels(tokens: int) -> dict[str, Tensor]:
    """Patches of the squarest grid whose 2 x 2 groups make so many tokens."""
    high = next(side for side in range(math.isqrt(tokens), 0, -1) if tokens % side == 0)
    grid = torch.tensor([[1, 2 * high, 2 * tokens // high]])
    patches = torch.randn(4 * tokens, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": patches, "image_grid_thw": grid}


def _llava(text: dict[str, Any], vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, **text},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
        "image_token_index": IMAGE,
        "image_seq_length": 576,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **more,
    }


def _qwen(text: dict[str, Any], vision: dict[str, Any], mrope: list[int]) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": mrope}
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "max_position_embeddings": 32768,
            "rope_parameters": rope,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **text,
        },
        "vision_config": {
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            **vision,
        },
        "image_token_id": IMAGE,
        "video_token_id": IMAGE + 1,
        "vision_start_token_id": IMAGE + 2,
        "vision_end_token_id": IMAGE + 3,
        "tie_word_embeddings": False,
    }


def _widths(width: int, layers: int, heads: int, ffn: int, **more: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        **more,
    }


MEDIUM_VIT = _widths(384, 6, 6, 1536)
VIT_L = _widths(1024, 24, 16, 4096, projection_dim=768)
VICUNA_7B = _widths(4096, 32, 32, 11008)
NEXT_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

# the merger is square in 4 x the tower's width: in a tower of 384 the closed form alone would be half of this
# prefill; with 128, and Qwen's wide FFN, it is 5 % of its MACs (Qwen2.5-VL-7B 3.1 %, 3B 6.2 %)
_QWEN_MEDIUM = _qwen(
    _widths(512, 8, 8, 2752, num_key_value_heads=2, vocab_size=32064),
    {
        "hidden_size": 128,
        "depth": 6,
        "num_heads": 4,
        "intermediate_size": 512,
        "out_hidden_size": 512,
        "fullatt_block_indexes": [2, 5],
    },
    [8, 12, 12],
)
_QWEN_7B = _qwen(
    _widths(3584, 28, 28, 18944, num_key_value_heads=4, vocab_size=152064),
    {
        "hidden_size": 1280,
        "depth": 32,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    [16, 24, 24],
)

MEDIUM = (
    Case(
        "LLaVA-like, ViT 384x6, LLM 512x8", _llava(_widths(512, 8, 8, 1376), MEDIUM_VIT), 576, _llava_pixels
    ),
    Case("Qwen2.5-VL-like, ViT 128x6, LLM 512x8", _QWEN_MEDIUM, 576, _qwen_pixels),
)
"""Small enough for a CPU."""

LARGE = {
    "llava": Case("LLaVA-1.5-7B", _llava(VICUNA_7B, VIT_L), 576, _llava_pixels),
    # 5 tiles of 576 and 48 newlines
    "llava-next": Case(
        "LLaVA-NeXT-7B",
        _llava(VICUNA_7B, VIT_L, model_type="llava_next", image_grid_pinpoints=NEXT_GRID),
        2928,
        _next_pixels,
    ),
    "qwen": Case("Qwen2.5-VL-7B", _QWEN_7B, 576, _qwen_pixels),
    "qwen-2880": Case("Qwen2.5-VL-7B", _QWEN_7B, 2880, _qwen_pixels),
}
"""For a GPU."""
