"""Recipes: the Qwen line, Idefics and SmolVLM, the Gemma line."""

from __future__ import annotations

from typing import Any

from . import templates
from .recipe import BILINEAR, HALF, LANCZOS, Config, Ids, Recipe, images, language, tower

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
VISION = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def _qwen(model_type: str, ids: Ids, text: Config, vision: Config) -> Config:
    return {
        "model_type": model_type,
        "text_config": text,
        "vision_config": {"num_heads": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def _qwen2_vl(ids: Ids, vocabulary: int) -> Config:
    text = language("qwen2_vl_text", vocabulary, rope_parameters=MROPE)
    vision = {"depth": 3, "embed_dim": 48, "hidden_size": 64, "mlp_ratio": 2, "patch_size": 14}
    return _qwen("qwen2_vl", ids, text, vision)


def _qwen2_5_vl(ids: Ids, vocabulary: int) -> Config:
    text = language("qwen2_5_vl_text", vocabulary, rope_parameters=MROPE)
    vision = {"depth": 3, "hidden_size": 48, "out_hidden_size": 64, "intermediate_size": 96, "patch_size": 14}
    # windows of 2 x 2 tokens, so that the window order inside the tower differs from the raster
    return _qwen("qwen2_5_vl", ids, text, vision | {"window_size": 56, "fullatt_block_indexes": [1]})


def _qwen3_vl(ids: Ids, vocabulary: int) -> Config:
    rope = {**MROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = language("qwen3_vl_text", vocabulary, rope_parameters=rope, num_hidden_layers=6)
    vision = {"depth": 3, "hidden_size": 48, "out_hidden_size": 64, "intermediate_size": 96, "patch_size": 16}
    return _qwen(
        "qwen3_vl", ids, text, vision | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    )


def _idefics(model_type: str, text_type: str) -> Any:
    def config(ids: Ids, vocabulary: int) -> Config:
        vision_type = {"idefics3": "idefics3_vision", "smolvlm": "smolvlm_vision"}[model_type]
        return {
            "model_type": model_type,
            "text_config": language(text_type, vocabulary, pad_token_id=None),
            "vision_config": tower(vision_type),
            "image_token_id": ids("<image>"),
            "scale_factor": 2,
            "tie_word_embeddings": False,
        }

    return config


def _gemma3(ids: Ids, vocabulary: int) -> Config:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    return {
        "model_type": "gemma3",
        "text_config": language(
            "gemma3_text",
            vocabulary,
            num_hidden_layers=6,
            layer_types=kinds,
            sliding_window=1024,
            query_pre_attn_scalar=16,
            tie_word_embeddings=True,
        ),
        "vision_config": tower("siglip_vision_model", vision_use_head=False),
        "image_token_index": ids("<image_soft_token>"),
        "boi_token_index": ids("<start_of_image>"),
        "eoi_token_index": ids("<end_of_image>"),
        "mm_tokens_per_image": 9,
    }


def _paligemma(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "paligemma",
        "text_config": language(
            "gemma2",
            vocabulary,
            sliding_window=4096,
            query_pre_attn_scalar=16,
            tie_word_embeddings=True,
        ),
        "vision_config": tower("siglip_vision_model", vision_use_head=False, projection_dim=64),
        "image_token_index": ids("<image>"),
        "projection_dim": 64,
        "hidden_size": 64,
    }


def _qwen_recipe(config: Any, processor: str, template: str, video: str, unit: int) -> Recipe:
    half = {"image_mean": HALF, "image_std": HALF} if unit == 32 else {}
    sizes = {"size": {"shortest_edge": 9 * unit**2, "longest_edge": 36 * unit**2}}
    patches = {"patch_size": unit // 2, "temporal_patch_size": 2, "merge_size": 2}
    return Recipe(
        special=VISION,
        template=template,
        config=config,
        files={
            "preprocessor_config.json": images(
                processor, "Qwen2VLImageProcessorFast", **sizes, **patches, **half
            ),
            "video_preprocessor_config.json": {
                "processor_class": processor,
                "video_processor_type": video,
                **sizes,
                **patches,
            },
        },
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )


ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
UTTERANCE = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *ROWS)


def _idefics_images(processor: str, kind: str) -> Config:
    sizes = {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 84}}
    half = {"image_mean": HALF, "image_std": HALF, "resample": LANCZOS}
    return images(processor, kind, do_image_splitting=True, do_pad=True, **sizes, **half)


RECIPES = {
    "qwen2_vl": _qwen_recipe(_qwen2_vl, "Qwen2VLProcessor", templates.QWEN, "Qwen2VLVideoProcessor", 28),
    "qwen2_5_vl": _qwen_recipe(
        _qwen2_5_vl, "Qwen2_5_VLProcessor", templates.QWEN, "Qwen2VLVideoProcessor", 28
    ),
    "qwen3_vl": _qwen_recipe(_qwen3_vl, "Qwen3VLProcessor", templates.QWEN3, "Qwen3VLVideoProcessor", 32),
    "smolvlm": Recipe(
        special=("<|im_start|>", *UTTERANCE),
        template=templates.SMOLVLM,
        config=_idefics("smolvlm", "llama"),
        files={
            "preprocessor_config.json": _idefics_images("SmolVLMProcessor", "SmolVLMImageProcessor"),
            "video_preprocessor_config.json": {
                "processor_class": "SmolVLMProcessor",
                "video_processor_type": "SmolVLMVideoProcessor",
                "size": {"longest_edge": 84},
                "max_image_size": {"longest_edge": 84},
                "fps": 1,
                "num_frames": 4,
            },
            "processor_config.json": {"processor_class": "SmolVLMProcessor", "image_seq_len": 9},
        },
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        named={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    ),
    "idefics3": Recipe(
        special=UTTERANCE,
        template=templates.IDEFICS3,
        config=_idefics("idefics3", "llama"),
        files={
            "preprocessor_config.json": _idefics_images("Idefics3Processor", "Idefics3ImageProcessor"),
            "processor_config.json": {"processor_class": "Idefics3Processor", "image_seq_len": 9},
        },
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
        pad="<|finetune_right_pad_id|>",
        adds_bos=True,
    ),
    "gemma3": Recipe(
        special=(
            "<start_of_turn>",
            "<end_of_turn>",
            "<start_of_image>",
            "<end_of_image>",
            "<image_soft_token>",
        ),
        template=templates.GEMMA3,
        config=_gemma3,
        files={
            "preprocessor_config.json": images(
                "Gemma3Processor",
                "Gemma3ImageProcessor",
                image_seq_length=9,
                size={"height": 84, "width": 84},
                image_mean=HALF,
                image_std=HALF,
                resample=BILINEAR,
                do_pan_and_scan=None,
            ),
            "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 9},
        },
        bos="<bos>",
        eos="<end_of_turn>",
        pad="<pad>",
        adds_bos=True,
        named={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    ),
    "paligemma": Recipe(
        special=("<image>",),
        template=templates.PALIGEMMA,
        config=_paligemma,
        files={
            "preprocessor_config.json": images(
                "PaliGemmaProcessor",
                "SiglipImageProcessor",
                image_seq_length=36,
                size={"height": 84, "width": 84},
                image_mean=HALF,
                image_std=HALF,
            ),
        },
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        adds_bos=True,
        # the processor adds these where they are missing, and the model must have rows for them
        plain=(*(f"<loc{i:0>4}>" for i in range(1024)), *(f"<seg{i:0>3}>" for i in range(128))),
    ),
}
