"""What the visual tokens of a request see of its images: the asked region, and what others saw before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.models.before import Told, kept_input
from vlmbench.models.features import ImageFeatures, VisualInput
from vlmbench.models.places import ImagePlaces, Placed, image_places
from vlmbench.models.places_map import Points, coverage, map_tokens, overlap

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared
    from vlmbench.models.adapter import Adapter

Evidence = tuple[Tensor, ...] | None
"""Per image [n]: the share of the asked boxes that each token covers; None without a box."""

Sizes = tuple[tuple[int, int], ...]
"""Width and height of a request's pictures."""

_MOST = 256
"""Sizes of pictures, and layouts, remembered."""


@dataclass(frozen=True)
class Sight:
    """Remembers where a processor's tiles, and so the tokens, lie on pictures of a size."""

    adapter: Adapter
    maps: OrderedDict[Sizes, ImagePlaces | None] = field(default_factory=OrderedDict, repr=False)
    cells: OrderedDict[tuple[Sizes, bytes], list[Placed] | None] = field(
        default_factory=OrderedDict, repr=False
    )

    def placed(self, prepared: Prepared, features: ImageFeatures) -> list[Placed] | None:
        """Per image the places of its tokens in the picture that the processor was given; None where the
        model's layout does not tell. `features` were encoded with needs, so that they know their grids."""
        sizes = tuple(image.size for image in prepared.pixels.images)
        grids = [image.grid for image in features.images]
        key = sizes, b"".join(grid.cpu().numpy().tobytes() for grid in grids)
        if key not in self.cells:
            places = self._map(sizes)
            _remember(self.cells, key, None if places is None else places.place(grids))
        return self.cells[key]

    def _map(self, sizes: Sizes) -> ImagePlaces | None:
        if sizes not in self.maps:
            try:
                _remember(self.maps, sizes, image_places(self.adapter, sizes))
            except ItemError:  # the processor took the picture, but refuses the probe
                _remember(self.maps, sizes, None)
        return self.maps[sizes]

    def evidence(self, prepared: Prepared, features: ImageFeatures) -> Evidence:
        """What the tokens see of the item's boxes, which are of its first image; None where they see
        nothing."""
        if not prepared.boxes:
            return None
        placed = self.placed(prepared, features)
        if placed is None:
            return None
        size = prepared.pixels.images[0].size
        seen = tuple(
            torch.where(part.image == 0, coverage(part.cells, prepared.boxes, size), 0.0) for part in placed
        )
        return seen if any(bool(part.any()) for part in seen) else None

    def told(self, prepared: Prepared, features: ImageFeatures | None) -> Told:
        """What a method may know of a request beside its prompt."""
        evidence = None if features is None or not features.images else self.evidence(prepared, features)
        return Told(prepared.item.question, evidence)

    def overlap(self, before: Seen, after: Seen) -> float | None:
        """The share of the tokens kept `after` that see the place of one kept `before`, in [0, 1]; None
        where places cannot be told or there are several images."""
        cells = self._cells(before, after)
        if cells is None:
            return None
        return overlap(cells[0], before.kept, _points(after.prepared), cells[1], after.kept)

    def frozen(self, before: Seen, prepared: Prepared, features: ImageFeatures) -> VisualInput:
        """Of the perturbed image the tokens at the places of those kept `before`. Raises
        NotApplicableError where that cannot be told."""
        cells = self._cells(before, Seen(prepared, features, before.kept))
        if cells is None:
            raise NotApplicableError(
                "a frozen mask needs one image, and a processor whose tiles can be found in it"
            )
        keep = map_tokens(cells[0], before.kept, _points(prepared), cells[1])
        return kept_input(features, keep.to(features.rows.device))

    def _cells(self, *sides: Seen) -> list[Tensor] | None:
        found = []
        for side in sides:
            placed = self.placed(side.prepared, side.features)
            if placed is None or len(placed) != 1:
                return None
            found.append(placed[0].cells)
        return found


@dataclass(frozen=True, eq=False)
class Seen:
    """A request with the tokens that a method kept of it."""

    prepared: Prepared
    features: ImageFeatures
    kept: Tensor
    """[k] indices into the request's visual tokens."""


def recall(share: Tensor, evidence: Sequence[Tensor]) -> float | None:
    """How much of what is known to be asked about was kept: the evidence [n] weighted by the share [n] of
    each token that is left, over all of it; None where no token sees any."""
    weight = torch.cat([part.double().cpu() for part in evidence])
    total = float(weight.sum())
    return float((share.double().cpu() * weight).sum()) / total if total > 0 else None


def _points(prepared: Prepared) -> Points | None:
    transform = prepared.pixels.transform
    return None if transform is None else transform.points


def _remember(memo: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memo[key] = value
    while len(memo) > _MOST:
        memo.popitem(last=False)
