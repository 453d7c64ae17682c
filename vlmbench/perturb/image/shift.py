"""Pixel-level shift: the picture moves by whole pixels on an unchanged canvas.

People do not notice two pixels; a vision encoder that cuts the image into patches may. With `wrap` nothing
is lost: the result equals `numpy.roll`.

Based on "Questioning the Stability of Visual Question Answering" (arXiv 2511.11206), range of arXiv
2602.06652.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlmbench.errors import NotApplicableError
from vlmbench.perturb.pixels import on_canvas
from vlmbench.perturb.risk import strip_risks
from vlmbench.perturb.transforms import Transform, translation


@dataclass(frozen=True)
class Shift:
    """Parameters: dx, dy (pixels of the source, right and down); patches (patches of the model to the right,
    which the engine turns into dx); fill of what is laid bare: wrap, edge,
    reflect or constant; colour (black, white, mean) of the constant fill."""

    dx: int = 0
    dy: int = 0
    patches: int = 0
    fill: str = "wrap"
    colour: str = "black"

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        if self.patches:
            raise NotApplicableError("a shift in patches needs a model that tells how large a patch is")
        wrap = self.fill == "wrap"
        if not wrap and (abs(self.dx) >= image.width or abs(self.dy) >= image.height):
            raise NotApplicableError(
                f"shift by ({self.dx}, {self.dy}) leaves nothing of a {image.width}x{image.height} image"
            )
        fill = self.colour if self.fill == "constant" else self.fill
        moved = on_canvas(image, (self.dx, self.dy), image.size, fill)
        return moved, translation(image.size, self.dx, self.dy, wrap=wrap)

    def risks(self) -> frozenset[str]:
        # no model has patches below 14 pixels of its input, and sources are rarely smaller than that
        unknown = 17 if self.patches else 0
        return strip_risks(max(abs(self.dx), abs(self.dy), unknown))
