"""Small operations on maps over the grid of visual tokens, [.., H, W]."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_SIDE = math.exp(-0.5)  # of the centre's weight, one cell away at sigma 1
_EIGHT = np.ones((3, 3), dtype=np.int64)
_PLANES = np.zeros((3, 3, 3), dtype=np.int64)  # neighbours within a map, none in the maps beside it
_PLANES[1] = _EIGHT
_ROUNDING = 1e-6


def blur(map: Tensor) -> Tensor:
    """[.., H, W] -> the same, float32 or wider: a 3 x 3 Gaussian of sigma 1.

    Border: the map is mirrored about its outermost cells, which are not repeated, as SD-RPN's blur does
    (arXiv 2509.16944); a side of one cell repeats that cell. A constant map stays as it is; the sum of others
    does not, since a cell beside the border counts twice for the one on it.
    """
    map = map.to(torch.promote_types(map.dtype, torch.float32))
    for dim in (-2, -1):
        before, after = _neighbours(map.shape[dim], map.device)
        sides = map.index_select(dim, before) + map.index_select(dim, after)
        map = (map + _SIDE * sides) / (1 + 2 * _SIDE)
    return map


def _neighbours(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Index [side] of the cell before and behind each, mirrored at the border."""
    place = torch.arange(side, device=device)
    last = max(side - 1, 1)
    before, after = (place - 1).abs(), last - (last - place - 1).abs()
    return before.clamp(max=side - 1), after.clamp(max=side - 1)


def components(mask: Tensor) -> list[Tensor]:
    """[H, W] bool -> its 8-connected components as [H, W] bool, on the mask's device.

    Most cells first; of equal counts the one whose first cell, row by row, comes first.
    """
    labels, count = ndimage.label(mask.cpu().numpy(), structure=_EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    first = np.full(count + 1, labels.size)
    np.minimum.at(first, labels.ravel(), np.arange(labels.size))
    order = np.lexsort((first[1:], -sizes)) + 1
    where = torch.from_numpy(labels).to(mask.device)
    return [where == int(label) for label in order]


def spatial_entropy(map: Tensor, floor: float = 0.0) -> Tensor:
    """[.., H, W] -> [..] float64 on the CPU: how a map falls apart, 0 for one spot (arXiv 2503.06287).

    B = max(map - mean, 0); of the 8-connected components of B > `floor`, with p_n the share of B's sum that
    component n holds, -sum p_n log p_n. Infinite for a map without a cell above its mean; a cell above it
    by less than 1e-6 of the map's largest value counts as on the mean. The authors' code has floor = .001, an
    absolute mass that few of the cells of a large image reach, and its p_n then no longer sum to 1.
    """
    planes = map.detach().reshape(-1, *map.shape[-2:]).cpu().double().numpy()
    above = np.maximum(planes - planes.mean((1, 2), keepdims=True), 0)
    above[above <= _ROUNDING * np.abs(planes).max((1, 2), keepdims=True)] = 0
    labels, count = ndimage.label(above > floor, structure=_PLANES)
    plane = np.zeros(count + 1, dtype=np.int64)
    plane[labels.reshape(len(planes), -1)] = np.arange(len(planes))[:, None]
    total = above.sum((1, 2))
    share = np.bincount(labels.ravel(), above.ravel(), count + 1)[1:] / total[plane[1:]]
    entropy = np.bincount(plane[1:], -share * np.log(share), len(planes)).astype(np.float64)
    entropy[total == 0] = np.inf
    return torch.from_numpy(entropy.clip(0)).reshape(map.shape[:-2])
