"""ViCrop's search for a box: which of six sizes of square window stands out most on a map (arXiv 2502.17422).

A window of `side` source pixels times each of `RATIOS` slides over the map by one cell. Per ratio the window
with the largest sum counts; of these the one whose sum exceeds the mean of its up to four neighbours by most
per cell. The box has the window's side in pixels about the centre of the winning cells, pushed onto the
picture. A smallest window that covers the whole grid gives the whole picture.

The division by the number of cells, the order of the search (column by column: it decides ties) and the
rounding to whole pixels are those of the authors' code. Where this departs from it: a window is at least one
cell, where theirs is empty and their choice undefined on pictures of very large cells; and cells are placed
by what they see, where theirs spread over the whole picture even if the processor pads or crops it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlmbench.prune.greedy import first_max
from vlmbench.roi.base import Region
from vlmbench.roi.regions import extent

if TYPE_CHECKING:
    from vlmbench.roi.base import Signals

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
PIXELS = 14
"""Source pixels of the smallest window per cell of the grid's side."""
_TIE = 1e-12
"""Of the map's sum: what sums of the same cells in another order may differ by."""
_ROUNDING = 1e-6
"""Pixels or cells that rounding may fall short of a whole one."""


def smallest_side(grid: tuple[int, int]) -> float:
    """Side in source pixels of the smallest window for a grid of H x W tokens: 14 sqrt(H W).

    One rule for the three sides that the authors set by hand: 336 for LLaVA-1.5 (24 x 24 tokens), 224 for
    InstructBLIP (16 x 16) and for Qwen2.5-VL (at most 256 tokens).
    """
    return PIXELS * math.sqrt(grid[0] * grid[1])


def search(map: Tensor, signals: Signals, side: float = 0) -> Region | None:
    """The box on map [H, W]; `side` of the smallest window in source pixels, 0 for `smallest_side`.

    None where no token sees the picture.
    """
    shown = signals.shown.view(signals.grid)
    rows, columns = extent(shown.any(1)), extent(shown.any(0))
    if rows == (0, 0):
        return None
    side = side or smallest_side(signals.grid)
    part = map.double().cpu()[rows[0] : rows[1], columns[0] : columns[1]]
    cells = signals.cells.view(*signals.grid, 4)[rows[0] : rows[1], columns[0] : columns[1]].cpu()
    inner = shown[rows[0] : rows[1], columns[0] : columns[1], None].cpu()
    low, high = torch.where(inner, cells[..., :2], torch.inf), torch.where(inner, cells[..., 2:], -torch.inf)
    xs = low[..., 0].amin(0), high[..., 0].amax(0)
    ys = low[..., 1].amin(1), high[..., 1].amax(1)
    counts = [(_cells(ys, side * ratio), _cells(xs, side * ratio)) for ratio in RATIOS]
    width, height = signals.size
    if counts[0] == part.shape:
        return Region((0.0, 0.0, float(width), float(height)))
    ratio, (top, left) = best(part, [count for count in counts if count != part.shape])
    tall, wide = counts[ratio]
    half = max(1, int(side * RATIOS[ratio] // 2))
    x0, x1 = _about(float(xs[0][left] + xs[1][left + wide - 1]) / 2, half, width)
    y0, y1 = _about(float(ys[0][top] + ys[1][top + tall - 1]) / 2, half, height)
    return Region((x0, y0, x1, y1))


def best(map: Tensor, windows: list[tuple[int, int]]) -> tuple[int, tuple[int, int]]:
    """Which of `windows` (rows, columns) stands out most on map [H, W] float64, and its first row and column.

    None of them covers the whole map.
    """
    table = pad(map.cumsum(0).cumsum(1), (1, 0, 1, 0))
    tie = _TIE * float(map.abs().sum())
    places, sharpness = [], []
    for tall, wide in windows:
        sums = table[tall:, wide:] - table[:-tall, wide:] - table[tall:, :-wide] + table[:-tall, :-wide]
        place = int(first_max(sums.mT.flatten(), tie))
        left, top = divmod(place, sums.shape[0])
        around = pad(sums, (1, 1, 1, 1), value=torch.nan)[top : top + 3, left : left + 3]
        beside = torch.stack([around[0, 1], around[2, 1], around[1, 0], around[1, 2]]).nanmean()
        places.append((top, left))
        sharpness.append((sums[top, left] - beside) / (tall * wide))
    found = int(first_max(torch.stack(sharpness), tie))
    return found, places[found]


def _cells(edges: tuple[Tensor, Tensor], pixels: float) -> int:
    """Whole cells within so many pixels, at least 1 and at most all; the first and last cell may be cut."""
    pitch = float((edges[1] - edges[0]).max())
    return min(max(1, int(pixels / pitch + _ROUNDING)), len(edges[0]))


def _about(centre: float, half: int, length: int) -> tuple[float, float]:
    """An interval of 2 half about `centre`, both in whole pixels, on [0, length]."""
    place = min(max(int(centre + _ROUNDING), half), length - half)
    return float(max(0, place - half)), float(min(length, place + half))
