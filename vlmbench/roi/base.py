"""The contract of a region-of-interest method: where on one image a question asks to look again.

A method is a frozen dataclass of its parameters. What it reads off the model comes as `Signals`, pure tensors
over the visual tokens that show the whole picture once, row by row; it turns them into a map and the map into
a `Region`, or into none, and then the answer is the plain one. Nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from vlmbench.errors import ContractError
from vlmbench.items import Box

if TYPE_CHECKING:
    from collections.abc import Mapping

Size = tuple[int, int]
"""Width, height in pixels."""

NEEDS = (
    "response_attention",
    "predicting_attention",
    "last_attention",
    "general_attention",
    "attention_gradient",
    "pixel_gradient",
    "rpn",
    "boxes",
    "probability",
)
"""What is read off the model, or told of the item, only where a method asks for it."""

OWN, TOKENS, IMAGE, REPLACE = "own", "tokens", "image", "replace"
"""How a region is given back: the method's own way, its visual tokens behind those of the whole image, as a
second image behind it, or in its place."""


@dataclass(frozen=True, eq=False)
class Signals:
    """What a method may look at: ONE image under one question.

    The H x W visual tokens are those that show the whole picture once, row by row: all of them, or of
    families that cut an image into tiles those of the picture of the whole. N = H W. Attention is given per
    layer (0-based index of the language model) as [heads, N], float32, not renormalised over the image.
    Fields that a method did not ask for in `needs` are None.
    """

    size: Size
    """Of the picture, in source pixels, perturbed where the request is."""
    grid: tuple[int, int]
    """H, W."""
    cells: Tensor
    """[N, 4] float64: left, top, right, bottom of what each token sees, in source pixels; without area where
    it sees padding alone."""
    depth: int
    """Layers of the language model."""
    response_attention: Mapping[int, Tensor] | None = None
    """Mean over the generated tokens, end token left out, of their attention to the image."""
    predicting_attention: Mapping[int, Tensor] | None = None
    """The same of the rows that these tokens are predicted from: of the last prompt token and of all
    generated ones but the last."""
    last_attention: Mapping[int, Tensor] | None = None
    """Of the last prompt token."""
    general_attention: Mapping[int, Tensor] | None = None
    """The same under the general prompt of ViCrop (arXiv 2502.17422)."""
    attention_gradient: Mapping[int, Tensor] | None = None
    """d log p(first answer token) / d attention of the last prompt token."""
    pixel_gradient: Tensor | None = None
    """[2, h, w]: channel norm of d log p / d pixels of the model's input, under the question and under the
    general prompt."""
    pixels: Tensor | None = None
    """[3, h, w]: that input itself, of what is viewed; comes with `pixel_gradient`."""
    rpn: Tensor | None = None
    """[N]: logits of a region proposal network."""
    boxes: tuple[Box, ...] | None = None
    """What the question is about, in source pixels; empty where none is known."""
    probability: float | None = None
    """Of the first token of the plain answer."""
    seed: int = 0
    """Of this item and method; the same under every perturbation."""

    @property
    def shown(self) -> Tensor:
        """[N] bool: tokens that see some of the picture, not padding alone."""
        sides = self.cells[:, 2:] - self.cells[:, :2]
        return (sides > 0).all(1)


@dataclass(frozen=True, eq=False)
class Region:
    """Where to look again."""

    box: Box
    """Left, top, right, bottom in source pixels, on the picture, of some area."""
    mask: Tensor | None = None
    """[H, W] bool: which tokens of the grid are the region, of methods that say it token by token; None where
    all of the box is."""


@dataclass(frozen=True, kw_only=True)
class RoiMethod:
    """Base of every method. The class variables say what a method is, the fields how it is set."""

    own: ClassVar[str] = IMAGE
    """How its paper gives the region back."""

    enlarges: ClassVar[bool] = False
    """Whether the whole picture is shown larger in place of a region, with twice the visual tokens, where the
    model takes pictures of any size. The engine's business."""

    give: str = OWN
    """TOKENS, IMAGE or REPLACE; OWN: the method's own way."""

    @property
    def given(self) -> str:
        return self.own if self.give == OWN else self.give

    @property
    def needs(self) -> frozenset[str]:
        """Names out of `NEEDS`."""
        return frozenset()

    def layers(self, depth: int) -> tuple[int, ...]:
        """Layers of the language model, of `depth`, whose attention it reads; 0-based, ascending."""
        return ()

    def map(self, signals: Signals) -> Tensor | None:
        """[H, W] float32, larger is more to the point; None of methods that look at no map."""
        return None

    def region(self, signals: Signals) -> Region | None:
        """None where there is nothing to look at again: the plain answer stands."""
        raise ContractError(
            f"RoI method {type(self).__name__} does not define region; see vlmbench/roi/base.py"
        )


def whole(signals: Signals) -> Region:
    """The whole picture, by the full way: the identity."""
    width, height = signals.size
    return Region((0.0, 0.0, float(width), float(height)), torch.ones(signals.grid, dtype=torch.bool))
