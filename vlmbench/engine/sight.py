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
from vlmbench.models.places_map import Points, assign_tokens, coverage, overlap, overlap_of

if TYPE_CHECKING:
    from vlmbench.engine.prepare import Prepared
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.larger import Showing

Evidence = tuple[Tensor, ...] | None
"""Per image [n, b]: the share of each box asked about that each token covers; None without a box.

The b boxes are those of the item that some token sees: what a perturbation moved off the picture, or what the
processor crops away, cannot be kept and is not among them.
"""

Sizes = tuple[tuple[int, int], ...]
"""Width and height of a request's pictures."""

KEPT = 0.5
"""A token counts as kept where its weight in one that is left is above this."""

_MOST = 256
"""Sizes of pictures, and layouts, remembered."""


@dataclass(frozen=True)
class Sight:
    """Remembers where a processor's tiles, and so the tokens, lie on pictures of a size."""

    adapter: Adapter
    maps: OrderedDict[tuple[Sizes, Showing | None], ImagePlaces | None] = field(
        default_factory=OrderedDict, repr=False
    )
    cells: OrderedDict[tuple[Sizes, Showing | None, bytes], list[Placed] | None] = field(
        default_factory=OrderedDict, repr=False
    )

    def placed(self, prepared: Prepared, features: ImageFeatures) -> list[Placed] | None:
        """Per image the places of its tokens in the picture that the processor was given; None where the
        model's layout does not tell. `features` were encoded with needs, so that they know their grids."""
        sizes = tuple(image.size for image in prepared.pixels.images)
        grids = [image.grid for image in features.images]
        showing = prepared.pixels.showing
        key = sizes, showing, b"".join(grid.cpu().numpy().tobytes() for grid in grids)
        if key not in self.cells:
            places = self._map(sizes, showing)
            _remember(self.cells, key, None if places is None else places.place(grids))
        return self.cells[key]

    def _map(self, sizes: Sizes, showing: Showing | None) -> ImagePlaces | None:
        key = sizes, showing
        if key not in self.maps:
            try:
                _remember(self.maps, key, image_places(self.adapter, sizes, showing))
            except ItemError:  # the processor took the picture, but refuses the probe
                _remember(self.maps, key, None)
        return self.maps[key]

    def evidence(self, prepared: Prepared, features: ImageFeatures) -> Evidence:
        """What the tokens see of the item's boxes, which are of its first image; None where they see
        none."""
        if not prepared.boxes:
            return None
        placed = self.placed(prepared, features)
        if placed is None:
            return None
        size = prepared.pixels.images[0].size
        seen = [
            torch.where((part.image == 0)[:, None], coverage(part.cells, prepared.boxes, size), 0.0)
            for part in placed
        ]
        known = torch.cat(seen).any(0)
        return tuple(part[:, known] for part in seen) if bool(known.any()) else None

    def told(self, prepared: Prepared, features: ImageFeatures | None) -> Told:
        """What a method may know of a request beside its prompt."""
        evidence = None if features is None or not features.images else self.evidence(prepared, features)
        return Told(prepared.item.question, evidence)

    def overlap(self, before: Seen, after: Seen) -> float | None:
        """The share of the tokens kept `after` that see the place of one kept `before`, in [0, 1]; None
        where places cannot be told or there are several images. On the same pixels it is the share of those
        that were kept `before`."""
        if _same_pixels(before, after.prepared):
            return overlap_of(before.kept, after.kept)
        cells = self._cells(before, after)
        if cells is None:
            return None
        return overlap(cells[0], before.kept, _points(after.prepared), cells[1], after.kept)

    def frozen(self, before: Seen, prepared: Prepared, features: ImageFeatures) -> VisualInput:
        """Of the perturbed image the tokens at the places of those kept `before`. Raises
        NotApplicableError where that cannot be told."""
        keep = torch.unique(self.moved(before, torch.unique(before.kept), prepared, features))
        return kept_input(features, keep.to(features.rows.device))

    def moved(
        self,
        before: Seen,
        chosen: Tensor,
        prepared: Prepared,
        features: ImageFeatures,
        distinct: bool = True,
    ) -> Tensor:
        """[k] int64 on the CPU: of the perturbed image the tokens at the places of `chosen` [k], distinct
        ones of the image `before`; themselves on the same pixels. See `assign_tokens`. Raises
        NotApplicableError."""
        if _same_pixels(before, prepared):
            return chosen.cpu()
        cells = self._cells(before, Seen(prepared, features, before.kept))
        if cells is None:
            raise NotApplicableError(
                "a frozen mask needs one image, and a processor whose tiles can be found in it"
            )
        return assign_tokens(cells[0], chosen, _points(prepared), cells[1], distinct)

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


def recall(share: Tensor, evidence: Sequence[Tensor]) -> tuple[float, ...]:
    """How much of each box was kept: what kept tokens see of it over what all do.

    share [n]: the largest weight of each token in one that is left (`VisualInput.share`). Above `KEPT` the
    token is kept: copies are, and what others were added to; what only enters a mean is dropped.
    evidence: per image [n, b], with a token that sees it for each box.
    """
    seen = torch.cat([part.double().cpu() for part in evidence])
    kept = (share.cpu() > KEPT).double() @ seen
    return tuple((kept / seen.sum(0)).tolist())


def _same_pixels(before: Seen, prepared: Prepared) -> bool:
    return before.prepared.group == prepared.group


def _points(prepared: Prepared) -> Points | None:
    transform = prepared.pixels.transform
    return None if transform is None else transform.points


def _remember(memo: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    memo[key] = value
    while len(memo) > _MOST:
        memo.popitem(last=False)
