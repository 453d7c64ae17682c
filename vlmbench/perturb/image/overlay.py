"""A text box over the lower left corner: a neutral sentence, random letters, or nothing in it.

All three kinds cover the same pixels, so neutral against random separates what the words say from the
presence of text, and either against empty separates text from occlusion.

Based on arXiv 2511.11206.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vlmbench.errors import NotApplicableError
from vlmbench.perturb.pixels import as_array, random_bits
from vlmbench.perturb.transforms import Transform, identity

NEUTRAL = "This is a picture."
_CELL = (6, 11)  # pixels per character of Pillow's built-in bitmap font
_MARGIN = 3  # pixels above and below the text before scaling
_LEGIBLE = 11  # a box less high than this has letters of fewer than five pixels


@dataclass(frozen=True)
class Overlay:
    """Parameters: kind (neutral, random, empty). The box is half as wide as the image and at most 15 % as
    high."""

    kind: str = "neutral"

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        text = {"neutral": NEUTRAL, "random": random_text(seed), "empty": ""}[self.kind]
        label = Image.new("L", (_CELL[0] * (len(NEUTRAL) + 2), _CELL[1] + 2 * _MARGIN), color=255)
        # The bitmap font lies inside Pillow: no font of the machine, no FreeType. It cuts off what stands out
        # to the left of the first letter, hence the space.
        font = ImageFont.load_default_imagefont()
        ImageDraw.Draw(label).text((0, _MARGIN), f" {text}", fill=0, font=font)
        scale = min(0.5 * image.width / label.width, 0.15 * image.height / label.height)
        size = int(label.width * scale), int(label.height * scale)
        if size[1] < _LEGIBLE:
            raise NotApplicableError(f"a {image.width}x{image.height} image is too small for legible text")
        label = label.resize(size, Image.Resampling.BICUBIC)
        margin = size[1] // 4
        written = image.copy()
        written.paste(label.convert("RGB"), (margin, image.height - size[1] - margin))
        return written, identity(image.size)

    def risks(self) -> frozenset[str]:
        return frozenset({"ocr", "edge", "count"})


def random_text(seed: int) -> str:
    """The neutral sentence with every letter redrawn; length, case, spaces and full stop stay."""
    drawn = iter(random_bits(seed, len(NEUTRAL)))
    letters = (
        chr(ord("A" if c.isupper() else "a") + int(next(drawn)) % 26) if c.isalpha() else c for c in NEUTRAL
    )
    return "".join(letters)
