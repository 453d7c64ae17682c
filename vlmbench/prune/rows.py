"""Rows of the cosine matrix of one image's tokens, computed on the CPU when a greedy choice needs them.

A row alone is a matrix-vector product, bound by memory; the whole matrix is mostly never read. So a missing
row comes together with those of the tokens that look best at that moment, as one matrix product: they are
the likely next choices.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AHEAD = 48
"""Rows in one product: as many as a matrix product needs to cost a tenth of single rows."""
SIDE = 4096
"""Of the largest matrix that is held as a whole, in 64 MB."""

_BLOCK = 192


class CosineRows:
    """unit [N, d]: float32 on the CPU, of unit length or zero."""

    def __init__(self, unit: Tensor) -> None:
        self._unit = unit
        self._at = np.full(len(unit), -1)
        self._rows: list[NDArray[np.float32]] = []

    def row(self, token: int, promise: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N]: cosines to `token`; promise [N]: how likely each token is to be asked for next."""
        if self._at[token] < 0:
            self._read(token, promise)
        row: NDArray[np.float32] = self._rows[self._at[token]]
        return row

    def all(self) -> None:
        """Computes every row now, unless there are too many: where most will be asked for."""
        if len(self._unit) <= SIDE:
            self._rows = list(gram(self._unit).numpy())
            self._at = np.arange(len(self._unit))

    def _read(self, token: int, promise: NDArray[np.float32]) -> None:
        n, known = len(self._unit), len(self._rows)
        if known * 2 >= n and n <= SIDE:
            return self.all()  # the promise was not kept
        hope = np.where(self._at < 0, promise, -np.inf)
        hope[token] = np.inf
        count = min(AHEAD, n - known)
        wanted = np.argpartition(-hope, count - 1)[:count]
        self._at[wanted] = np.arange(known, known + count)
        self._rows.extend(torch.mm(self._unit[torch.from_numpy(wanted)], self._unit.T).numpy())
        return None


def gram(vectors: Tensor, out: Tensor | None = None) -> Tensor:
    """[N, N], in `out` where it is given: products of vectors [N, d] with each other; below the diagonal,
    blocks are copies."""
    n = len(vectors)
    out = vectors.new_empty(n, n) if out is None else out
    for a in range(0, n, _BLOCK):
        b = a + _BLOCK
        torch.mm(vectors[a:b], vectors[a:].T, out=out[a:b, a:])
        out[b:, a:b] = out[a:b, b:].T
    return out
