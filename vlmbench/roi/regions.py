"""From a map over the visual tokens to the region that is looked at again, as in SD-RPN (arXiv 2509.16944).

The map is blurred (3 x 3, sigma 1) and cut at a threshold. Two rules follow, one per family of the paper:

- `by_components` (LLaVA): 8-connected components of one cell are dropped, and those of more than a share of
  the grid; of fewer than four cells they grow to 3 x 3. One left is a box; several are the box around them,
  of which only their own cells count.
- `surrounding` (Qwen): the box around all cells above the threshold, of which only these count.

Where nothing is left there is no region. Padding is never part of one.

Where this departs from the public code: that one returns to all cells above the threshold where several
components are left, so that a lone cell it has dropped stretches the box after all; it cuts the last row and
column off a component grown at the border; and it blanks a corner of Qwen grids above 768 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.prune.greedy import check_finite
from vlmbench.roi.base import Region
from vlmbench.roi.spatial import blur, components

if TYPE_CHECKING:
    from vlmbench.items import Box
    from vlmbench.roi.base import Signals

SHARE = 225 / 576
"""Of the grid: larger components point at nothing (225 of LLaVA-1.5's 576 cells in the paper)."""
SMALL = 4
"""Cells below which a component grows to `GROWN` x `GROWN`."""
GROWN = 3


def on_grid(values: Tensor, signals: Signals) -> Tensor:
    """[H, W] float32 of values [N], 0 where a token sees padding alone. Raises ItemError where one is not
    finite."""
    values = values.float()
    check_finite(values, "the values of the map")
    rows, columns = signals.grid
    return torch.where(signals.shown.to(values.device), values, 0.0).view(rows, columns)


def by_components(map: Tensor, tau: float, signals: Signals, share: float = SHARE) -> Region | None:
    """The region of map [H, W] above `tau` by connected components; `share` of the grid is the largest."""
    shown = _shown(signals, map)
    mask = (blur(map) > tau) & shown
    found = [part for part in components(mask) if 1 < int(part.sum()) <= share * map.numel()]
    parts = [grown(part) & shown if int(part.sum()) < SMALL else part for part in found]
    if not parts:
        return None
    box = box_around(torch.stack(parts).any(0), signals)
    if box is None:
        return None
    return Region(box, None if len(parts) == 1 else torch.stack(parts).any(0))


def surrounding(map: Tensor, tau: float, signals: Signals) -> Region | None:
    """The box around all cells of map [H, W] above `tau`, with these cells as its mask."""
    mask = (blur(map) > tau) & _shown(signals, map)
    box = box_around(mask, signals)
    return None if box is None else Region(box, mask)


def grown(part: Tensor) -> Tensor:
    """[H, W] bool: the rectangle around `part` [H, W] bool, each side at least `GROWN` cells where the grid
    has as many, about its centre and pushed onto the grid."""
    out = torch.zeros_like(part)
    rows = _grown(extent(part.any(1)), part.shape[0])
    columns = _grown(extent(part.any(0)), part.shape[1])
    out[rows[0] : rows[1], columns[0] : columns[1]] = True
    return out


def extent(line: Tensor) -> tuple[int, int]:
    """First True of line [n] bool, and one past the last; (0, 0) where there is none."""
    where = line.nonzero()[:, 0].tolist()
    return (where[0], where[-1] + 1) if where else (0, 0)


def box_around(mask: Tensor, signals: Signals) -> Box | None:
    """The box, in source pixels and on the picture, around what the tokens of mask [H, W] bool see; None
    where they see nothing of it."""
    cells = signals.cells[mask.flatten().to(signals.cells.device) & signals.shown]
    if not len(cells):
        return None
    width, height = signals.size
    left, top = cells[:, :2].amin(0).tolist()
    right, bottom = cells[:, 2:].amax(0).tolist()
    box = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    return box if box[2] > box[0] and box[3] > box[1] else None


def _shown(signals: Signals, map: Tensor) -> Tensor:
    return signals.shown.view(signals.grid).to(map.device)


def _grown(span: tuple[int, int], side: int) -> tuple[int, int]:
    """(start, stop) of at least `GROWN` cells on a side of the grid."""
    length = min(max(span[1] - span[0], GROWN), side)
    start = span[0] - (length - (span[1] - span[0])) // 2
    start = min(max(start, 0), side - length)
    return start, start + length
