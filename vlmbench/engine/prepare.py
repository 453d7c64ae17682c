"""One request -> tensors, or a settled record where there is nothing to run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.Image import Resampling

from vlmbench.conditions import CLEAN, Part
from vlmbench.engine.plan import Request, pruner_of, shows_another_image
from vlmbench.errors import ItemError, NotApplicableError, VlmbenchError
from vlmbench.items import Box, Item
from vlmbench.models.replay import SeenImages
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.prepare import to_rgb
from vlmbench.perturb.risk import question_tags
from vlmbench.perturb.text import QUESTIONS
from vlmbench.registry import Registry
from vlmbench.schema import State
from vlmbench.seeds import digest, seed_for

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs
    from vlmbench.perturb.transforms import Transform
    from vlmbench.prune.base import Pruner


@dataclass(frozen=True)
class Settled:
    """A request that ends without the model."""

    state: State
    detail: str


@dataclass(frozen=True)
class Pixels:
    """The images of a request after the perturbation."""

    images: tuple[Image.Image, ...]
    source_hash: str
    pixels_hash: str
    transform: Transform | None
    source_size: tuple[int, int] | None
    seen: SeenImages = field(default_factory=SeenImages)

    @property
    def unchanged(self) -> bool:
        return self.source_hash == self.pixels_hash


@dataclass(frozen=True)
class Prepared:
    """A request ready for the model."""

    request: Request
    item: Item
    """After the question perturbation; scorers need its options in the order shown."""
    pixels: Pixels
    prompt_hash: str
    row: RowInputs
    displacement: tuple[float, float] | None
    """How far the picture moved in pixels of the model's input; None unless it is a pure shift."""
    boxes: tuple[Box, ...] = ()
    """What the question is about, in pixels of the first image that the processor is given."""
    origin: Prepared | None = None
    """The same on the unperturbed image, where the choice of tokens is compared with that one's."""


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


def settle_early(
    request: Request, seed: int, unserved: Mapping[str, str] = MappingProxyType({})
) -> Settled | None:
    """What is known from the question alone: broken items, skips by the validity rule, nothing to rewrite."""
    error = request.item.meta.get("error")
    if error:
        return Settled(State.ERROR, str(error))
    part, prune = request.condition.image, request.condition.prune
    if (part is not None or prune is not None) and not request.item.images:
        return Settled(State.NOT_APPLICABLE, "the item has no image")
    if shows_another_image(request.condition) and not request.images:
        return Settled(State.NOT_APPLICABLE, "no item with another image to take one from")
    if prune is not None and prune.label in unserved:
        return Settled(State.NOT_APPLICABLE, unserved[prune.label])
    if part is not None:
        risks = IMAGES.get(part.name).build(part).risks()
        tags = sorted(risks & question_tags(request.item.question)) if risks else []
        if tags:
            return Settled(
                State.SKIPPED, f"{part.label} may change the right answer to a {'/'.join(tags)} question"
            )
    try:
        rewrite(request, seed)
    except NotApplicableError as reason:
        return Settled(State.NOT_APPLICABLE, str(reason))
    except ItemError as error:
        return Settled(State.ERROR, str(error))
    return None


class Preparer:
    """Prepares requests in plan order; remembers the last few images, never anything about the model."""

    def __init__(
        self,
        adapter: Adapter,
        seed: int,
        max_new_tokens: Mapping[str, int],
        space: str = "source",
        rows: int = 16,
        with_origins: bool = False,
    ) -> None:
        self.adapter = adapter
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self.space = space
        self.with_origins = with_origins
        self._sources: OrderedDict[str, Image.Image] = OrderedDict()
        self._pixels: OrderedDict[str, Pixels] = OrderedDict()
        self._originals: OrderedDict[str, list[list[int]]] = OrderedDict()
        # methods follow one another on the same `rows` inputs, which are then prepared once
        self._rows: OrderedDict[str, RowInputs] = OrderedDict()
        self._most = max(8, rows)

    def prepare(self, request: Request) -> Prepared | Settled:
        """Raises nothing that concerns one item only: bad input becomes a settled ERROR."""
        try:
            item = rewrite(request, self.seed)
            pixels = self._perturbed(request)
            if (
                request.condition.image is not None
                and pixels.unchanged
                and not _is_identity(request.condition.image, IMAGES)
            ):
                return Settled(State.NOT_APPLICABLE, "unchanged: the perturbation left every pixel as it was")
            prompt = self.adapter.render(item.text(), len(pixels.images))
            row = self._row(request, prompt, pixels)
            _check_budget(pruner_of(request.condition), row)
            part = request.condition.question
            if part and not _is_identity(part, QUESTIONS):
                self._check_rewritten(request, pixels, row)
        except NotApplicableError as reason:
            return Settled(State.NOT_APPLICABLE, str(reason))
        except ItemError as error:
            if request.images:  # this item has nothing to do with it
                return Settled(State.NOT_APPLICABLE, f"the other item's image: {error}")
            return Settled(State.ERROR, str(error))
        return Prepared(
            request,
            item,
            pixels,
            digest(prompt),
            row,
            self._displacement(pixels),
            self._boxes(request, pixels),
            self._origin(request),
        )

    def _origin(self, request: Request) -> Prepared | None:
        origin = request.origin if self.with_origins else None
        prepared = None if origin is None else self.prepare(origin)
        return prepared if isinstance(prepared, Prepared) else None

    def _boxes(self, request: Request, pixels: Pixels) -> tuple[Box, ...]:
        """Of the item's first image, moved with it; none where another image is shown."""
        boxes = request.item.boxes
        if not boxes or not pixels.images or request.images is not None:
            return ()
        assert pixels.source_size is not None
        scaled = [_scaled(box, self._source(request.sources[0]).size, pixels.source_size) for box in boxes]
        if pixels.transform is not None:
            scaled = [moved for box in scaled if (moved := pixels.transform.box(box)) is not None]
        shown = pixels.images[0].size  # smaller where a method shrank it
        moved_to = pixels.source_size if pixels.transform is None else pixels.transform.out_size
        return tuple(_scaled(box, moved_to, shown) for box in scaled)

    def _row(self, request: Request, prompt: str, pixels: Pixels) -> RowInputs:
        most = self.max_new_tokens[request.task]
        key = digest(prompt, request.pixels_group, most)
        if key not in self._rows:
            row = self.adapter.prepare(prompt, pixels.images, most, pixels.seen)
            _remember(self._rows, key, row, self._most)
        return self._rows[key]

    def _check_rewritten(self, request: Request, pixels: Pixels, row: RowInputs) -> None:
        """Raises NotApplicableError where the model cannot tell the rewritten question from the original
        (case, white space..), or where it has no words for it: neither says anything about stability."""
        key = digest(request.task, request.item.id, request.pixels_group)
        if key not in self._originals:
            prompt = self.adapter.render(request.item.text(), len(pixels.images))
            plain = self.adapter.prepare(
                prompt, pixels.images, self.max_new_tokens[request.task], pixels.seen
            )
            _remember(self._originals, key, plain.sequence["input_ids"].tolist(), 64)
        before, after = self._originals[key][0], row.sequence["input_ids"][0].tolist()
        if before == after:
            raise NotApplicableError("unchanged: the model reads the same tokens")
        unknown = self.adapter.tokenizer.unk_token_id
        if unknown is not None and after.count(unknown) > before.count(unknown):
            raise NotApplicableError("the rewritten question has words that this tokenizer does not know")

    def _displacement(self, pixels: Pixels) -> tuple[float, float] | None:
        shift = getattr(pixels.transform, "displacement", None)
        if shift is None or pixels.source_size is None:
            return None
        resized = self.adapter.resized(pixels.source_size)
        if resized is None:
            return None
        x, y = (float(d * new / old) for d, new, old in zip(shift, resized, pixels.source_size, strict=True))
        return x, y

    def source_hash(self, item: Item) -> str | None:
        """Hash of the item's pictures as they are now; None where one cannot be loaded."""
        try:
            return self._perturb(Request("", item, CLEAN)).source_hash
        except (ItemError, NotApplicableError):
            return None

    def _perturbed(self, request: Request) -> Pixels:
        key = request.pixels_group
        if key not in self._pixels:
            _remember(self._pixels, key, self._perturb(request), self._most)
        return self._pixels[key]

    def _perturb(self, request: Request) -> Pixels:
        sources = [self._source(source) for source in request.sources]
        if self.space == "model":
            sources = [self.adapter.resize_like_processor(image) for image in sources]
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
            seen = self.adapter.native_resolution(image.size)
            size = pruner.size(seen.size, seen.tokens, pruner.budget(seen.tokens), seen.snap)
            wanted = max(1, size[0] * size[1] // seen.snap**2)
            after = self.adapter.native_resolution(size).tokens
            if after > wanted:
                raise NotApplicableError(
                    f"the processor enlarges smaller images again: {after} tokens in place of {wanted}"
                )
            found.append(image.resize(size, Resampling.BICUBIC))
        return tuple(found)

    def _resolved(self, perturb: Any, image: Image.Image) -> Any:
        """Shifts given in patches of the model become pixels of this image."""
        patches = getattr(perturb, "patches", 0)
        if not patches:
            return perturb
        step = self.adapter.source_pixels_per_patch(image.size)
        if step is None:
            raise NotApplicableError("no whole number of source pixels makes a patch of this model")
        return replace(perturb, dx=patches * step, patches=0)

    def _source(self, source: Any) -> Image.Image:
        if source.key not in self._sources:
            _remember(self._sources, source.key, to_rgb(source.load()), 4)
        return self._sources[source.key]


def _scaled(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    x, y = new[0] / old[0], new[1] / old[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _check_budget(pruner: Pruner | None, row: RowInputs) -> None:
    """Raises NotApplicableError where the request's images have fewer tokens than are to be kept."""
    if pruner is not None and pruner.stage != "image" and row.visual_tokens:
        pruner.budget(row.visual_tokens)


def _is_identity(part: Part, registry: Registry) -> bool:
    """Whether these parameters are declared to change nothing; such requests prove the full way."""
    identity = registry.get(part.name).identity
    return identity is not None and all(part.parameters[key] == value for key, value in identity.items())


def _remember(memo: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    memo[key] = value
    while len(memo) > most:
        memo.popitem(last=False)


def _pixel_hash(images: Any) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for image in images:
        hasher.update(repr(image.size).encode())
        hasher.update(np.asarray(image).tobytes())
    return hasher.hexdigest()
