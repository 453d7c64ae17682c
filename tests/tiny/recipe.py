"""What a family's recipe holds, and the sizes that all recipes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]
Ids = Callable[[str], int]

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]
BICUBIC, LANCZOS, BILINEAR = 3, 1, 2


@dataclass(frozen=True)
class Recipe:
    """One family: special tokens, template, `config(ids, vocabulary size)` and the files of its processor."""

    special: tuple[str, ...]
    template: str
    config: Callable[[Ids, int], Config]
    files: dict[str, Config]
    eos: str
    pad: str
    bos: str | None = None
    adds_bos: bool = False
    named: dict[str, str] = field(default_factory=dict)
    plain: tuple[str, ...] = ()


def language(model_type: str, vocabulary: int, **more: Any) -> Config:
    """A language model of 5 layers, 4 heads of 16, 2 of them for keys and values."""
    return {
        "model_type": model_type,
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        **more,
    }


def tower(model_type: str, **more: Any) -> Config:
    """A vision tower of 3 layers, 2 heads of 24, on 84 x 84 pixels in patches of 14."""
    return {
        "model_type": model_type,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 84,
        "patch_size": 14,
        **more,
    }


def images(processor: str, kind: str, **more: Any) -> Config:
    """A preprocessor_config.json as on the hub."""
    return {
        "processor_class": processor,
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "resample": BICUBIC,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        **more,
    }
