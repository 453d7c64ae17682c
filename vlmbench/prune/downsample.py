"""Downsample: a smaller image, the baseline that beats most methods in VTC-Bench."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from vlmbench.prune.base import Pruner, Stage


@dataclass(frozen=True, kw_only=True)
class Downsample(Pruner):
    """The image, resized so that the processor makes k tokens of it.

    Only models of native resolution can do this; elsewhere `pool` stands in. The vision tower gets cheaper
    too, which no other method offers. The count of tokens that the processor really makes is recorded.

    Control of VTC-Bench.

    Parameters: ratio, keep, positions (see Pruner).
    """

    stage: ClassVar[Stage] = "image"
    adaptive: ClassVar[bool] = True

    def size(self, size: tuple[int, int], n: int, k: int, snap: int) -> tuple[int, int]:
        """(width, height) in pixels at which `size`, which makes n tokens, makes about k.

        `size` is what the processor makes of the image: where that differs from the file, the file's size
        says nothing about tokens. Sides are scaled by sqrt(k / n) and become multiples of `snap`, the pixels
        that a token spans; of the four neighbours the one nearest in count and aspect. Never larger than
        `size`, except that a side never falls below `snap`.
        """
        if k >= n:
            return size
        scale = math.sqrt(k / n) / snap
        wide, high = (_steps(side * scale, max(1, side // snap)) for side in size)
        area = size[0] * size[1] * k / n / snap**2

        def misfit(steps: tuple[int, int]) -> float:
            width, height = steps
            count = abs(math.log(width * height / area))
            return count + abs(math.log(width * size[1] / (height * size[0])))

        width, height = min(product(wide, high), key=misfit)
        return width * snap, height * snap


def _steps(exact: float, most: int) -> list[int]:
    """The whole numbers around `exact`, within 1..most."""
    exact = round(exact, 9)  # 7 and not 6 or 7 where the root is a whole number
    return sorted({min(max(step, 1), most) for step in (math.floor(exact), math.ceil(exact))})
