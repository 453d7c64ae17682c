"""What one cut inside the language model leaves of a left-padded batch: columns, masks, position ids.

B rows, S columns of the full prompt, W <= S columns after the cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlmbench.models.shrink import renumber

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Segment:
    """The sequence between one cut and the next."""

    index: Tensor
    """[B, W] int64: the column of the full prompt that each column comes from, ascending where valid."""
    valid: Tensor
    """[B, W] bool: False where a column is padding."""
    counts: tuple[int, ...]
    """Valid columns of each row."""
    start: int = 0
    """Its first layer."""
    origin: Tensor | None = None
    """[B, W] int64: the column of the full prompt whose position each column has, where tokens were merged;
    None where that is `index`."""
    made: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    """What the layers of one forward pass share: key -> (source, result)."""

    @property
    def width(self) -> int:
        return int(self.index.shape[1])

    @property
    def padded(self) -> bool:
        return min(self.counts) < self.width

    def once(self, name: str, source: Any, make: Callable[[], T]) -> T:
        """`make()`, computed for the first layer of a pass and reused for every layer with this `source`."""
        key = (name, id(source))
        if key not in self.made:
            self.made[key] = (source, make())  # keeping the source keeps its id from being given away
        result: T = self.made[key][1]
        return result

    def cut(self, stays: Tensor, dropped: list[int], start: int) -> tuple[Segment, Tensor]:
        """The next segment, and [B, W'] the columns of this one that it takes over.

        `stays` [B, W] bool is False for padding; `dropped[b]` counts the valid columns of row b that go. The
        padding that all rows share stays: equal batches keep equal shapes, and nothing dropped changes none.
        """
        counts = tuple(count - gone for count, gone in zip(self.counts, dropped, strict=True))
        width = max(counts) + self.width - max(self.counts)
        # a stable sort puts what is dropped in front, beside the padding
        order = stays.long().argsort(dim=1, stable=True)[:, -width:]
        origin = None if self.origin is None else self.origin.gather(1, order)
        return Segment(self.index.gather(1, order), stays.gather(1, order), counts, start, origin), order

    @property
    def positions(self) -> Tensor:
        """[B, W] int64: the column of the full prompt whose position each column has."""
        return self.index if self.origin is None else self.origin


def whole(mask: Tensor | None, hidden: Tensor) -> Segment:
    """The uncut batch. `hidden` [B, S, d]; `mask` as a layer gets it: the last token sees all but padding."""
    rows, length = hidden.shape[:2]
    index = torch.arange(length, device=hidden.device).expand(rows, -1)
    if mask is None:
        return Segment(index, torch.ones_like(index, dtype=torch.bool), (length,) * rows)
    last = mask if mask.ndim == 2 else mask[:, 0, -1]
    last = last[:, :length]
    # the additive form holds 0 or the dtype's minimum
    valid = last > torch.finfo(last.dtype).min / 2 if last.is_floating_point() else last.bool()
    valid = valid.to(hidden.device).expand(rows, -1)
    return Segment(index, valid, tuple(valid.sum(1).tolist()))


def prefill_mask(segment: Segment, mask: Tensor | None, hidden: Tensor, implementation: str) -> Tensor | None:
    """The segment's, from the full prompt's `mask`: [.., S, S] bool or additive, [B, S], None if causal."""
    if "flash" in implementation:
        return segment.valid if segment.padded else None
    if mask is None:
        if not segment.padded:
            return None
        column = torch.arange(segment.width, device=hidden.device)
        sees = (column <= column[:, None]) & segment.valid[:, None, None, :]
        return sees if implementation != "eager" else additive(sees, hidden.dtype)
    index = segment.index.to(mask.device)
    rows, width = index.shape
    mask = mask[..., : mask.shape[2]].expand(rows, -1, -1, -1)
    heads, columns = mask.shape[1], mask.shape[3]
    mask = mask.gather(2, index[:, None, :, None].expand(-1, heads, -1, columns))
    mask = mask.gather(3, index[:, None, None, :].expand(-1, heads, width, -1))
    hidden_columns = ~segment.valid.to(mask.device)[:, None, None, :]
    return mask.masked_fill(
        hidden_columns, torch.finfo(mask.dtype).min if mask.is_floating_point() else False
    )


def decode_mask(segment: Segment, cached: int, hidden: Tensor, implementation: str) -> Tensor | None:
    """For one new token that follows `cached` columns of the segment's own cache."""
    if not segment.padded:
        return None
    valid = torch.nn.functional.pad(segment.valid, (0, cached + 1 - segment.width), value=True)
    if "flash" in implementation:
        return valid
    sees = valid[:, None, None, :]
    return sees if implementation != "eager" else additive(sees, hidden.dtype)


def additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token is seen, the smallest number where not."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)


def take_rotary(tensor: Tensor, segment: Segment) -> Tensor:
    """cos or sin [.., B or 1, S, D] -> [.., B, W, D]."""
    rows, width = segment.index.shape
    lead, depth = tensor.shape[:-3], tensor.shape[-1]
    index = segment.positions.to(tensor.device)[..., None].expand(*lead, rows, width, depth)
    return tensor.expand(*lead, rows, -1, depth).gather(-2, index)


def take_ids(ids: Tensor, index: Tensor) -> Tensor:
    """Position ids [.., B or 1, S] of the columns `index` [B, W] -> [.., B, W]."""
    rows, width = index.shape
    lead = ids.shape[:-2]
    index = index.to(ids.device).expand(*lead, rows, width)
    return ids.expand(*lead, rows, -1).gather(-1, index)


def compact_ids(ids: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
    """Ids without gaps of the segment's columns, and what to subtract from those of the tokens that follow.

    ids [B or 1, S], with M-RoPE [3, B, S], whose axes are numbered together. A row begins with the id that
    it began with (PaliGemma counts from 1), so that a row that lost nothing keeps its ids. Merged tokens are
    numbered like their columns.
    """
    original = take_ids(ids, segment.index)
    valid = segment.valid.to(ids.device)
    far = original.masked_fill(~valid, torch.iinfo(original.dtype).max).amin(-1, keepdim=True)
    first = far if far.ndim == 2 else far.amin(0, keepdim=True)
    dense = renumber(original, valid) + first
    return dense, (original - dense)[..., -1:]
