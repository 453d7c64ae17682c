"""The pictures and questions of requests, perturbed; what every kind of model is shown is made here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL.Image import Resampling

from vlmbench.conditions import CLEAN, Part
from vlmbench.engine.plan import Request, pruner_of, roi_of
from vlmbench.errors import ItemError, NotApplicableError, VlmbenchError
from vlmbench.models.replay import SeenImages
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.prepare import to_rgb
from vlmbench.perturb.text import QUESTIONS
from vlmbench.seeds import seed_for

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.items import ImageSource, Item
    from vlmbench.models.geometry import NativeResolution
    from vlmbench.models.larger import Showing
    from vlmbench.perturb.transforms import Transform
    from vlmbench.registry import Registry
    from vlmbench.roi.more_pixels import MorePixels

_KNOWN = 65536
"""Images of which it is remembered whether they can be read."""


@dataclass(frozen=True)
class Pixels:
    """The images of a request after the perturbation."""

    images: tuple[Image.Image, ...]
    source_hash: str
    pixels_hash: str
    transform: Transform | None
    source_size: tuple[int, int] | None
    seen: SeenImages = field(default_factory=SeenImages)
    showing: Showing | None = None
    """How the processor is called, where the images are shown larger."""
    tokens: int | None = None
    """What their visual tokens then number."""
    factor: float | None = None
    """How many times as many as otherwise were asked for."""

    @property
    def unchanged(self) -> bool:
        return self.source_hash == self.pixels_hash


def rewrite(request: Request, seed: int) -> Item:
    """The item with its question perturbed. Raises NotApplicableError."""
    part = request.condition.question
    if part is None:
        return request.item
    entry = QUESTIONS.get(part.name)
    perturb, draw = entry.build(part), seed_for(seed, request.item.id, *entry.draw_key(part))
    with _told_by(perturb):
        changed: Item = perturb(request.item, draw)
    return changed


@contextmanager
def _told_by(perturb: Any) -> Iterator[None]:
    """What fails in a third party's perturbation is the item's error, and the run goes on."""
    try:
        yield
    except VlmbenchError:
        raise
    except Exception as error:
        kind = type(perturb)
        if kind.__module__.startswith("vlmbench."):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ItemError(f"perturbation {kind.__name__} failed: {what}") from error


class Sees(Protocol):
    """What a model tells of how it sees pictures."""

    def resize_like_processor(self, image: Image.Image) -> Image.Image:
        """The image at the size that the model sees. Raises UsageError where there is none."""
        ...

    def native_resolution(self, source: tuple[int, int]) -> NativeResolution:
        """How an image of this size is seen whole. Raises NotApplicableError where it is not."""
        ...

    def source_pixels_per_patch(self, source: tuple[int, int]) -> int | None:
        """Source pixels under one patch, None where that is no whole number. Raises NotApplicableError."""
        ...


class Pictures:
    """Perturbs in plan order; remembers the last few images, never anything about the model."""

    def __init__(self, sees: Sees, seed: int, space: str = "source", rows: int = 16) -> None:
        self.seed = seed
        self.space = space
        self._sees = sees
        self._sources: OrderedDict[str, Image.Image] = OrderedDict()
        self._pixels: OrderedDict[str, Pixels] = OrderedDict()
        self._failures: OrderedDict[str, str] = OrderedDict()
        """Why an image cannot be read, by its key; empty for one that can."""
        self._most = max(8, rows)

    def with_donor(self, request: Request) -> Request:
        """The request with the images of the first donor that can be read; as it is where it shows its own.

        Raises ItemError where the item's own images cannot be read, for then no condition answers it, and
        NotApplicableError where those of no donor can.
        """
        if request.donors is None:
            return request
        own = self._failure(request.item.images)
        if own:
            raise ItemError(own)
        last = ""
        for images in request.donors:
            last = self._failure(images)
            if not last:
                return replace(request, images=images)
        raise NotApplicableError(f"no other item's image can be read: {last}")

    def shown(self, request: Request) -> tuple[Item, Pixels]:
        """The item and its pictures, perturbed. Raises ItemError, and NotApplicableError where nothing
        changed that was meant to."""
        item = rewrite(request, self.seed)
        pixels = self._perturbed(request)
        part = request.condition.image
        if part is not None and pixels.unchanged and not is_identity(part, IMAGES):
            raise NotApplicableError("unchanged: the perturbation left every pixel as it was")
        return item, pixels

    def source_hash(self, item: Item) -> str | None:
        """Hash of the item's pictures as they are now; None where one cannot be loaded."""
        try:
            return self._perturb(Request("", item, CLEAN)).source_hash
        except (ItemError, NotApplicableError):
            return None

    def _perturbed(self, request: Request) -> Pixels:
        key = request.pixels_group
        if key not in self._pixels:
            remember(self._pixels, key, self._enlarged(request), self._most)
        return self._pixels[key]

    def _enlarged(self, request: Request) -> Pixels:
        method, pruner = roi_of(request.condition), pruner_of(request.condition)
        if method is None or not method.enlarges:
            return self._perturb(request)
        if pruner is not None and pruner.stage == "image":
            raise NotApplicableError("one method shows the picture larger, the other smaller")
        pixels = self._perturb(request)
        return self.larger(pixels, cast("MorePixels", method).tokens) if pixels.images else pixels

    def _perturb(self, request: Request) -> Pixels:
        sources = [self._source(source) for source in request.sources]
        if self.space == "model":
            sources = [self._sees.resize_like_processor(image) for image in sources]
        before = _pixel_hash(sources)
        size = sources[0].size if sources else None
        part, pruner = request.condition.image, pruner_of(request.condition)
        shrinks = pruner is not None and pruner.stage == "image"
        if part is None:
            images = self.smaller(sources, pruner) if shrinks else tuple(sources)
            return Pixels(images, before, _pixel_hash(images) if shrinks else before, None, size)
        entry = IMAGES.get(part.name)
        perturb = self._resolved(entry.build(part), sources[0])
        with _told_by(perturb):
            draws = [
                perturb(image, seed_for(self.seed, source.key, *entry.draw_key(part)))
                for image, source in zip(sources, request.sources, strict=True)
            ]
        images = tuple(image for image, _ in draws)
        images = self.smaller(images, pruner) if shrinks else images
        return Pixels(images, before, _pixel_hash(images), draws[0][1], sources[0].size)

    def smaller(self, images: Sequence[Image.Image], pruner: Any) -> tuple[Image.Image, ...]:
        """The images at the size at which the processor yields about the tokens that the pruner keeps."""
        found = []
        for image in images:
            seen = self._sees.native_resolution(image.size)
            size = pruner.size(seen.size, seen.tokens, pruner.budget(seen.tokens), seen.snap)
            wanted = max(1, size[0] * size[1] // seen.snap**2)
            after = self._sees.native_resolution(size).tokens
            if after > wanted:
                raise NotApplicableError(
                    f"the processor enlarges smaller images again: {after} tokens in place of {wanted}"
                )
            found.append(image.resize(size, Resampling.BICUBIC))
        return tuple(found)

    def larger(self, pixels: Pixels, factor: float) -> Pixels:
        """The same pictures with about `factor` times their visual tokens. Raises NotApplicableError."""
        raise NotApplicableError("of this model it is not known how it sees a picture larger")

    def _resolved(self, perturb: Any, image: Image.Image) -> Any:
        """Shifts given in patches of the model become pixels of this image."""
        patches = getattr(perturb, "patches", 0)
        if not patches:
            return perturb
        step = self._sees.source_pixels_per_patch(image.size)
        if step is None:
            raise NotApplicableError("no whole number of source pixels makes a patch of this model")
        return replace(perturb, dx=patches * step, patches=0)

    def _source(self, source: Any) -> Image.Image:
        """Raises ItemError."""
        if source.key not in self._sources:
            try:
                image = to_rgb(source.load())
            except ItemError as error:
                remember(self._failures, source.key, str(error), _KNOWN)
                raise
            remember(self._failures, source.key, "", _KNOWN)
            remember(self._sources, source.key, image, 4)
        return self._sources[source.key]

    def _failure(self, sources: Sequence[ImageSource]) -> str:
        """Why one of the images cannot be read; empty where all can. Known ones are not read again."""
        for source in sources:
            reason = self._failures.get(source.key)
            if reason is None:
                try:
                    self._source(source)
                except ItemError as error:
                    reason = str(error)
            if reason:
                return reason
        return ""


def is_identity(part: Part, registry: Registry) -> bool:
    """Whether these parameters are declared to change nothing; such requests prove the full way."""
    identity = registry.get(part.name).identity
    return identity is not None and all(part.parameters[key] == value for key, value in identity.items())


def remember(memo: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    memo[key] = value
    while len(memo) > most:
        memo.popitem(last=False)


def _pixel_hash(images: Any) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for image in images:
        hasher.update(repr(image.size).encode())
        hasher.update(np.asarray(image).tobytes())
    return hasher.hexdigest()
