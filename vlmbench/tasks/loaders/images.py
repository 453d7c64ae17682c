"""Images that are not opened until they are needed: a file, bytes in a row, or one that is not there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.errors import ItemError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Larger images are refused: Pillow's own limit against decompression bombs."""


@dataclass(frozen=True)
class FileImage:
    """An image file. `key` is portable: the task's name and the path relative to the image folder."""

    path: Path
    key: str

    @property
    def name(self) -> str:
        """The path relative to the image folder; errors end up in tables, which know no machine's paths."""
        return self.key.partition("/")[2]

    @property
    def stamp(self) -> str:
        """Size and time of the file: what a resumed run looks at before it trusts an old record."""
        try:
            about = self.path.stat()
        except OSError:
            return "missing"
        return f"{about.st_size}-{about.st_mtime_ns}"

    def load(self) -> Image.Image:
        """Raises ItemError where the file is missing or no image."""
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ItemError(f"image not found: {self.name}") from None
        except OSError as error:
            raise ItemError(f"cannot read the image {self.name}: {error.strerror}") from None
        return decode(data, self.name)


@dataclass(frozen=True)
class StoredImage:
    """An image inside a row of a data set; `read` fetches its bytes anew each time, or raises ItemError.

    `key` hashes the bytes, because names stored beside them are often not unique.
    """

    read: Callable[[], bytes] = field(repr=False)
    where: str

    @cached_property
    def key(self) -> str:
        try:
            return f"sha256:{hashlib.sha256(self.read()).hexdigest()[:24]}"
        except ItemError:
            return f"missing: {self.where}"

    def load(self) -> Image.Image:
        """Raises ItemError where there is no image in the row, or a broken one."""
        return decode(self.read(), self.where)


@dataclass(frozen=True)
class MissingImage:
    """Stands for an image that the data does not have, so that only its own item fails."""

    where: str

    @property
    def key(self) -> str:
        return f"missing: {self.where}"

    def load(self) -> Image.Image:
        """Raises ItemError, always."""
        raise ItemError(f"{self.where}: no image")


def decode(data: bytes, where: str) -> Image.Image:
    """The image in these bytes, decoded, in the mode it is stored in. Raises ItemError naming `where`."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        limit = MAX_PIXELS / 1e6
        raise ItemError(f"{where}: the image is larger than the limit of {limit:.0f} megapixels") from None
    except Exception as error:  # decoders of broken files raise almost anything
        reason = "empty" if not data else str(error).split(": <")[0].split(" <")[0] or type(error).__name__
        raise ItemError(f"{where}: not a readable image ({reason.splitlines()[0]})") from None
    return image
