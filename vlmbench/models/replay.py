"""Many questions about one picture: its resizing and normalising are done once, its tokens each time."""

from __future__ import annotations

import copy
from typing import Any


class SeenImages:
    """What an image processor made of one list of images; empty until a processor has seen them."""

    def __init__(self) -> None:
        self.output: Any = None

    def processor(self, processor: Any) -> Any:
        """`processor` with its image processor replaced, in a shallow copy, by one that remembers."""
        clone = copy.copy(processor)
        clone.image_processor = _Remembering(processor.image_processor, self)
        return clone


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
