"""Input gradient: which pixels the answer depends on, more than a general description does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from vlmbench.roi.base import RoiMethod
from vlmbench.roi.given import given
from vlmbench.roi.regions import on_grid
from vlmbench.roi.rel_attn import relative
from vlmbench.roi.windows import search

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Region, Signals

MEDIAN = 7
"""Pixels along the side of the median filter."""
_BLUR = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / 0.8) ** 2)
"""Gaussian over 3 pixels of sigma .8, before it is divided by its sum."""


@dataclass(frozen=True, kw_only=True)
class PureGrad(RoiMethod):
    """Length of d log p / d pixels over the channels, divided by the same under a general prompt, counted
    only where the picture has detail, and averaged over the pixels of each token.

    Works on any model through which gradients flow, whatever its attention. The box is ViCrop's search (see
    `windows`).

    Based on ViCrop (https://arxiv.org/abs/2502.17422). Detail is looked for in the pixels that the model was
    given; the authors squeeze the picture into the input's square, past a crop or padding of the processor.

    Parameters: window as of rel-attn; give (see RoiMethod). Reads pixel_gradient [2, h, w] and pixels
    [3, h, w].
    """

    window: int = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"pixel_gradient"})

    def map(self, signals: Signals) -> Tensor | None:
        slopes = given(signals.pixel_gradient, "pixel_gradient", "pure-grad").float()
        pixels = given(signals.pixels, "pixels", "pure-grad")
        return on_grid(per_token(relative(*slopes) * detailed(pixels), signals.grid).flatten(), signals)

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        return search(map, signals, self.window)


def detailed(pixels: Tensor) -> Tensor:
    """[h, w] bool: where pixels [3, h, w] have more detail than in the median pixel of the picture.

    Detail is the length over the channels of what a 3 x 3 Gaussian of sigma .8 takes away, after a median
    filter of 7 x 7; a picture without any has none.
    """
    planes = pixels.detach().float().cpu().numpy()
    blurred = planes
    for axis in (1, 2):
        blurred = ndimage.correlate1d(blurred, _BLUR / _BLUR.sum(), axis=axis, mode="mirror")
    detail = np.sqrt(np.square(planes - blurred).sum(0))
    detail = ndimage.median_filter(detail, size=MEDIAN)
    return torch.from_numpy(detail > np.median(detail)).to(pixels.device)


def per_token(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """[h, w] -> [H, W]: mean over each token's pixels; what no whole patch covers at the end is left out, as
    the encoder leaves it."""
    rows, columns = grid
    tall, wide = values.shape[0] // rows, values.shape[1] // columns
    return values[: tall * rows, : wide * columns].reshape(rows, tall, columns, wide).mean((1, 3))
