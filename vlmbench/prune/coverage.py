"""Greedy maximum coverage: k columns of a matrix whose row-wise maxima sum to as much as can be.

Every step adds the column j with the largest gain, sum_r max(C_rj - best_r, 0), where best_r is the largest
entry of row r among the chosen columns. Gains only shrink, so on the CPU one that was once computed bounds
what the column is worth later, and only those whose bound reaches the largest gain are computed again (the
lazy greedy algorithm of Minoux, 1978).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vlmbench.prune.greedy import TIE, first_max

_AT_ONCE = 16  # columns whose gains are computed together; with fewer, calls cost more than arithmetic


def cover(matrix: Tensor, k: int) -> Tensor:
    """Indices [B, k], ascending, of the columns chosen in each of B matrices [B, R, N], entries >= 0.

    Gains within `TIE` of the largest, relative to it where it exceeds one, are tied and the lowest index
    wins: scale entries so that gains are of size one.
    """
    if not 0 <= k <= matrix.shape[2]:
        raise ValueError(f"cover: k must be in [0, {matrix.shape[2]}]: got {k}")
    if matrix.device.type == "cpu":
        return torch.stack([_on_cpu(each, k) for each in matrix])
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


def _on_cpu(matrix: Tensor, k: int) -> Tensor:
    """[k], ascending; matrix [R, N], fastest where its columns are contiguous. In NumPy for the reason given
    at `greedy._steps_on_cpu`."""
    columns = np.ascontiguousarray(matrix.numpy().T)
    n = len(columns)
    best = np.zeros(columns.shape[1], dtype=np.float32)
    bound = matrix.sum(0).numpy()
    high = bound.max(initial=0)
    chosen: list[int] = []
    while len(chosen) < k:
        if high <= TIE:  # nothing is left to cover, now or later
            chosen += np.isfinite(bound).nonzero()[0][: k - len(chosen)].tolist()
            break
        token = int((bound >= high - TIE * max(1, high)).argmax())
        chosen.append(token)
        np.maximum(best, columns[token], out=best)
        bound[token] = -np.inf
        old, high = bound.copy(), 0.0
        doubt = np.argpartition(old, -_AT_ONCE)[-_AT_ONCE:] if n > _AT_ONCE else np.isfinite(old).nonzero()[0]
        while len(doubt):
            gain = columns[doubt]
            gain -= best
            bound[doubt] = total = np.maximum(gain, 0, out=gain).sum(1)
            old[doubt] = -np.inf
            high = max(high, float(total.max()))
            doubt = (old >= high - 2 * TIE * max(1, high)).nonzero()[0]
        bound[chosen] = -np.inf
    return torch.from_numpy(np.sort(np.array(chosen, dtype=np.int64)))


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
