"""Sorting by values that differ in their last digits between devices and libraries."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmbench.prune.greedy import TIE


def descending(values: Tensor, tie: float = TIE) -> Tensor:
    """Indices [.., N] that sort values [.., N], largest first.

    Values that follow each other by no more than `tie` are tied, and so are chains of such: among them the
    lowest index comes first.
    """
    value, index = values.sort(dim=-1, descending=True, stable=True)
    rank = torch.zeros_like(index)
    rank[..., 1:] = (value[..., :-1] - value[..., 1:] > tie).cumsum(-1)
    return index.gather(-1, (rank * values.shape[-1] + index).argsort(-1))
