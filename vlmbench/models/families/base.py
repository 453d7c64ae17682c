"""What pruning has to know of a model family, and the helpers that several families share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form, Mlp, Norm

LAYERS = ("encoder.layers", "encoder.layer", "blocks", "transformer.layers")
ATTENTION = ("self_attn", "attention", "attn")

Where = Literal["features", "middle", "last"]
"""A layer of the tower: the one whose output is X, the one at 3/8 of the depth, the last."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a request: where its n visual tokens come from."""

    grid: Tensor
    """[n, 3] int64: tile, row, column; -1, -1, -1 for newline tokens."""
    source: Tensor | slice
    """[n] int64: the row of the projector's output that a token is, -1 for newline tokens."""
    units: slice
    """Its tiles among `Layout.units`."""

    @property
    def count(self) -> int:
        return self.grid.shape[0]


@dataclass(frozen=True, eq=False)
class Layout:
    """How S patches of the vision tower become a projector output, and these the tokens of a batch.

    Patches are counted over the whole batch in the tower's own order, class tokens left out.
    """

    pictures: tuple[Picture, ...]
    """In the order of the placeholders."""
    units: tuple[int, ...]
    """Patches of each tile, or of each image where the tower does not tile: what attends to each other."""
    members: Tensor | None = None
    """[M, S] int64: the patches that make each of the M projector outputs; None where S = 1, in order."""

    @property
    def device(self) -> torch.device:
        """Of the projector's output: a tower may be on another one."""
        return self.pictures[0].grid.device


class Family(ABC):
    """One instance per family, without state: a model comes in as an argument."""

    name: str

    @abstractmethod
    def receiver(self, model: Any) -> nn.Module:
        """The module whose first argument is X [.., c]: every patch, or (P = 1) what a token's became."""

    @abstractmethod
    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        """From the encoder's arguments, its pooled output, and the placeholders of each request."""

    @abstractmethod
    def form(self, model: Any) -> Form | None:
        """The projector in closed form, float32."""

    @abstractmethod
    def project(self, model: Any, x: Tensor) -> Tensor:
        """[k, P, c] -> [k, d] by the model's own modules, which hold any dtype."""

    def tower(self, model: Any) -> nn.Module:
        """The vision encoder."""
        found: nn.Module = model.base_model.vision_tower
        return found

    def depth(self, model: Any, layers: int) -> int:
        """Index of the tower's layer whose output is X."""
        return layers - 1

    def middle(self, model: Any, layers: int) -> int:
        """Index of the tower's layer at 3/8 of its depth: the round(3 layers / 8)-th, counted from one.

        CLIP-L's 9th of 24 (index 8), as in HiPrune (arXiv 2508.00553).
        """
        return max(1, round(3 * layers / 8)) - 1

    def attention(self, model: Any, where: Where = "features") -> nn.Module:
        """The attention module of that layer. Raises UsageError where there is none."""
        tower = self.tower(model)
        tower = getattr(tower, "vision_model", tower)
        for path in LAYERS:
            layers: Any = tower
            for name in path.split("."):
                layers = getattr(layers, name, None)
            if layers is None:
                continue
            layer = layers[self._index(model, len(layers), where)]
            for name in ATTENTION:
                if isinstance(module := getattr(layer, name, None), nn.Module):
                    return module
        raise UsageError(
            f"{self.name}: the attention of {type(tower).__name__} is not known; use zoo or divprune"
        )

    def _index(self, model: Any, layers: int, where: Where) -> int:
        if where == "last":
            return layers - 1
        return self.middle(model, layers) if where == "middle" else self.depth(model, layers)

    def class_tokens(self, model: Any) -> int:
        """Tokens at the start of every tile in the tower that belong to no place."""
        embeddings = getattr(
            getattr(self.tower(model), "vision_model", self.tower(model)), "embeddings", None
        )
        return int(any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token")))

    def extra(self, model: Any, output: Any) -> Tensor | None:
        """[tiles, P, c]: the class tokens behind X, from what the encoder returned; None without them."""
        return None

    def smallest_cut(self, model: Any) -> int:
        """The first language-model layer before which tokens may go."""
        return 1


def feature_layer(model: Any, name: str) -> int:
    """`vision_feature_layer` as an index into hidden states (0 is the embeddings, so from the end: < 0)."""
    layer: int | list[int] = model.config.vision_feature_layer
    if isinstance(layer, int):
        return layer
    raise UsageError(
        f"{name}: several vision_feature_layer {layer} have no one layer of attention; use zoo or divprune"
    )


def behind_hidden_state(index: int, layers: int) -> int:
    """The layer whose output is hidden state `index` of `layers` + 1."""
    return index - 1 if index >= 0 else layers + index


def raster(rows: int, columns: int, device: torch.device, tile: int = 0) -> Tensor:
    """[rows * columns, 3] int64: tile, row, column."""
    index = torch.arange(rows * columns, device=device)
    return torch.stack((torch.full_like(index, tile), index // columns, index % columns), dim=1)


def blocks(rows: int, columns: int, side: int, device: torch.device) -> Tensor:
    """[rows/side * columns/side, side^2] int64: patches of each block, both in raster order.

    Patches beyond the last whole block belong to none.
    """
    high, wide = rows // side, columns // side
    index = torch.arange(rows * columns, device=device).view(rows, columns)[: high * side, : wide * side]
    return index.view(high, side, wide, side).transpose(1, 2).reshape(high * wide, side * side)


def square(count: int, name: str, what: str = "visual tokens per image") -> int:
    """Side of a square of `count` tokens. Raises UsageError where it is none."""
    side = math.isqrt(count)
    if side * side != count:
        raise UsageError(f"{name}: {count} {what} are no square grid, so they cannot be placed in the image")
    return side


def same_units(total: int, size: int) -> tuple[int, ...]:
    return (size,) * (total // size)


def weight(tensor: Tensor) -> Tensor:
    return tensor.detach().float()


def bias(module: nn.Module) -> Tensor | None:
    found = getattr(module, "bias", None)
    return None if found is None else weight(found)


def norm(part: Any) -> Norm:
    """Of a LayerNorm or RMS norm over the width of its weight."""
    from vlmbench.prune.forms import Norm

    kind = "layer" if isinstance(part, nn.LayerNorm) else "rms"
    eps = getattr(part, "eps", None)
    eps = part.variance_epsilon if eps is None else eps
    return Norm(kind, weight(part.weight), bias(part), float(eps), part.weight.shape[0])


def mlp(first: Any, act: Any, last: Any, norm: Norm | None = None, merge: Tensor | None = None) -> Mlp:
    """Linear, activation, Linear; behind `norm`, and behind a linear map `merge` [c, P * c] of patches."""
    from vlmbench.prune.forms import Mlp

    weight1 = weight(first.weight) if merge is None else weight(first.weight) @ merge
    patches = 1 if norm is None else weight1.shape[1] // norm.width
    return Mlp(weight1, bias(first), act, weight(last.weight), bias(last), norm=norm, patches=patches)
