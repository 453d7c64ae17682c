"""A checkpoint's processor, also on machines without torchvision."""

from __future__ import annotations

import contextlib
import textwrap
import warnings
from importlib.util import find_spec
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.image_processing_utils import ImageProcessingMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from vlmbench.errors import UsageError
from vlmbench.models.images_only import images_only

EXTRA = 'pip install "vlmbench[vision]"'


class ProcessorWarning(UserWarning):
    """The processor differs from the one that the checkpoint names."""


def load_processor(name: str, **kwargs: Any) -> Any:
    """The processor of a folder or hub id, with its chat template; warns once where only images are served.

    Raises UsageError that names the missing package where it cannot be built.
    """
    processor, notes = read_processor(name, **kwargs)
    for note in notes:
        warnings.warn(note, ProcessorWarning, stacklevel=2)
    return processor


def read_processor(name: str, **kwargs: Any) -> tuple[Any, tuple[str, ...]]:
    """The processor, and notes for the user instead of warnings.

    First the stock way. Where that fails, the family's class without its video processor, on the checkpoint's
    image processor and tokenizer; images go through Pillow where torchvision is missing.
    """
    notes: tuple[str, ...] = ()
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False, **kwargs)
    except Exception as stock:
        class_name = _class_name(name, kwargs)
        missing = [package for package in _video_packages(class_name) if find_spec(package) is None]
        if not missing:
            raise UsageError(f"{name}: the processor cannot be loaded: {first_line(stock)}") from stock
        processor = _build(name, class_name, missing, kwargs)
        notes = (
            f"{class_name} was built for images only, because {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: {EXTRA}",
        )
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise UsageError(
            f"{name}: its files hold no processor for images and text, only a {type(processor).__name__}"
        )
    return _ready(processor), notes


def _video_packages(class_name: str) -> tuple[str, ...]:
    """What the video part of a processor asks for, although images need none of it."""
    return ("torchvision", "num2words") if class_name.startswith("SmolVLM") else ("torchvision",)


def _build(name: str, class_name: str, missing: list[str], kwargs: dict[str, Any]) -> Any:
    """The processor for images only."""
    needs = f"{' and '.join(missing)} (not installed): {EXTRA}"
    cls = images_only(class_name)
    if cls is None:
        raise UsageError(f"{name}: its {class_name or 'processor'} needs {needs}")
    backend = {"backend": "pil"} if "torchvision" in missing else {}
    try:
        parts = {
            "image_processor": AutoImageProcessor.from_pretrained(
                name, trust_remote_code=False, **backend, **kwargs
            ),
            "tokenizer": AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kwargs),
        }
        settings, rest = cls.get_processor_dict(name, **kwargs)
        return cls.from_args_and_dict([parts.get(part) for part in cls.get_attributes()], settings, **rest)
    except ImportError as error:
        raise UsageError(f"{name}: its {class_name} needs {needs}") from error
    except Exception as error:
        raise UsageError(f"{name}: the {class_name} cannot be built: {first_line(error)}") from error


def _class_name(name: str, kwargs: dict[str, Any]) -> str:
    """The processor class that the checkpoint's files name, else the one of its model type, else empty."""
    try:
        settings, _ = ProcessorMixin.get_processor_dict(name, **kwargs)
        if not settings.get("processor_class"):
            with contextlib.suppress(OSError):
                settings, _ = ImageProcessingMixin.get_image_processor_dict(name, **kwargs)
        if settings.get("processor_class"):
            return str(settings["processor_class"])
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    except Exception as error:
        raise UsageError(f"{name}: the processor cannot be loaded: {first_line(error)}") from error
    return str(PROCESSOR_MAPPING_NAMES.get(config.model_type) or "")


def _ready(processor: Any) -> Any:
    """Padding on the left, a pad token, and a template that older checkpoints keep with the tokenizer."""
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    template = getattr(tokenizer, "chat_template", None)
    if (
        getattr(processor, "chat_template", None) is None
        and isinstance(template, str)
        and "image" in template
    ):
        processor.chat_template = template
    return processor


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, with the list that it may announce, cut to what a
    reader takes in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = " ".join(lines) if lines[0].endswith(":") else lines[0]
    return textwrap.shorten(said, 240, placeholder=" ...")
