"""Many questions about one picture: its resizing and normalising are done once, its tokens each time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_STACKED = ({"pixel_values"}, {"pixel_values", "image_grid_thw"})
"""What processors give that treat each image by itself and put the results behind one another."""


class SeenImages:
    """What an image processor made of one list of images; empty until a processor has seen them."""

    def __init__(self) -> None:
        self.output: Any = None

    def processor(self, processor: Any) -> Any:
        """`processor` with its image processor replaced, in a shallow copy, by one that remembers."""
        clone = copy.copy(processor)
        clone.image_processor = _Remembering(processor.image_processor, self)
        return clone


def both(first: SeenImages | None, second: SeenImages | None) -> SeenImages | None:
    """What the image processor would make of the images of both; None where it may make something else of
    several than of each, or has not seen them."""
    old, new = (None if each is None else each.output for each in (first, second))
    for output in (old, new):
        if not isinstance(output, Mapping) or set(output) not in _STACKED:
            return None
        if not all(isinstance(value, Tensor) for value in output.values()):
            return None
    assert old is not None
    assert new is not None
    if set(old) != set(new) or old["pixel_values"].shape[1:] != new["pixel_values"].shape[1:]:
        return None
    found = SeenImages()
    found.output = type(old)({key: torch.cat((old[key], new[key])) for key in old})
    return found


class _Remembering:
    """Calls the real image processor once and repeats its output; everything else is the real one's."""

    def __init__(self, real: Any, seen: SeenImages) -> None:
        self._real = real
        self._seen = seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._seen.output is None:
            self._seen.output = self._real(*args, **kwargs)
        return copy.copy(self._seen.output)  # some processors pop keys from what they get

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
