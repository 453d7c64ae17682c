"""Processors for images where torchvision or num2words, which only videos need, is not installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers
from transformers.processing_utils import ProcessorMixin


def images_only(name: str) -> type[Any] | None:
    """The processor class called `name` without its video part; None where images need torchvision too."""
    if name in _OWN:
        return _OWN[name]()
    base = getattr(transformers, name, None)
    if base is None or getattr(base, "is_dummy", False):
        return None
    return _without_video(base)


def _without_video(base: type[Any], **more: Any) -> type[Any]:
    """A subclass of `base` that takes None for its video processor; it keeps the name, which users see."""

    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument is None and argument_name == "video_processor":
            return None
        return base.check_argument_for_proper_class(self, argument_name, argument)

    methods = {"check_argument_for_proper_class": check_argument_for_proper_class, "__module__": __name__}
    return type(base.__name__, (base,), {**methods, **more})


def _smolvlm() -> type[Any]:
    """SmolVLM asks for num2words when built and for a video processor to render; images need neither."""
    base: Any = transformers.SmolVLMProcessor

    def __init__(  # noqa: N807
        self: Any,
        image_processor: Any,
        tokenizer: Any,
        video_processor: Any = None,
        image_seq_len: int = 169,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.end_of_utterance_token = getattr(tokenizer, "end_of_utterance_token", "<end_of_utterance>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.video_token = getattr(tokenizer, "video_token", "<video>")
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(
            self, image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs
        )

    return _without_video(base, __init__=__init__, apply_chat_template=ProcessorMixin.apply_chat_template)


def _pixtral() -> type[Any]:
    """Pixtral's own module cannot be imported without torchvision, so its image half is written out here."""

    def __init__(  # noqa: N807
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **kwargs: Any,
    ) -> None:
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.spatial_merge_size = spatial_merge_size
        for kind, token in (("", image_token), ("break_", image_break_token), ("end_", image_end_token)):
            setattr(self, f"image_{kind}token", token)
            setattr(self, f"image_{kind}token_id", tokenizer.convert_tokens_to_ids(token))

    def _process_images(self: Any, images: Any, **kwargs: Any) -> Any:
        kwargs["patch_size"] = self.patch_size * self.spatial_merge_size
        return ProcessorMixin._process_images(self, images, **kwargs)

    def replace_image_token(self: Any, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        unit = self.patch_size * self.spatial_merge_size
        rows, columns = (int(length) // unit for length in image_inputs["image_sizes"][image_idx])
        row = self.image_token * columns
        return str(self.image_break_token.join([row] * rows) + self.image_end_token)

    def image_token_ids(self: Any) -> list[int]:
        return [self.image_token_id, self.image_break_token_id, self.image_end_token_id]

    def model_input_names(self: Any) -> list[str]:
        return [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]

    return type(
        "PixtralProcessor",
        (ProcessorMixin,),
        {
            "__module__": __name__,
            "__init__": __init__,
            "text_kwargs": {"return_tensors": "pt"},
            "images_kwargs": {"return_tensors": "pt"},
            "_process_images": _process_images,
            "replace_image_token": replace_image_token,
            "image_token_ids": property(image_token_ids),
            "model_input_names": property(model_input_names),
        },
    )


_OWN: Mapping[str, Callable[[], type[Any]]] = {"SmolVLMProcessor": _smolvlm, "PixtralProcessor": _pixtral}
