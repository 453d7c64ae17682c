"""Recipes: the LLaVA line, InternVL, and the Pixtral line."""

from __future__ import annotations

from . import templates
from .recipe import Config, Ids, Recipe, images, language, tower

NEXT_GRID = [[42, 84], [84, 42], [84, 84]]
ONEVISION_GRID = [[42 * rows, 42 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]


def _llava(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "llava",
        "text_config": language("llama", vocabulary, num_key_value_heads=4),
        "vision_config": tower("clip_vision_model", projection_dim=48),
        "image_token_index": ids("<image>"),
        "image_seq_length": 36,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }


def _llava_next(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "llava_next",
        "text_config": language("mistral", vocabulary, sliding_window=None),
        "vision_config": tower("clip_vision_model", projection_dim=48, image_size=42),
        "image_token_index": ids("<image>"),
        "image_seq_length": 9,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_grid_pinpoints": NEXT_GRID,
    }


def _llava_onevision(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "llava_onevision",
        "text_config": language("qwen2", vocabulary),
        "vision_config": tower("siglip_vision_model", image_size=42, vision_use_head=False),
        "image_token_index": ids("<image>"),
        "video_token_index": ids("<video>"),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": ONEVISION_GRID,
        # 3 x 3 tiles exceed four, so that large images take the interpolating path of the real models
        "vision_aspect_ratio": "anyres_max_4",
    }


def _internvl(ids: Ids, vocabulary: int) -> Config:
    vision = tower("internvl_vision", image_size=[84, 84], patch_size=[14, 14], use_mean_pooling=True)
    return {
        "model_type": "internvl",
        "text_config": language("qwen2", vocabulary),
        "vision_config": vision | {"norm_type": "layer_norm", "layer_scale_init_value": 0.5},
        "image_token_id": ids("<IMG_CONTEXT>"),
        "image_seq_length": 9,
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _mistral3(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "mistral3",
        "text_config": language("mistral", vocabulary, sliding_window=None),
        "vision_config": tower("pixtral", head_dim=24, image_size=168),
        "image_token_index": ids("[IMG]"),
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "multimodal_projector_bias": False,
        "tie_word_embeddings": False,
    }


def _pixtral(ids: Ids, vocabulary: int) -> Config:
    return {
        "model_type": "llava",
        "text_config": language("mistral", vocabulary, sliding_window=None),
        "vision_config": tower("pixtral", head_dim=24, image_size=96, patch_size=16),
        "image_token_index": ids("[IMG]"),
        "image_seq_length": 1,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


CROP = {"do_center_crop": True, "crop_size": {"height": 84, "width": 84}, "size": {"shortest_edge": 84}}
SMALL = {"do_center_crop": True, "crop_size": {"height": 42, "width": 42}, "size": {"shortest_edge": 42}}
LLAMA = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "adds_bos": True}
CHATML = {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
BREAKS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
IMG = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}

RECIPES = {
    "llava": Recipe(
        special=("<image>",),
        template=templates.LLAVA,
        config=_llava,
        files={
            "preprocessor_config.json": images("LlavaProcessor", "CLIPImageProcessor", **CROP),
            "processor_config.json": {
                "processor_class": "LlavaProcessor",
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": 14,
                "vision_feature_select_strategy": "default",
            },
        },
        **LLAMA,
    ),
    "llava_next": Recipe(
        special=("<image>",),
        template=templates.LLAVA_NEXT,
        config=_llava_next,
        files={
            "preprocessor_config.json": images(
                "LlavaNextProcessor",
                "LlavaNextImageProcessor",
                image_grid_pinpoints=NEXT_GRID,
                do_pad=True,
                **SMALL,
            ),
            "processor_config.json": {
                "processor_class": "LlavaNextProcessor",
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": 14,
                "vision_feature_select_strategy": "default",
            },
        },
        **LLAMA,
    ),
    "llava_onevision": Recipe(
        special=("<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        template=templates.LLAVA_ONEVISION,
        config=_llava_onevision,
        files={
            "preprocessor_config.json": images(
                "LlavaOnevisionProcessor",
                "LlavaOnevisionImageProcessor",
                image_grid_pinpoints=ONEVISION_GRID,
                do_pad=True,
                size={"height": 42, "width": 42},
            ),
            "video_preprocessor_config.json": {
                "processor_class": "LlavaOnevisionProcessor",
                "video_processor_type": "LlavaOnevisionVideoProcessor",
                "size": {"height": 42, "width": 42},
            },
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor",
                "image_token": "<image>",
                "video_token": "<video>",
                "num_image_tokens": 9,
                "vision_feature_select_strategy": "full",
                "vision_aspect_ratio": "anyres_max_4",
            },
        },
        **CHATML,
    ),
    "internvl": Recipe(
        special=("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        template=templates.INTERNVL,
        config=_internvl,
        files={
            "preprocessor_config.json": images(
                "InternVLProcessor",
                "GotOcr2ImageProcessor",
                crop_to_patches=False,
                min_patches=1,
                max_patches=4,
                size={"height": 84, "width": 84},
            ),
            "video_preprocessor_config.json": {
                "processor_class": "InternVLProcessor",
                "video_processor_type": "InternVLVideoProcessor",
                "size": {"height": 84, "width": 84},
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 9},
        },
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        **CHATML,
    ),
    "mistral3": Recipe(
        special=BREAKS,
        template=templates.MISTRAL,
        config=_mistral3,
        files={
            "preprocessor_config.json": images(
                "PixtralProcessor", "PixtralImageProcessor", patch_size=14, size={"longest_edge": 168}
            ),
            "processor_config.json": {
                "processor_class": "PixtralProcessor",
                "patch_size": 14,
                "spatial_merge_size": 2,
                **IMG,
            },
        },
        **LLAMA,
    ),
    "pixtral": Recipe(
        special=BREAKS,
        template=templates.MISTRAL,
        config=_pixtral,
        files={
            "preprocessor_config.json": images(
                "PixtralProcessor",
                "PixtralImageProcessor",
                patch_size={"height": 16, "width": 16},
                size={"longest_edge": 96},
            ),
            "processor_config.json": {"processor_class": "PixtralProcessor", "patch_size": 16, **IMG},
        },
        **LLAMA,
    ),
}
