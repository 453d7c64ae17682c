"""Down- and up-sampling: the picture shrunk to a thumbnail and blown up again, bicubic both ways.

The thumbnail's shorter side keeps .5, .35, .25, .2, .15 of 224 pixels, whatever the image's size; of an image
smaller than 224 px it keeps that share of its own pixels. `rescale` does this mildly and by a share of the
image.

Based on VLM-RobustBench (arXiv 2603.06148), which finds resampling among the most harmful changes; the
factors are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import samples
from vlmbench.perturb.transforms import Transform, identity

FACTOR = (0.0, 0.5, 0.35, 0.25, 0.2, 0.15)
"""Pixels of the thumbnail's shorter side, of 224, by severity; 0 keeps the size."""


@dataclass(frozen=True)
class DownUp:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        resample = Image.Resampling.BICUBIC
        thumbnail = image.resize(samples(image.size, FACTOR[self.severity]), resample)
        return thumbnail.resize(image.size, resample), identity(image.size)

    def risks(self) -> frozenset[str]:
        return detail_risks(self.severity)
