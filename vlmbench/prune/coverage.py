"""Greedy maximum coverage: k columns of a matrix whose row-wise maxima sum to as much as can be.

Every step adds the column j with the largest gain, sum_r max(C_rj - best_r, 0), where best_r is the largest
entry of row r among the chosen columns. On the CPU only rows that the new column raises are looked at, to
bring approximate gains up to date; where several are near the largest, those are then summed afresh.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmbench.prune.greedy import TIE, first_max


def cover(matrix: Tensor, k: int) -> Tensor:
    """Indices [B, k], ascending, of the columns chosen in each of B matrices [B, R, N], entries >= 0.

    Gains within `TIE` of the largest, relative to it where it exceeds one, are tied and the lowest index
    wins: scale entries so that gains are of size one.
    """
    if not 0 <= k <= matrix.shape[2]:
        raise ValueError(f"cover: k must be in [0, {matrix.shape[2]}]: got {k}")
    if matrix.device.type == "cpu":
        chosen = [_on_cpu(each.numpy(), k) for each in matrix]
        return torch.from_numpy(np.stack(chosen))
    return _on_device(matrix, k).sort(1).values


def cover_many(matrices: Sequence[Tensor], ks: Sequence[int]) -> list[Tensor]:
    """`cover` for single matrices [R, N]; equal N and k share one call, rows of zeros make up R."""
    if all(matrix.device.type == "cpu" for matrix in matrices):  # a batch would only be copied
        return [cover(matrix[None], k)[0] for matrix, k in zip(matrices, ks, strict=True)]
    chosen: list[Tensor] = [torch.empty(0)] * len(matrices)
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (matrix, k) in enumerate(zip(matrices, ks, strict=True)):
        groups.setdefault((matrix.shape[1], matrix.device, k), []).append(i)
    for members in groups.values():
        rows = max(len(matrices[i]) for i in members)
        padded = [torch.nn.functional.pad(matrices[i], (0, 0, 0, rows - len(matrices[i]))) for i in members]
        for i, row in zip(members, cover(torch.stack(padded), ks[members[0]]), strict=True):
            chosen[i] = row
    return chosen


def _on_cpu(matrix: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """[k], ascending; matrix [R, N]."""
    best = np.zeros(len(matrix), dtype=np.float32)
    about = matrix.sum(0).astype(np.float64)
    margin = 4 * TIE * max(1, about.max())  # far more than what rounding does to `about`
    chosen: list[int] = []
    while len(chosen) < k:
        near = np.flatnonzero(about >= about.max() - margin)
        token = int(near[0])
        if len(near) > 1 or about[token] <= 2 * margin:  # otherwise it has the largest gain, and a real one
            gain = np.maximum(matrix[:, near] - best[:, None], 0).sum(0)
            high = gain.max()
            if high <= TIE:  # nothing is left to cover, now or later
                chosen += np.flatnonzero(np.isfinite(about))[: k - len(chosen)].tolist()
                break
            token = int(near[(gain >= high - TIE * max(1, high)).argmax()])
        chosen.append(token)
        better = np.flatnonzero(matrix[:, token] > best)
        rise = matrix[better, token] - best[better]
        part = matrix[better]
        part -= best[better, None]
        np.maximum(part, 0, out=part)
        np.minimum(part, rise[:, None], out=part)
        about -= part.sum(0)
        about[token] = -np.inf
        best[better] += rise
    return np.sort(np.array(chosen, dtype=np.int64))


def _on_device(matrix: Tensor, k: int) -> Tensor:
    """[B, k] in the order of choice, all matrices at once, without waiting for the device."""
    best = torch.zeros_like(matrix[:, :, :1])
    taken = torch.zeros_like(matrix[:, 0])
    chosen = []
    for _ in range(k):
        gain = (matrix - best).clamp(min=0).sum(1) + taken
        token = first_max(gain, TIE * gain.amax(-1, keepdim=True).clamp(min=1))
        taken = taken.scatter(1, token[:, None], -torch.inf)
        best = torch.maximum(best, matrix.gather(2, token[:, None, None].expand(-1, matrix.shape[1], 1)))
        chosen.append(token)
    return torch.stack(chosen, dim=1) if chosen else taken[:, :0].long()
