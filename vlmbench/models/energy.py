"""How much neighbouring visual tokens differ: the Dirichlet energy of the token grid."""

from __future__ import annotations

import torch
from torch import Tensor


def dirichlet_energy(rows: Tensor, grid: Tensor) -> float | None:
    """Mean squared distance of neighbours, as a share of the mean squared length; 0 for a constant picture,
    about 2 for tokens without any relation. After arXiv 2602.06652.

    rows [n, d]; grid [n, 3] tile, row, column (-1 for newlines, which have no neighbours). Neighbours are one
    row or one column apart in the same tile. None where there are none.
    """
    at = (grid[:, 1] >= 0).nonzero()[:, 0].to(rows.device)
    places, tokens = grid.to(rows.device)[at], rows[at].double()
    if not len(at):
        return None
    tiles, high, wide = (int(n) + 1 for n in places.amax(0).tolist())
    index = torch.full((tiles, high, wide), -1, dtype=torch.long, device=rows.device)
    index[places[:, 0], places[:, 1], places[:, 2]] = torch.arange(len(at), device=rows.device)
    pairs = torch.cat(
        [
            torch.stack([index[:, 1:].flatten(), index[:, :-1].flatten()], 1),
            torch.stack([index[:, :, 1:].flatten(), index[:, :, :-1].flatten()], 1),
        ]
    )
    pairs = pairs[(pairs >= 0).all(1)]
    size = float((tokens**2).sum(1).mean())
    if not len(pairs) or size == 0:
        return None
    return float(((tokens[pairs[:, 0]] - tokens[pairs[:, 1]]) ** 2).sum(1).mean()) / size
