"""What region methods look at, read off a model for a batch: `Signals` of one image under one question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.errors import ContractError, NotApplicableError
from vlmbench.models.answer_gradient import attention_gradients, picture, pixel_gradients
from vlmbench.models.early import early_states
from vlmbench.models.prefix import Begun, FirstPass
from vlmbench.models.pruning import Applied
from vlmbench.models.responses import GENERATED, PREDICTING, last_attention, responses
from vlmbench.roi.base import NEEDS, Signals, Size

if TYPE_CHECKING:
    from vlmbench.items import Box
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.decoding import Generation
    from vlmbench.models.features import EncoderOutput, ImageFeatures
    from vlmbench.models.inputs import RowInputs
    from vlmbench.models.places import Placed
    from vlmbench.roi.rpn import Rpn

GENERAL = "Write a general description of the image. Answer the question using a single word or phrase."
"""The prompt of ViCrop (arXiv 2502.17422) that asks about nothing in particular."""

_WHOLE = 0.99
"""Of the largest area that a tile shows: tiles above it show as much."""


@dataclass(frozen=True, eq=False)
class View:
    """The visual tokens of a request that show the whole of one of its images once; N = H W."""

    size: Size
    """Of the image, in source pixels."""
    grid: tuple[int, int]
    """H, W."""
    cells: Tensor
    """[N, 4] float64, see `Signals.cells`."""
    index: Tensor
    """[N] int64 on the CPU: their places among the visual tokens of the request, row by row."""
    tiles: tuple[int, ...]
    """Of each image of the request, as its visual tokens are grouped."""
    at: tuple[int, int]
    """Image and tile, counted like `tiles`, that the tokens are of."""


def view(
    features: ImageFeatures, placed: Sequence[Placed] | None, sizes: Sequence[Size], image: int = 0
) -> View:
    """The view of a request's `image`, a picture of `sizes[image]` source pixels.

    `features` know their grids (they were encoded with needs), `placed` says where these lie (see
    `models.places`), `sizes` are those of all its pictures. Where an image is one tile, that one is taken,
    else the tile that shows the most, of equal ones the first; newline tokens are never part of it. Raises
    NotApplicableError where there is no such tile.
    """
    if not features.images:
        raise NotApplicableError("a region of interest needs an image")
    if placed is None:
        raise NotApplicableError("the places of this model's visual tokens in the image are not known")
    shown = list(_tiles(features, placed, image))
    most = max((area for *_, area in shown), default=0.0)
    if most <= 0:
        raise NotApplicableError("no visual token of this model can be placed in the image")
    number, tile, index, _ = next(each for each in shown if each[-1] >= _WHOLE * most)
    width, height = sizes[image]
    if len(shown) > 1 and most < _WHOLE * width * height:
        raise NotApplicableError("this model cuts the image into tiles and shows it nowhere as a whole")
    part, own = features.images[number], placed[number]
    grid = part.grid.cpu()[index]
    rows, columns = (int(n) + 1 for n in grid[:, 1:].amax(0))
    order = (grid[:, 1] * columns + grid[:, 2]).argsort()
    if len(index) != rows * columns or len(torch.unique(grid, dim=0)) != len(index):
        raise NotApplicableError(
            "the visual tokens that show the whole image are no grid of rows and columns"
        )
    index = index[order]
    tiles = tuple(int(each.grid[:, 0].max()) + 1 for each in features.images)
    return View((width, height), (rows, columns), own.cells[index], index + part.start, tiles, (number, tile))


def _tiles(
    features: ImageFeatures, placed: Sequence[Placed], image: int
) -> Iterator[tuple[int, int, Tensor, float]]:
    """Number among `features.images`, tile, its tokens counted from the first of these, and the area in
    source pixels that they show, of each tile of `image`."""
    for number, (part, own) in enumerate(zip(features.images, placed, strict=True)):
        tile = part.grid[:, 0].cpu()
        for each in torch.unique(tile[own.image == image]).tolist():
            index = ((tile == each) & (own.image == image)).nonzero()[:, 0]
            seen = own.cells[index]
            seen = seen[(seen[:, 2:] > seen[:, :2]).all(1)]
            if len(seen):
                sides = seen[:, 2:].amax(0) - seen[:, :2].amin(0)
                yield number, each, index, float(sides.prod())


@dataclass(frozen=True, eq=False)
class Subject:
    """One request to be looked at."""

    row: RowInputs
    features: ImageFeatures
    view: View
    general: RowInputs | None = None
    """The same images under `GENERAL`."""
    boxes: tuple[Box, ...] | None = None
    """In source pixels of the viewed image."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read of one request."""

    signals: Signals
    answer: Generation | None = None
    """The plain answer, where a need had it written."""
    begun: Begun | None = None
    """The prompt as it was read, for an answer to take up; see `models.prefix`."""


def read(
    adapter: Adapter,
    subjects: Sequence[Subject],
    encoded: EncoderOutput,
    needs: frozenset[str],
    layers: Sequence[int] = (),
    max_new_tokens: int = 1,
    rpn: Rpn | None = None,
    reuse: bool = False,
) -> list[Reading]:
    """One per subject, in at most one pass of the model for each need, and two for `pixel_gradient`.

    With `reuse` what was read of the prompts stays in memory with them, where the model allows it.

    `layers` are those of every attention asked for. `encoded` is of the family of the features, see
    `Adapter.encode`. Raises UsageError for layers that the model does not have, ContractError for a need
    that is not in `roi.base.NEEDS` or that lacks its network or general prompts.
    """
    _check(subjects, needs, rpn)
    rows, whole = [each.row for each in subjects], [each.features for each in subjects]
    found: list[dict[str, object]] = [{} for _ in subjects]
    answers: list[Generation | None] = [None] * len(subjects)
    first: FirstPass | None = None

    def keep(name: str, values: Sequence[Mapping[int, Tensor]]) -> None:
        for own, value, subject in zip(found, values, subjects, strict=True):
            own[name] = {layer: of[:, subject.view.index] for layer, of in value.items()}

    for need, of in (("response_attention", GENERATED), ("predicting_attention", PREDICTING)):
        if need in needs:
            said = responses(adapter, rows, encoded, whole, max_new_tokens, layers, of)
            keep(need, [each.attention for each in said])
            answers = [each.generation for each in said]
    if "probability" in needs and not needs & {"response_attention", "predicting_attention"}:
        answers = list(adapter.answer(rows, encoded, Applied(tuple(whole)), max_new_tokens))
    if "attention_gradient" in needs:
        slopes = attention_gradients(adapter, rows, encoded, whole, layers)
        keep("attention_gradient", [each.gradient for each in slopes])
        keep("last_attention", [each.attention for each in slopes])
    elif "last_attention" in needs:
        keep("last_attention", last_attention(adapter, rows, encoded, whole, layers))
    general = [each.general for each in subjects if each.general is not None]
    if "general_attention" in needs:
        keep("general_attention", last_attention(adapter, general, encoded, whole, layers))
    if "pixel_gradient" in needs:
        pairs = zip(pixel_gradients(adapter, rows), pixel_gradients(adapter, general), strict=True)
        for own, pair, subject in zip(found, pairs, subjects, strict=True):
            ways = [_viewed(adapter, subject, values) for values in pair]
            own["pixel_gradient"] = torch.stack([torch.linalg.vector_norm(each, dim=0) for each in ways])
            own["pixels"] = _viewed(adapter, subject, subject.row.vision["pixel_values"]).float()
    if rpn is not None and "rpn" in needs:
        start, count = rpn.shape.start, rpn.shape.layers
        states = early_states(adapter, rows, encoded, whole, start, count, keep=reuse)
        first = states.first
        with torch.no_grad():
            logits = rpn(states)
        for own, values, subject in zip(found, logits, subjects, strict=True):
            own["rpn"] = values.cpu()[subject.view.index]
    wanted = needs | ({"pixels"} if "pixel_gradient" in needs else set())
    return [
        Reading(
            Signals(
                size=subject.view.size,
                grid=subject.view.grid,
                cells=subject.view.cells,
                depth=adapter.layers,
                boxes=subject.boxes if "boxes" in needs else None,
                probability=answer.prob if answer and "probability" in needs else None,
                seed=subject.seed,
                **{name: value for name, value in own.items() if name in wanted},  # type: ignore[arg-type]
            ),
            answer,
            None if first is None else Begun(first, i, subject.row.visual_tokens),
        )
        for i, (subject, own, answer) in enumerate(zip(subjects, found, answers, strict=True))
    ]


def _check(subjects: Sequence[Subject], needs: frozenset[str], rpn: Rpn | None) -> None:
    unknown = sorted(needs - set(NEEDS))
    if unknown:
        raise ContractError(f"unknown need {unknown[0]!r} of a RoI method; known: {', '.join(NEEDS)}")
    if "rpn" in needs and rpn is None:
        raise ContractError("the need 'rpn' without a region proposal network")
    asks = needs & {"general_attention", "pixel_gradient"}
    if asks and any(each.general is None for each in subjects):
        raise ContractError(f"the need {min(asks)!r} without the general prompt")


def _viewed(adapter: Adapter, subject: Subject, values: Tensor) -> Tensor:
    """[c, h, w]: of what is shaped as the pixels of a request, the picture that is viewed."""
    image, tile = subject.view.at
    return picture(adapter.model.config, subject.row.vision, values, subject.view.tiles, image, tile)
