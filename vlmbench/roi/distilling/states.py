"""What the network is trained on: the frozen model's states in front of it, and labels of the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.errors import ItemError
from vlmbench.models.early import early_states
from vlmbench.roi.labels import FOREGROUND, IGNORED

if TYPE_CHECKING:
    from vlmbench.items import Item
    from vlmbench.models.early import EarlyStates
    from vlmbench.roi.distilling.showing import Shower
    from vlmbench.roi.reading import View
    from vlmbench.roi.rpn import RpnShape

Part = tuple[int, ...]
"""Numbers of the questions that pass through the model together."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A question with the labels that it has taught, [H, W] int8."""

    item: Item
    labels: Tensor

    @property
    def cells(self) -> int:
        """Tokens that count."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, eq=False)
class Seen:
    """One part, read up to the network."""

    states: EarlyStates
    views: tuple[View, ...]


@dataclass(frozen=True)
class Lessons:
    """All questions of a split. States are kept, up to `keep` bytes, once they were computed; a part that is
    computed again gives the same."""

    shower: Shower
    shape: RpnShape
    lessons: Sequence[Lesson]
    keep: int = 0
    _kept: dict[Part, Seen] = field(default_factory=dict, repr=False)

    def seen(self, part: Part) -> Seen:
        """Raises ItemError where a question can no longer be asked."""
        if part in self._kept:
            return self._kept[part]
        batch = self.shower.show([self.lessons[i].item for i in part])
        if batch.refused or batch.encoded is None:
            name, reason = next(iter(batch.refused.items()))
            raise ItemError(f"item {name!r} cannot be shown again: {reason}")
        states = early_states(
            self.shower.adapter,
            batch.rows,
            batch.encoded,
            batch.features,
            self.shape.start,
            self.shape.layers,
        )
        seen = Seen(states, tuple(each.view for each in batch.shown))
        if self._size + _bytes(states) <= self.keep:
            self._kept[part] = seen
        return seen

    def loss(self, network: nn.Module, part: Part) -> Tensor:
        """Sum of the binary cross-entropies of a part's labelled tokens, float32."""
        logits = torch.cat([each.flatten() for each in self.logits(network, part)])
        labels = torch.cat([self.lessons[i].labels.flatten() for i in part]).to(logits.device)
        counts = labels != IGNORED
        return nn.functional.binary_cross_entropy_with_logits(
            logits[counts], (labels[counts] == FOREGROUND).float(), reduction="sum"
        )

    def logits(self, network: nn.Module, part: Part) -> list[Tensor]:
        """[H, W] float32 of each question of a part."""
        seen = self.seen(part)
        rows = network(seen.states)
        return [
            row.float()[view.index.to(row.device)].unflatten(0, view.grid)
            for row, view in zip(rows, seen.views, strict=True)
        ]

    @property
    def _size(self) -> int:
        return sum(_bytes(seen.states) for seen in self._kept.values())


def _bytes(states: EarlyStates) -> int:
    """The layers share most of their arguments, which count once."""
    found = {t.data_ptr(): t.numel() * t.element_size() for t in _tensors((states.hidden, states.arguments))}
    return sum(found.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)
