"""One image inside the language model: its tokens in the prompt, and what cuts have left of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vlmbench.prune.base import Cut, Reduced


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """The visual tokens of one image in a left-padded prompt."""

    index: Tensor
    """[n] int64, ascending: their columns."""
    grid: Tensor
    """[n, 3] int: tile, row, column of each."""
    seed: int = 0
    beside: int = 0
    """Newline tokens of the image that are in the sequence and left alone: no method sees them, every layer
    does."""


@dataclass(frozen=True, eq=False)
class InsideLog:
    """What was pruned; complete once `generate` has read the prompt. Rows are those of the batch."""

    entered: list[list[int]]
    """[layers][rows]: visual tokens that entered each layer, newline tokens beside the spans included."""
    kept: list[list[Tensor]]
    """Per row and image: indices into the image's tokens that are left after the last cut, ascending; of a
    merged token the one that its place comes from (`Reduced.position_from`)."""
    cuts: list[list[tuple[Cut, ...]]] = field(default_factory=list)
    """Per row and image: the schedule, by layer."""
    share: list[list[Tensor]] = field(default_factory=list)
    """Per row and image: [n] float32, on the CPU: how much of each token came through the last cut. 1 is
    kept whole, 0 dropped, else the largest weight that it has in a token that is left."""
    said: list[list[dict[int, Tensor | Reduced]]] = field(default_factory=list)
    """Per row and image: layer -> what the method said of the tokens in front of it, without features."""


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of one image."""

    row: int
    image: int
    """Which one of its row."""
    span: ImageSpan
    cuts: tuple[Cut, ...]
    columns: Tensor
    """[k] int64, ascending: where the tokens stand in the sequence as it is now."""
    origin: Tensor
    """[k] int64: the token of the image that each takes its place in the grid and its position from."""
    weights: Tensor | None = None
    """[k, n] float32: of what the tokens are made; None where none is merged."""

    def keep(self, layer: int) -> int | None:
        """How many go on to a layer, None without a cut in front of it."""
        keep = next((cut.keep for cut in self.cuts if cut.layer == layer), None)
        # an adaptive method may have left fewer before
        return None if keep is None else min(keep, len(self.columns))

    def selected(self, chosen: Tensor) -> Left:
        """With the tokens `chosen`, indices into those that were left."""
        chosen = chosen.to(self.columns.device)
        return replace(self, columns=self.columns[chosen], origin=self.origin[chosen])

    def merged(self, reduced: Reduced) -> Left:
        """With new tokens, in their order, in the columns that they take together."""
        at = reduced.position_from.to(self.columns.device)
        weights = reduced.weights.float()
        return replace(
            self,
            columns=self.columns[at.sort().values],
            origin=self.origin[at],
            weights=weights if self.weights is None else weights @ self.weights.to(weights),
        )

    def mix(self, rows: Tensor) -> Tensor:
        """[n, d] of the image's tokens -> [k, d] of those that are left: their weighted sums where merged."""
        if self.weights is None:
            return rows[self.origin.to(rows.device)]
        return (self.weights.to(rows.device) @ rows.float()).to(rows.dtype)

    def share(self) -> Tensor:
        """[n], see `InsideLog`."""
        if self.weights is not None:
            return self.weights.amax(0).clamp(0, 1).cpu()
        return torch.zeros(len(self.span.index)).index_fill(0, self.origin.cpu(), 1.0)


def without_features(answer: Tensor | Reduced) -> Tensor | Reduced:
    """A selection as it is; of what was merged, of what and where."""
    return replace(answer, features=answer.features[:0]) if isinstance(answer, Reduced) else answer
