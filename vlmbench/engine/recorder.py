"""A pruner that remembers what it was asked and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vlmbench.prune.contract import private

if TYPE_CHECKING:
    from vlmbench.prune.base import Context, Pruner, Reduced


class Recorder:
    """Stands in for a pruner and remembers what it was asked and what it said."""

    def __init__(self, pruner: Pruner) -> None:
        self._pruner = pruner
        self.chosen: list[tuple[Context, int, Tensor]] = []
        self.reduced: list[tuple[Context, int, Reduced]] = []

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The method's: it is what errors name and what decides whether tensors are copied for it."""
        return self._pruner.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pruner, name)

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        # a method may write in what it is given: what it was asked is kept as it was
        chosen = self._pruner.select_many(private(self._pruner, contexts), ks)
        self.chosen += zip(contexts, ks, chosen, strict=True)
        return chosen

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        reduced = self._pruner.reduce_many(private(self._pruner, contexts), ks)
        self.reduced += zip(contexts, ks, reduced, strict=True)
        return reduced

    def of_image(self, seed: int) -> list[Tensor]:
        """Selections from the image of this seed, in the order in which they were made."""
        return [chosen for ctx, _, chosen in self.chosen if ctx.seed == seed]
