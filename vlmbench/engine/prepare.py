"""One request -> tensors, or a settled record where there is nothing to run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from PIL import Image

from vlmbench.engine.pictures import Pictures, Pixels, is_identity, remember, rewrite
from vlmbench.engine.plan import Request, pruner_of, shows_another_image
from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.items import Box, Item
from vlmbench.models.larger import together
from vlmbench.models.words import unreadable
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.risk import question_tags
from vlmbench.perturb.text import QUESTIONS
from vlmbench.schema import State
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs
    from vlmbench.prune.base import Pruner


@dataclass(frozen=True)
class Settled:
    """A request that ends without the model."""

    state: State
    detail: str


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
    """The unperturbed request, where the choice of tokens is compared with that one's."""
    shown: str = ""
    """Names what a RoI method had shown beside the request's own pictures."""

    @property
    def group(self) -> str:
        """Requests with one value are shown the same pictures, which are encoded once."""
        return self.shown or self.request.pixels_group


def settle_early(
    request: Request, seed: int, unserved: Mapping[str, str] = MappingProxyType({})
) -> Settled | None:
    """What is known from the question alone: broken items, skips by the validity rule, nothing to rewrite."""
    error = request.item.meta.get("error")
    if error:
        return Settled(State.ERROR, str(error))
    part, prune = request.condition.image, request.condition.prune
    if (part or prune or request.condition.roi) and not request.item.images:
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


def settled_by(request: Request, reason: NotApplicableError | ItemError) -> Settled:
    """What a request becomes that cannot be prepared."""
    if isinstance(reason, NotApplicableError):
        return Settled(State.NOT_APPLICABLE, str(reason))
    if request.images:  # this item has nothing to do with it
        return Settled(State.NOT_APPLICABLE, f"the other item's image: {reason}")
    return Settled(State.ERROR, str(reason))


def given_donor(pictures: Pictures, request: Request) -> Request | Settled:
    """The request with the other item's images that it shows, where it does."""
    try:
        return pictures.with_donor(request)
    except (NotApplicableError, ItemError) as reason:
        return settled_by(replace(request, images=None), reason)


class Preparer(Pictures):
    """Prepares requests in plan order for a model that is loaded."""

    def __init__(
        self,
        adapter: Adapter,
        seed: int,
        max_new_tokens: Mapping[str, int],
        space: str = "source",
        rows: int = 16,
        with_origins: bool = False,
    ) -> None:
        super().__init__(adapter, seed, space, rows * (1 + with_origins))
        self.adapter = adapter
        self.max_new_tokens = max_new_tokens
        self.with_origins = with_origins
        self._originals: OrderedDict[str, list[list[int]]] = OrderedDict()
        # methods follow one another on the same `rows` inputs, which are then prepared once
        self._rows: OrderedDict[str, RowInputs] = OrderedDict()

    def prepare(self, request: Request) -> Prepared | Settled:
        """Raises nothing that concerns one item only: bad input becomes a settled ERROR."""
        given = given_donor(self, request)
        if isinstance(given, Settled):
            return given
        request = given
        try:
            item, pixels = self.shown(request)
            prompt = self.adapter.render(item.text(), len(pixels.images))
            row = self._row(request, prompt, pixels)
            if pixels.tokens not in (None, row.visual_tokens):
                # as of families that do not cut the images of a request that has several
                got = row.visual_tokens
                raise NotApplicableError(f"shown larger, its pictures make {got} tokens, not {pixels.tokens}")
            _check_budget(pruner_of(request.condition), row)
            part = request.condition.question
            if part and not is_identity(part, QUESTIONS):
                self._check_rewritten(request, pixels, row)
            boxes = self._boxes(request, pixels)
        except (NotApplicableError, ItemError) as reason:
            return settled_by(request, reason)
        return Prepared(
            request,
            item,
            pixels,
            digest(prompt),
            row,
            self._displacement(pixels),
            boxes,
            self._origin(request),
        )

    def _origin(self, request: Request) -> Prepared | None:
        origin = request.origin if self.with_origins else None
        prepared = None if origin is None else self.prepare(origin)
        return prepared if isinstance(prepared, Prepared) else None

    def _boxes(self, request: Request, pixels: Pixels) -> tuple[Box, ...]:
        """Of the item's first image, moved with it; none where another image is shown. Raises
        NotApplicableError where a method needs them and all lie outside of the picture."""
        boxes = request.item.boxes
        if not boxes or not pixels.images or request.images is not None:
            return ()
        assert pixels.source_size is not None
        size = self._source(request.sources[0]).size
        needed = _needs_evidence(pruner_of(request.condition))
        if needed and not any(_is_on(box, size) for box in boxes):
            raise NotApplicableError(_outside(boxes, size))
        scaled = [_scaled(box, size, pixels.source_size) for box in boxes]
        if pixels.transform is not None:
            scaled = [moved for box in scaled if (moved := pixels.transform.box(box)) is not None]
        shown = pixels.images[0].size  # another size where a method shrank or enlarged it
        moved_to = pixels.source_size if pixels.transform is None else pixels.transform.out_size
        return tuple(_scaled(box, moved_to, shown) for box in scaled)

    def _row(self, request: Request, prompt: str, pixels: Pixels) -> RowInputs:
        most = self.max_new_tokens[request.task]
        key = digest(prompt, request.pixels_group, most)
        if key not in self._rows:
            try:
                row = self.adapter.prepare(prompt, pixels.images, most, pixels.seen, pixels.showing)
            except ItemError as reason:
                if pixels.showing is None:
                    raise
                # the prompt is too long for the model, which is none of the item's fault
                raise NotApplicableError(f"it cannot be shown larger: {reason}") from reason
            remember(self._rows, key, row, self._most)
        return self._rows[key]

    def larger(self, pixels: Pixels, factor: float) -> Pixels:
        parts = [self.adapter.larger(image.size, factor) for image in pixels.images]
        resample = getattr(self.adapter.processor.image_processor, "resample", None)
        resample = Image.Resampling.BICUBIC if resample is None else resample
        images = tuple(
            image if image.size == part.size else image.resize(part.size, resample)
            for image, part in zip(pixels.images, parts, strict=True)
        )
        tokens = sum(part.tokens for part in parts)
        return replace(pixels, images=images, showing=together(parts), tokens=tokens, factor=factor)

    def _check_rewritten(self, request: Request, pixels: Pixels, row: RowInputs) -> None:
        """Raises NotApplicableError where it is `unreadable`."""
        key = digest(request.task, request.item.id, request.pixels_group)
        if key not in self._originals:
            prompt = self.adapter.render(request.item.text(), len(pixels.images))
            most = self.max_new_tokens[request.task]
            plain = self.adapter.prepare(prompt, pixels.images, most, pixels.seen, pixels.showing)
            remember(self._originals, key, plain.sequence["input_ids"].tolist(), 64)
        after = row.sequence["input_ids"][0].tolist()
        reason = unreadable(self._originals[key][0], after, self.adapter.tokenizer.unk_token_id)
        if reason:
            raise NotApplicableError(reason)

    def _displacement(self, pixels: Pixels) -> tuple[float, float] | None:
        shift = getattr(pixels.transform, "displacement", None)
        if shift is None or pixels.source_size is None:
            return None
        adapter, size = self.adapter, pixels.source_size
        resized = (
            adapter.resized(size) if pixels.factor is None else adapter.larger(size, pixels.factor).resized
        )
        if resized is None:
            return None
        x, y = (float(d * new / old) for d, new, old in zip(shift, resized, pixels.source_size, strict=True))
        return x, y


def _scaled(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    x, y = new[0] / old[0], new[1] / old[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _is_on(box: Box, size: tuple[int, int]) -> bool:
    return box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0


def _outside(boxes: Sequence[Box], size: tuple[int, int]) -> str:
    listed = "; ".join(", ".join(f"{x:g}" for x in box) for box in boxes[:3])
    some, verb = ("box", "lies") if len(boxes) == 1 else ("boxes", "lie")
    more = "" if len(boxes) <= 3 else f" and {len(boxes) - 3} more"
    return f"the {some} {listed}{more} {verb} outside of the picture, which is {size[0]} x {size[1]} pixels"


def _needs_evidence(pruner: Pruner | None) -> bool:
    return pruner is not None and "evidence" in pruner.needs


def _check_budget(pruner: Pruner | None, row: RowInputs) -> None:
    """Raises NotApplicableError where the request's images have fewer tokens than are to be kept."""
    if pruner is not None and pruner.stage != "image" and row.visual_tokens:
        pruner.budget(row.visual_tokens)
