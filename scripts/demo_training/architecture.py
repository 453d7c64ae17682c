"""The demo model's architecture: an ordinary LLaVA, only thin."""

from __future__ import annotations

import math

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from demo_training.views import SIDE

PATCH = 12
SIZES = {
    "full": {"vision_width": 128, "vision_layers": 5, "text_width": 96, "text_layers": 8, "heads": 4},
    "half": {"vision_width": 96, "vision_layers": 4, "text_width": 64, "text_layers": 8, "heads": 4},
}


def build(size: str, vocabulary: int, ids: dict[str, int], seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised model. ids: token ids of image, bos, eos and pad."""
    s = SIZES[size]
    vision = CLIPVisionConfig(
        hidden_size=s["vision_width"],
        intermediate_size=4 * s["vision_width"],
        num_hidden_layers=s["vision_layers"],
        num_attention_heads=s["heads"],
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=s["text_width"],
        intermediate_size=3 * s["text_width"],
        num_hidden_layers=s["text_layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["heads"],
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        initializer_range=0.04,
        tie_word_embeddings=False,
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["image"],
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // PATCH) ** 2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).float()
    _initialise(model, s["text_layers"])
    return model


@torch.no_grad()
def _initialise(model: LlavaForConditionalGeneration, layers: int) -> None:
    # The residual branches start small, or twelve thin layers do not train.
    for layer in model.model.language_model.layers:
        for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            matrix.div_(math.sqrt(2 * layers))
    embeddings = model.model.vision_tower.vision_model.embeddings if hasattr(
        model.model.vision_tower, "vision_model") else model.model.vision_tower.embeddings  # fmt: skip
    positions = embeddings.position_embedding.weight
    positions[1:, : positions.shape[1] // 2] = _sincos(SIDE // PATCH, positions.shape[1] // 2)
    torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.04)


def _sincos(grid: int, width: int) -> torch.Tensor:
    """Two-dimensional sine-cosine positions [grid * grid, width], small like the other embeddings."""
    quarter = width // 4
    frequencies = 1.0 / 100 ** (torch.arange(quarter) / quarter)
    line = torch.arange(grid)[:, None] * frequencies
    waves = torch.cat([line.sin(), line.cos()], -1)
    x = waves[None].expand(grid, grid, -1)
    y = waves[:, None].expand(grid, grid, -1)
    return 0.2 * torch.cat([x, y], -1).reshape(grid * grid, width)
