"""JPEG compression, the loss that most pictures on the web have gone through.

Encoded as baseline with 4:2:0 chroma and decoded again. The bytes depend on the libjpeg inside Pillow,
which the hash of the pixels in each record makes visible.

Based on arXiv 2511.11206, range of arXiv 2602.06652.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from vlmbench.errors import NotApplicableError
from vlmbench.perturb.pixels import as_array
from vlmbench.perturb.transforms import Transform, identity

_LONGEST = 65500  # pixels; the format's own limit


@dataclass(frozen=True)
class Jpeg:
    """Parameters: quality (of libjpeg, 1 to 100)."""

    quality: int = 90

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        as_array(image)
        if max(image.size) > _LONGEST:
            raise NotApplicableError(
                f"JPEG holds at most {_LONGEST} px a side: got {image.width}x{image.height}"
            )
        file = io.BytesIO()
        # A copy without metadata: a comment or profile of the source must not travel along.
        bare = Image.fromarray(as_array(image))
        bare.save(file, "JPEG", quality=self.quality, subsampling="4:2:0", optimize=False, progressive=False)
        with Image.open(file) as stored:
            return stored.convert("RGB"), identity(image.size)

    def risks(self) -> frozenset[str]:
        return frozenset({"ocr", "colour"}) if self.quality < 50 else frozenset()
