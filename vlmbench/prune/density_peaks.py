"""Density-peak clustering with k nearest neighbours (DPC-kNN, https://doi.org/10.1016/j.knosys.2016.02.001)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmbench.prune.greedy import TIE, first_max
from vlmbench.prune.ties import descending


def density_peaks(images: Sequence[Tensor], clusters: int) -> tuple[Tensor, Tensor]:
    """Of B images, each rows [s, d]: indices [B, c] of the peaks, ascending, and the cluster [B, s] that each
    row is in; 1 <= c <= s.

    Distance: Euclidean over sqrt(d). A row's density is exp(-mean of squared distances to its c nearest rows,
    itself among them); its separation is the distance to the nearest denser row, for the densest the largest
    distance of all. Peaks are the c rows of largest density x separation; every other row joins the nearest
    peak. Of equally dense rows the first counts as denser.
    """
    square = _squared_distances(images)
    density = (-square.topk(clusters, largest=False).values.mean(-1)).exp()
    order = descending(density)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    distance = square.sqrt()
    denser = rank[:, None, :] < rank[:, :, None]
    largest = distance.amax((1, 2), keepdim=True)
    separation = torch.where(denser, distance, largest).amin(-1)
    peaks = descending(density * separation)[:, :clusters].sort(1).values
    columns = peaks[:, None].expand(-1, square.shape[1], -1)
    member = first_max(-square.gather(-1, columns))
    return peaks, member.scatter_(1, peaks, places[:, :clusters])


def _squared_distances(images: Sequence[Tensor]) -> Tensor:
    """B x [s, d] -> [B, s, s], over d. Below `TIE`, which is the rounding of a product, they are 0."""
    product = torch.stack([_products(x.float()) for x in images])
    norm = product.diagonal(dim1=1, dim2=2)
    square = (norm[:, :, None] + norm[:, None, :] - 2 * product) / images[0].shape[1]
    square = (square + square.mT) / 2
    square = torch.where(square > TIE, square, 0.0)
    square.diagonal(dim1=1, dim2=2).zero_()
    return square


def _products(x: Tensor) -> Tensor:
    x = x - x[:1]  # what the rows have in common would cost digits
    return x @ x.T
