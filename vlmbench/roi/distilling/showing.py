"""Questions made ready for the model, a batch at a time, each picture read and encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.models.places import ImagePlaces, image_places
from vlmbench.perturb.prepare import to_rgb
from vlmbench.roi.reading import View, view

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vlmbench.items import Item
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.features import EncoderOutput, ImageFeatures
    from vlmbench.models.inputs import RowInputs

_MOST = 64
"""Pictures, and sizes of pictures, remembered."""
_PIXELS = 1 << 27
"""Of all pictures remembered: 400 MB."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One question that the model can be asked."""

    item: Item
    row: RowInputs
    features: ImageFeatures
    view: View


@dataclass(frozen=True, eq=False)
class ShownBatch:
    """What of a batch can be asked, and why the rest cannot."""

    shown: tuple[Shown, ...]
    encoded: EncoderOutput | None
    """None where nothing can be asked."""
    refused: dict[str, str]
    """Reasons by the ids of the others."""

    @property
    def rows(self) -> list[RowInputs]:
        return [each.row for each in self.shown]

    @property
    def features(self) -> list[ImageFeatures | None]:
        return [each.features for each in self.shown]


@dataclass(frozen=True)
class Shower:
    """Remembers the last pictures, never anything about the model."""

    adapter: Adapter
    max_new_tokens: int
    _pictures: OrderedDict[str, Image.Image] = field(default_factory=OrderedDict, repr=False)
    _places: OrderedDict[tuple[tuple[int, int], ...], ImagePlaces | None] = field(
        default_factory=OrderedDict, repr=False
    )

    def show(self, items: Sequence[Item]) -> ShownBatch:
        """Raises nothing that concerns single items."""
        rows: list[RowInputs | str] = [self._row(item) for item in items]
        distinct: dict[tuple[str, ...], int] = {}
        for i, row in enumerate(rows):
            if not isinstance(row, str):
                distinct.setdefault(_keys(items[i]), i)
        if not distinct:
            return ShownBatch((), None, {i.id: str(row) for i, row in zip(items, rows, strict=True)})
        first = [rows[i] for i in distinct.values()]
        encoded = self.adapter.encode([row for row in first if not isinstance(row, str)], frozenset())
        features = dict(zip(distinct, encoded.features, strict=True))
        shown, refused = [], {}
        for item, row in zip(items, rows, strict=True):
            try:
                if isinstance(row, str):
                    raise ItemError(row)
                own = features[_keys(item)]
                shown.append(Shown(item, row, own, self._view(item, own)))
            except (ItemError, NotApplicableError) as reason:
                refused[item.id] = str(reason)
        return ShownBatch(tuple(shown), encoded, refused)

    def _row(self, item: Item) -> RowInputs | str:
        """The reason where it cannot be asked."""
        try:
            if item.meta.get("error"):
                raise ItemError(str(item.meta["error"]))
            if not item.images:
                raise ItemError("the item has no image")
            prompt = self.adapter.render(item.text(), len(item.images))
            return self.adapter.prepare(prompt, self._images(item), self.max_new_tokens)
        except ItemError as reason:
            return str(reason)

    def _images(self, item: Item) -> list[Image.Image]:
        """Raises ItemError."""
        found = []
        for source in item.images:
            if source.key not in self._pictures:
                self._pictures[source.key] = to_rgb(source.load())
                while len(self._pictures) > 1 and (len(self._pictures) > _MOST or self._size > _PIXELS):
                    self._pictures.popitem(last=False)
            found.append(self._pictures[source.key])
        return found

    @property
    def _size(self) -> int:
        return sum(image.width * image.height for image in self._pictures.values())

    def _view(self, item: Item, features: ImageFeatures) -> View:
        """Of its first picture. Raises NotApplicableError."""
        sizes = tuple(image.size for image in self._images(item))
        if sizes not in self._places:
            self._places[sizes] = image_places(self.adapter, sizes)
            while len(self._places) > _MOST:
                self._places.popitem(last=False)
        places = self._places[sizes]
        placed = None if places is None else places.place([image.grid for image in features.images])
        return view(features, placed, sizes)


def shown_cells(view: View) -> Tensor:
    """[H, W] bool: tokens that see some of the picture."""
    return (view.cells[:, 2:] > view.cells[:, :2]).all(1).view(view.grid)


def _keys(item: Item) -> tuple[str, ...]:
    return tuple(source.key for source in item.images)
