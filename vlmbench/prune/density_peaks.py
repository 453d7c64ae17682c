"""Density-peak clustering with k nearest neighbours (DPC-kNN, https://doi.org/10.1016/j.knosys.2016.02.001)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmbench.prune.greedy import TIE, first_max
from vlmbench.prune.ties import descending


def density_peaks(x: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Indices [c] of the peaks, ascending, and the cluster [s] that each row of x [s, d] is in; 1 <= c <= s.

    Distance: Euclidean over sqrt(d). A row's density is exp(-mean of squared distances to its c nearest rows,
    itself among them); its separation is the distance to the nearest denser row, for the densest the largest
    distance of all. Peaks are the c rows of largest density x separation; every other row joins the nearest
    peak. Of equally dense rows the first counts as denser.
    """
    square = _squared_distances(x.float())
    density = (-square.topk(clusters, largest=False).values.mean(-1)).exp()
    order = descending(density)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(x), device=x.device)
    distance = square.sqrt()
    denser = rank[None, :] < rank[:, None]
    separation = torch.where(denser, distance, distance.max()).amin(-1)
    peaks = descending(density * separation)[:clusters].sort().values
    member = first_max(-square[:, peaks])
    member[peaks] = torch.arange(clusters, device=x.device)
    return peaks, member


def _squared_distances(x: Tensor) -> Tensor:
    """[s, d] -> [s, s], over d. Below `TIE`, which is the rounding of a matrix product, they are 0."""
    x = x - x[:1]  # what the rows have in common would cost digits
    product = x @ x.T
    norm = product.diagonal()
    square = (norm[:, None] + norm[None, :] - 2 * product) / x.shape[1]
    square = (square + square.T) / 2
    return torch.where(square > TIE, square, 0.0).fill_diagonal_(0)
