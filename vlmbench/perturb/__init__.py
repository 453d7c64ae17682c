"""Meaning-preserving changes to images (`image`) and questions (`text`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlmbench.errors import unknown

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.items import Item
    from vlmbench.perturb.transforms import Transform
    from vlmbench.registry import Entry


def get(name: str) -> Callable[..., Any]:
    """The perturbation of this name as a function.

    Image families: `(image, *, seed=0, **parameters) -> (PIL image, transform)`; the image may be of any
    mode and is made upright RGB first, and the transform starts from there. Question families: `(item, *,
    seed=0, **parameters) -> Item`. Raises UsageError for an unknown name; the function raises it for
    unknown or impossible parameters, and NotApplicableError where the input offers nothing to change.

        shifted, transform = vlmbench.perturb.get("shift")(image, dx=2)
    """
    from vlmbench.perturb.image import IMAGES
    from vlmbench.perturb.text import QUESTIONS

    if name in IMAGES:
        return _on_image(IMAGES.get(name))
    if name in QUESTIONS:
        return _on_item(QUESTIONS.get(name))
    raise unknown("perturbation", name, [*IMAGES.names, *QUESTIONS.names])


def _on_image(entry: Entry) -> Callable[..., tuple[Image.Image, Transform]]:
    def perturb(image: Image.Image, *, seed: int = 0, **parameters: Any) -> tuple[Image.Image, Transform]:
        from vlmbench.perturb.prepare import to_rgb

        result: tuple[Image.Image, Transform] = entry.build(entry.part(**parameters))(to_rgb(image), seed)
        return result

    perturb.__name__, perturb.__doc__ = entry.name, entry.summary
    return perturb


def _on_item(entry: Entry) -> Callable[..., Item]:
    def perturb(item: Item, *, seed: int = 0, **parameters: Any) -> Item:
        result: Item = entry.build(entry.part(**parameters))(item, seed)
        return result

    perturb.__name__, perturb.__doc__ = entry.name, entry.summary
    return perturb
