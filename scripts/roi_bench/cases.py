"""Models to look again with, on the demo's questions, and regions whose size is known beforehand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from prune_bench.models import LARGE
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

import vlmbench
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import LoadedModel
from vlmbench.roi.base import Region, Signals
from vlmbench.roi.sd_rpn import SdRpn

SIDE = 336
"""Pixels of the random models' input, in patches of 14: 576 visual tokens."""


@dataclass(frozen=True)
class Shape:
    """A LLaVA of random weights; what is not told is as in LLaVA-1.5-7B."""

    name: str
    text: dict[str, int]
    vision: dict[str, int]


def _widths(width: int, layers: int, heads: int, ffn: int) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (width, layers, heads, ffn), strict=True))


SHAPES = {
    "medium": Shape(
        "LLaVA-like, ViT 512x12, LLM 1024x16", _widths(1024, 16, 16, 2752), _widths(512, 12, 8, 2048)
    ),
    "7b": Shape("LLaVA-1.5-7B", {}, {}),
}


@cache
def demo() -> Adapter:
    adapter: Adapter = vlmbench.load("demo")
    return adapter


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Adapter:
    """With the demo's tokenizer and template: its questions are all that is asked."""
    raw: dict[str, Any] = copy.deepcopy(LARGE["llava"].config)
    small = demo()
    raw["text_config"] |= shape.text
    raw["vision_config"] |= shape.vision
    raw["image_token_index"] = small.image_token_id
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**raw), dtype=dtype).eval()
    _fill(model)
    model.generation_config = GenerationConfig(**small.model.generation_config.to_dict())
    processor = copy.copy(small.processor)
    pictures = small.processor.image_processor
    settings = {**pictures.to_dict(), "size": {"height": SIDE, "width": SIDE}}
    processor.image_processor = type(pictures)(**settings)
    processor.patch_size = 14
    return Adapter(LoadedModel(model, processor, shape.name, "random", family="llava", dtype=str(dtype)))


@torch.no_grad()
def _fill(model: Any) -> None:
    """Weights that keep the scale of what passes through."""
    generator = torch.Generator(model.device).manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Forced(SdRpn):
    """`sd-rpn` that computes its region, and then looks where it is told: on a share of the requests, at the
    middle of the picture, with a share of the crop's tokens."""

    zoom: float = 1.0
    tokens: float = 1.0

    def region(self, signals: Signals) -> Region | None:
        super().region(signals)
        if signals.seed % 1000 >= 1000 * self.zoom:
            return None
        rows, columns = signals.grid
        width, height = signals.size
        box = (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
        if self.tokens == 1:
            return Region(box)
        # a mask is stretched over the crop from its own corners: the upper rows, and the lowest cell right
        down, across = torch.arange(rows) + 0.5, torch.arange(columns) + 0.5
        high = (down > rows / 4) & (down < 3 * rows / 4)
        wide = (across > columns / 4) & (across < 3 * columns / 4)
        mask = (high & (down < rows / 4 + self.tokens * rows / 2))[:, None] & wide[None]
        mask[int(high.nonzero()[-1]), int(wide.nonzero()[-1])] = True
        return Region(box, mask)
