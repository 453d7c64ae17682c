"""Elastic distortion: the picture as on a rubber sheet, stretched here and squeezed there.

Every place of the new image shows the old one at a small random distance. The distances are white noise on
a net of knots 4 px apart (of a 224 px image), smoothed with a deviation of 8 px and joined linearly. The
strength is the sheet's largest stretch: two places never move against each other by more than .2, .35, .5,
.65, .8 of their distance, so that nothing folds over and every point has one new place. ImageNet-C instead
goes from a wide sway with a random affine map (severities 1 and 2) to a fine ripple of 2.4 px that may fold
(3 to 5); one sheet between the two, the same at every severity, keeps the draw comparable.

Based on Hendrycks and Dietterich (arXiv 1903.12261), scaled to the image's size (see `severity.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from vlmbench.perturb.pixels import as_array, random_bits
from vlmbench.perturb.risk import detail_risks
from vlmbench.perturb.severity import centred, scale
from vlmbench.perturb.transforms import Size, Transform
from vlmbench.perturb.warp import Knots, Warp, largest_stretch, warped

STRETCH = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8)
"""Largest change of distance between two places, of that distance, by severity."""

_KNOT = 4.0  # pixels of a 224 px image between two knots
_SMOOTH = 2.0  # deviation in knots


@dataclass(frozen=True)
class Elastic:
    """Parameters: severity (0 to 5)."""

    severity: int = 0

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        pixels = as_array(image)
        sheet = Warp(net(seed, image.size) * STRETCH[self.severity], image.size)
        return Image.fromarray(warped(pixels, sheet)), sheet

    def risks(self) -> frozenset[str]:
        if not self.severity:
            return frozenset()
        mild = frozenset({"edge", "orientation", "clarity"})
        return mild | detail_risks(self.severity) if self.severity > 2 else mild


def net(seed: int, size: Size) -> Knots:
    """[rows + 1, columns + 1, 2] distances (x, y) in pixels, of largest stretch 1."""
    side = max(_KNOT * scale(size), 1.0)
    columns, rows = (max(int(length / side + 0.5), 1) for length in size)
    noise = centred(random_bits(seed, 2 * (rows + 1) * (columns + 1))).reshape(rows + 1, columns + 1, 2)
    knots = gaussian_filter(noise.astype(np.float64), (_SMOOTH, _SMOOTH, 0), mode="reflect")
    return np.asarray(knots / largest_stretch(knots, size))
