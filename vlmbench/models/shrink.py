"""Taking visual tokens out of a padded prompt: which columns stay, and the position ids of those that do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.models.features import ImageFeatures, VisualInput


@dataclass(frozen=True, eq=False)
class Kept:
    """The columns of a padded batch [B, S] that remain, left-padded to [B, S']."""

    index: Tensor
    """[B, S'] int64: the column of the full batch that each new column comes from."""
    valid: Tensor
    """[B, S'] bool: False where the new column is padding."""

    def take(self, tensor: Tensor, fill: int = 0) -> Tensor:
        """[.., B, S] -> [.., B, S'], `fill` in the padding."""
        index = self.index.expand(*tensor.shape[:-1], -1)
        return tensor.gather(-1, index).masked_fill(~self.valid, fill)


def keep_columns(
    placeholders: Tensor, valid: Tensor, visual: Sequence[ImageFeatures | VisualInput | None], length: int
) -> Kept:
    """`placeholders`, `valid`: bool [B, S] of the padded prompt; `visual`: one per row; `length`: S'.

    No step waits for the device: sizes follow from the shapes of the indices.
    """
    flags = torch.zeros(*placeholders.shape, dtype=torch.bool, device=placeholders.device)
    for row, part in enumerate(visual):
        if isinstance(part, VisualInput):
            flags[row, part.keep] = True
        elif part is not None:
            flags[row, : part.count] = True
    rank = (placeholders.long().cumsum(-1) - 1).clamp(min=0)
    stays = valid & (~placeholders | flags.gather(-1, rank))
    # a stable sort puts what is dropped in front, in place of the padding
    index = stays.long().argsort(dim=-1, stable=True)[:, -length:]
    return Kept(index, stays.gather(-1, index))


def kept_positions(
    positions: Tensor,
    kept: Kept,
    placeholders: Tensor,
    visual: Sequence[ImageFeatures | VisualInput | None],
    compact: bool,
) -> Tensor:
    """Position ids of what remains: [B, S'] or, with M-RoPE, [4, B, S'].

    `compact` ones are renumbered; else tokens keep the ids that they had in the full prompt.
    """
    source = kept.index.clone()
    for row, part in enumerate(visual):
        if isinstance(part, VisualInput) and len(part.keep):
            columns = placeholders[row].nonzero()[:, 0]
            stand = (placeholders[row].gather(0, kept.index[row]) & kept.valid[row]).nonzero()[:, 0]
            source[row, stand] = columns[part.position_from]
    index = source.expand(*positions.shape[:-1], -1)
    original = positions.gather(-1, index).masked_fill(~kept.valid, 0)
    return renumber(original, kept.valid) if compact else original


def renumber(positions: Tensor, valid: Tensor) -> Tensor:
    """Ids without gaps, from 0: the j-th smallest distinct id of a row becomes j.

    With M-RoPE the axes time, height and width share one numbering, so that a row that lost nothing keeps
    its ids; a leading fourth row, the text positions that masks are made of, is numbered by itself.
    positions: [B, S] or [3 or 4, B, S]; padding (`valid` False) gets 0.
    """
    if positions.ndim == 2:
        return _dense(positions[None], valid)[0]
    split = positions.shape[0] - 3
    parts = [_dense(positions[i : i + 1], valid) for i in range(split)]
    return torch.cat([*parts, _dense(positions[split:], valid)])


def _dense(positions: Tensor, valid: Tensor) -> Tensor:
    axes, rows, length = positions.shape
    ids = positions.masked_fill(~valid, 0)
    size = int(ids.max()) + 1 if length else 1
    seen = torch.zeros(rows, size, dtype=torch.long, device=positions.device)
    # several tokens may share an id, and padding must not mark one: amax and not a plain scatter
    flat = ids.permute(1, 0, 2).reshape(rows, -1)
    seen.scatter_reduce_(1, flat, valid.long().repeat(1, axes), "amax")
    rank = (seen.cumsum(-1) - 1).clamp(min=0)
    return rank.gather(1, flat).reshape(rows, axes, length).permute(1, 0, 2).masked_fill(~valid, 0)


def shrink(sequence: Mapping[str, Tensor], kept: Kept, pad_id: int) -> dict[str, Tensor]:
    """The prompt's tensors [B, S] without the columns that went."""
    return {key: kept.take(value, pad_id if key == "input_ids" else 0) for key, value in sequence.items()}
