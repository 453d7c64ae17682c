"""The pass before an answer with a RoI method: where to look again, and what the model is shown then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.replay import SeenImages, both
from vlmbench.roi.base import REPLACE, TOKENS, Region, RoiMethod, Signals
from vlmbench.roi.crop import PixelBox, crop_mask, cut, pixel_box, to_crop, with_aspect
from vlmbench.roi.reading import GENERAL, Subject, read, view
from vlmbench.roi.settled import settled
from vlmbench.seeds import digest, seed_for

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.engine.prepare import Prepared
    from vlmbench.engine.sight import Sight
    from vlmbench.models.decoding import Generation
    from vlmbench.models.inputs import RowInputs
    from vlmbench.models.prefix import Begun
    from vlmbench.roi.rpn import Rpn
    from vlmbench.roi.rpn_file import RpnConfig

_GENERAL_NEEDS = frozenset({"general_attention", "pixel_gradient"})


@dataclass(frozen=True, eq=False)
class Looked:
    """A request that was looked at."""

    prepared: Prepared
    """As it is to be answered: with the region given back, or as it was where there is none."""
    features: ImageFeatures
    signals: Signals
    region: Region | None
    map: Tensor | None = None
    """[H, W], where boxes are known to hold it against."""
    plain: Generation | None = None
    """The answer without a second look, where the method had it written."""
    begun: Begun | None = None
    """What was read of the prompt that its answer takes up; see `models.prefix`."""


@dataclass(frozen=True)
class Looker:
    """What looks: a model, and the network of `sd-rpn` where there is one."""

    sight: Sight
    max_new_tokens: Mapping[str, int]
    seed: int
    rpn: Rpn | None = None
    config: RpnConfig | None = None
    """Of that network's file: what it settles for methods that leave it open."""
    needs: frozenset[str] = frozenset()
    """What pruners of the run want captured of a region too."""
    reuse: bool = True
    """Whether what the look has read of a prompt is not read again for the answer, where model and way of
    giving the region back allow it: the same answers up to ties."""

    def look(
        self,
        method: RoiMethod,
        ready: Sequence[Prepared],
        encoded: EncoderOutput,
        by_group: Mapping[str, ImageFeatures],
        rows: int,
    ) -> list[Looked | NotApplicableError]:
        """One per request, in a batch of `rows` rows whatever their number; the reason where the method
        cannot serve a request."""
        method = settled(method, self.config)
        if "rpn" in method.needs and self.rpn is None:
            reason = NotApplicableError("sd-rpn needs a region proposal network of this model")
            return [reason] * len(ready)
        found: dict[int, Looked | NotApplicableError] = {}
        subjects: dict[int, Subject] = {}
        for i, prepared in enumerate(ready):
            try:
                subjects[i] = self._subject(method, prepared, by_group.get(prepared.group))
            except (NotApplicableError, ItemError) as reason:
                found[i] = NotApplicableError(str(reason))
        if subjects:
            filled = [*subjects.values()]
            filled += [filled[-1]] * (rows - len(filled))
            most = max(self.max_new_tokens[ready[i].request.task] for i in subjects)
            layers = method.layers(self.sight.adapter.layers)
            # a pruner takes from the beginning of the prompt too, which is then read anew
            reuse = self.reuse and method.given != REPLACE and ready[0].request.condition.prune is None
            readings = read(
                self.sight.adapter,
                filled,
                encoded,
                method.needs,
                layers,
                max(2, most),
                self.rpn,
                reuse,
            )
            for (i, subject), reading in zip(subjects.items(), readings, strict=False):
                try:
                    region = method.region(reading.signals)
                except NotApplicableError as reason:
                    found[i] = reason
                    continue
                map = method.map(reading.signals) if ready[i].boxes else None
                told = reading.signals, region, map, reading.answer, reading.begun
                found[i] = Looked(ready[i], subject.features, *told)
        looked = {i: each for i, each in found.items() if isinstance(each, Looked) and each.region}
        found |= zip(looked, self._zoomed(method, [*looked.values()], rows), strict=True)
        return [found[i] for i in range(len(ready))]

    def _subject(self, method: RoiMethod, prepared: Prepared, features: ImageFeatures | None) -> Subject:
        if features is None:
            raise NotApplicableError("a region of interest needs an image")
        sizes = [image.size for image in prepared.pixels.images]
        general = None
        if method.needs & _GENERAL_NEEDS:
            adapter, pixels = self.sight.adapter, prepared.pixels
            prompt = adapter.render(GENERAL, len(pixels.images))
            general = adapter.prepare(prompt, pixels.images, 2, pixels.seen)
        part = prepared.request.condition.roi
        assert part is not None
        # of method and item alone: a redraw under a perturbation would look like instability
        seed = seed_for(self.seed, prepared.request.item.id, part.name)
        placed = self.sight.placed(prepared, features)
        return Subject(prepared.row, features, view(features, placed, sizes), general, prepared.boxes, seed)

    def _zoomed(
        self, method: RoiMethod, looked: Sequence[Looked], rows: int
    ) -> list[Looked | NotApplicableError]:
        """The same with their regions given back."""
        if not looked:
            return []
        adapter = self.sight.adapter
        found: dict[int, Looked | NotApplicableError] = {}
        shots: dict[int, Shot] = {}
        made: dict[int, RowInputs] = {}
        for i, each in enumerate(looked):
            shots[i] = shot = self._shot(method, each)
            try:
                made[i] = adapter.prepare(adapter.render("?", 1), [shot.crop], 0, shot.seen)
            except ItemError as reason:  # no processor takes a crop of any shape
                found[i] = _refused(reason)
        if made:
            filled = [*made.values()]
            filled += [filled[-1]] * (rows - len(filled))
            crops = adapter.encode(filled, self.needs).features
            for i, features in zip(made, crops, strict=False):
                found[i] = self._given(method, looked[i], shots[i], features)
        return [found[i] for i in range(len(looked))]

    def _shot(self, method: RoiMethod, looked: Looked) -> Shot:
        """The crop out of the picture as it was before the processor made it smaller."""
        assert looked.region is not None
        picture = looked.prepared.pixels.images[0]
        adapter = self.sight.adapter
        try:
            seen = adapter.native_resolution(picture.size).size
        except NotApplicableError:
            fixed = adapter.resized(picture.size)
            # a fixed input would stretch the crop, or cut its ends off
            box = with_aspect(looked.region.box, picture.size, fixed) if fixed else looked.region.box
            whole = pixel_box(box, picture.size)
            return Shot(whole, cut(picture, whole))
        # as many pixels as the whole picture has at the model's input, in the crop's own shape
        whole = pixel_box(looked.region.box, picture.size)
        wide, tall = whole[2] - whole[0], whole[3] - whole[1]
        scale = math.sqrt(seen[0] * seen[1] / (wide * tall))
        shown = max(1, round(wide * scale)), max(1, round(tall * scale))
        return Shot(whole, cut(picture, whole, shown))

    def _given(
        self, method: RoiMethod, looked: Looked, shot: Shot, crop: ImageFeatures
    ) -> Looked | NotApplicableError:
        prepared, adapter = looked.prepared, self.sight.adapter
        old = prepared.pixels.images
        images = (shot.crop, *old[1:]) if method.given == REPLACE else (*old, shot.crop)
        most = self.max_new_tokens[prepared.request.task]
        seen = both(prepared.pixels.seen, shot.seen) if len(images) == len(old) + 1 else None
        try:
            row = adapter.prepare(adapter.render(prepared.item.text(), len(images)), images, most, seen)
        except ItemError as reason:  # the prompt with the region is too long for the model
            return _refused(reason)
        begun = looked.begun if method.given != REPLACE else None
        features = crop if method.given == REPLACE else joined(looked.features, crop)
        if features.count != row.visual_tokens or (method.given == REPLACE and len(old) > 1):
            # a family that shows an image among several otherwise than alone
            begun = None
            features = adapter.encode([row], self.needs).features[0]
        if method.given == TOKENS:
            row = adjacent(row, looked.features.count, adapter.image_token_id, adapter.tokenizer)
        pixels = replace(prepared.pixels, images=images)
        shown = digest(prepared.group, shot.box, shot.crop.size, method.given)
        again = replace(prepared, row=row, pixels=pixels, shown=shown)
        if method.given == TOKENS and looked.region is not None and looked.region.mask is not None:
            features = self._masked(again, features, looked, shot)
        return replace(looked, prepared=again, features=features, begun=begun)

    def _masked(
        self, prepared: Prepared, features: ImageFeatures, looked: Looked, shot: Shot
    ) -> ImageFeatures:
        """Without the crop's tokens that are not of the region."""
        placed, region = self.sight.placed(prepared, features), looked.region
        assert region is not None
        if placed is None or len(placed) < 2:
            return features
        # the crop may reach beyond the region, to fill the model's input without being stretched
        back = to_crop(shot.box, looked.signals.size, shot.crop.size).inverse()
        cells = back.points(placed[-1].cells.reshape(-1, 2).numpy()).reshape(-1, 4)
        left, top, right, bottom = region.box
        cells -= (left, top, left, top)
        middle = (cells[:, :2] + cells[:, 2:]) / 2
        size = right - left, bottom - top
        inside = torch.from_numpy(((middle >= 0) & (middle < size)).all(1))
        inside &= crop_mask(region, torch.from_numpy(cells), size)
        if not bool(inside.any()):
            return features
        own = replace(features.images[-1], absent=~inside)
        return replace(features, images=(*features.images[:-1], own))


def _refused(reason: ItemError) -> NotApplicableError:
    return NotApplicableError(f"the region cannot be given back: {reason}")


@dataclass(frozen=True, eq=False)
class Shot:
    """What is cut out of a picture."""

    box: PixelBox
    crop: Image.Image
    seen: SeenImages = field(default_factory=SeenImages)
    """What the processor makes of the crop."""


def joined(first: ImageFeatures, second: ImageFeatures) -> ImageFeatures:
    """Of a request that shows the pictures of both, one after the other."""
    n = first.count
    moved = tuple(replace(each, start=each.start + n, stop=each.stop + n) for each in second.images)
    deep = tuple(torch.cat(pair) for pair in zip(first.deepstack, second.deepstack, strict=True))
    return ImageFeatures(torch.cat((first.rows, second.rows)), deep, (*first.images, *moved))


def adjacent(row: RowInputs, n: int, image_token_id: int, tokenizer: object) -> RowInputs:
    """The row without blank text between its first n visual tokens and the others, as SD-RPN puts the
    region's tokens right behind those of the picture. Markers that a family needs around an image stay."""
    ids = row.sequence["input_ids"][0]
    places = (ids == image_token_id).nonzero()[:, 0]
    if "image_grid_thw" in row.vision or len(places) <= n:
        return row  # positions of such families count the text between two images
    start, stop = int(places[n - 1]) + 1, int(places[n])
    if start == stop or tokenizer.decode(ids[start:stop]).strip():  # type: ignore[attr-defined]
        return row
    keep = torch.cat((torch.arange(start), torch.arange(stop, len(ids))))
    return replace(row, sequence={name: tensor[:, keep] for name, tensor in row.sequence.items()})
