"""MACs and bytes against what torch counts and what the cache holds, on every family."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, build
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlmbench.errors import UsageError
from vlmbench.metrics import cost
from vlmbench.metrics.cost import LlmShape, VisionShape
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.models.shape import llm_shape, vision_shape

SMALL = LlmShape(layers=3, width=8, q_width=12, kv_width=4, ffn=20, gated=True, vocabulary=50)
SEVEN_B = LlmShape(32, 4096, 4096, 4096, 11008, True, 32064)
MERGES_FOUR = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "idefics3", "gemma3", "mistral3"}
"""Families in which a visual token is made of four patches."""


def load(folder: Path) -> Adapter:
    """With eager attention: FlopCounterMode does not know the kernel of sdpa on a CPU and counts it as 0."""
    adapter = Adapter(load_model(str(folder), device="cpu"))
    adapter.model.set_attn_implementation("eager")
    return adapter


def layer_macs(model: Any, **inputs: Any) -> list[float]:
    """What torch counts in each decoder layer; what lies outside them is not the layers' cost."""
    decoder = model.base_model.get_decoder()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(**inputs)
    counts = counter.get_flop_counts()
    name = f"{type(decoder).__name__}.layers"
    return [sum(counts[f"{name}.{i}"].values()) / 2 for i in range(len(decoder.layers))]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prefill_costs_what_torch_counts(family: str, tiny_model: Callable[[str], Path]) -> None:
    model = load(tiny_model(family)).model
    shape = llm_shape(model)
    long, short = (
        layer_macs(model, inputs_embeds=torch.randn(1, n, shape.width), use_cache=False) for n in (23, 9)
    )
    assert shape.layers == len(long)
    assert cost.prefill_macs(shape, [23] * shape.layers) == sum(long)
    cut = [23, 23] + [9] * (shape.layers - 2)
    assert cost.prefill_macs(shape, cut) == sum(long[:2]) + sum(short[2:])


@pytest.mark.parametrize("family", ["llava", "gemma3", "mistral3", "paligemma"])
def test_head_sizes_of_their_own_and_lying_configurations(family: str, tmp_path: Path) -> None:
    model = load(build(family, tmp_path / family, head_dim=24)).model
    config = model.config.get_text_config()
    config.intermediate_size = config.num_key_value_heads = config.num_hidden_layers = 7
    shape = llm_shape(model)
    assert shape.q_width == 4 * 24 != shape.width
    found = layer_macs(model, inputs_embeds=torch.randn(1, 10, shape.width), use_cache=False)
    assert cost.prefill_macs(shape, [10] * shape.layers) == sum(found)


def test_decoding_costs_what_torch_counts_and_the_cache_holds_what_is_said(
    tiny_model: Callable[[str], Path],
) -> None:
    model = load(tiny_model("qwen3_vl")).model
    shape = llm_shape(model)
    decoder, tokens = model.base_model.get_decoder(), [11] * shape.layers
    with torch.no_grad():
        cache = decoder(inputs_embeds=torch.randn(2, 11, shape.width), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cost.kv_bytes(shape, tokens, bytes_per_value=4, batch=2) == held
    assert cost.kv_bytes(shape, tokens, 2, 1) * 4 == held
    steps = 0.0
    for new in range(2, 5):
        one = {"inputs_embeds": torch.randn(2, 1, shape.width), "past_key_values": cache}
        steps += sum(layer_macs(model, **one, use_cache=True)) / 2
        assert cost.decode_macs(shape, tokens, new) == steps
    assert cost.decode_macs(shape, tokens, 1) == cost.decode_macs(shape, tokens, 0) == 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.get_output_embeddings()(torch.randn(1, 3, shape.width))
    assert cost.head_macs(shape, 3) == counter.get_total_flops() / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_tower_and_the_projector_cost_what_torch_counts(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    adapter = load(tiny_model(family))
    shape = vision_shape(adapter.model)
    assert shape is not None
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3)).astype(np.uint8)
    row = adapter.prepare(adapter.render("What?", 1), [Image.fromarray(noise)], 1)
    grid, pixels = row.vision.get("image_grid_thw"), row.vision["pixel_values"]
    side = adapter.model.config.vision_config.patch_size
    side = side if isinstance(side, int) else side[0]
    per_tile = int(grid.prod()) if grid is not None else pixels[..., 0, :, :].shape[-2:].numel() // side**2
    tiles = pixels.shape[1] if pixels.ndim == 5 else 1
    with FlopCounterMode(display=False) as counter:
        adapter.encode([row])
    tokens = tiles * per_tile // (4 if family in MERGES_FOUR else 1)
    expected = cost.vit_macs(shape, [per_tile] * tiles) + cost.projector_macs(shape, tokens)
    assert expected == counter.get_total_flops() / 2
    assert bool(shape.window) == (family == "qwen2_5_vl")
    assert bool(shape.extra) == (family in {"llava", "llava_next", "internvl"})


def test_the_formula_of_the_definitions() -> None:
    n, d, kv, f = 30, 64, 32, 128
    shape = LlmShape(5, d, d, kv, f, True, 100)
    once = 2 * n * d**2 + 2 * n * d * kv + 2 * n**2 * d + 3 * n * d * f
    assert cost.prefill_macs(shape, [n] * 5) == 5 * once
    plain = LlmShape(5, d, d, kv, f, False, 100)
    assert cost.prefill_macs(plain, [n] * 5) == 5 * (once - n * d * f)


def test_published_figures_of_llava_7b() -> None:
    # pruning.md: 128 projector forwards of ZOO are 1546 GMACs; the cache of a token takes half a MiB in fp16
    vision = VisionShape(24, 1024, 1024, 1024, 4096, False, 3 * 14 * 14 * 1024, 1, 1024 * 4096 + 4096**2)
    assert round(128 * cost.projector_macs(vision, 576) / 1e9) == 1546
    assert cost.kv_bytes(SEVEN_B, [1] * 32) == 2**19
    # a token meets each of the 6.476 billion weights of the layers once; its attention is nothing beside that
    assert cost.prefill_macs(SEVEN_B, [1] * 32) == pytest.approx(6.476e9, rel=1e-3)


def test_windows_are_never_undercounted() -> None:
    shape = VisionShape(4, 8, 8, 8, 16, False, patch=100, extra=0, projector=1, window=16, full_layers=1)
    whole = VisionShape(4, 8, 8, 8, 16, False, patch=100, extra=0, projector=1)
    saved = cost.vit_macs(whole, [64]) - cost.vit_macs(shape, [64])
    assert saved == 3 * 2 * 64 * (64 - 16) * 8
    assert cost.vit_macs(shape, [9]) == cost.vit_macs(whole, [9])
    assert cost.vit_macs(shape, [64, 9]) == cost.vit_macs(shape, [64]) + cost.vit_macs(shape, [9])
    assert cost.vit_macs(shape, []) == 0


def test_budgets() -> None:
    # FastV at K = 2 with 166 tokens: the 192 of the papers is a layer average
    fastv = [576] * 2 + [166] * 30
    assert cost.layer_average(fastv) == pytest.approx(191.6, abs=0.1)
    assert cost.after_last_cut(fastv) == 166
    for figure in (cost.layer_average, cost.after_last_cut):
        with pytest.raises(ValueError, match="got none"):
            figure([])


@pytest.mark.parametrize(
    ("tokens", "message"), [([4, 4], "each of 3 layers: got 2"), ([4, -1, 4], "must not be negative: got -1")]
)
def test_counts_that_do_not_fit_are_named(tokens: list[int], message: str) -> None:
    for call in (cost.prefill_macs, cost.kv_bytes):
        with pytest.raises(ValueError, match=message):
            call(SMALL, tokens)
    with pytest.raises(ValueError, match="new_tokens must be at least 0"):
        cost.decode_macs(SMALL, [1, 1, 1], -1)


def test_layers_of_another_build_are_refused_and_no_tower_is_none(tiny_model: Callable[[str], Path]) -> None:
    model = load(tiny_model("llava")).model
    layer = model.base_model.get_decoder().layers[2]
    down = layer.mlp.down_proj
    layer.mlp.down_proj = nn.Linear(7, down.out_features)
    with pytest.raises(UsageError, match="widths that do not fit"):
        llm_shape(model)
    layer.mlp = nn.Identity()
    with pytest.raises(UsageError, match="is not attention and one FFN"):
        llm_shape(model)
    layer.mlp = type(model.base_model.get_decoder().layers[0].mlp)(model.config.text_config)
    assert llm_shape(model).layers == 5
    for name, size in (("gate_proj", 7), ("up_proj", 7)):
        setattr(layer.mlp, name, nn.Linear(down.out_features, size))
    layer.mlp.down_proj = nn.Linear(7, down.out_features)
    with pytest.raises(UsageError, match="layers of 2 shapes"):
        llm_shape(model)
    del model.base_model.vision_tower
    assert vision_shape(model) is None


def test_importing_imports_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, vlmbench.metrics.retention, vlmbench.metrics.cost;"
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
