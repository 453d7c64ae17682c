"""The cluster resamples that all figures of a table share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmbench.metrics.bootstrap import multinomial_weights
from vlmbench.metrics.estimate import Floats, Ints

_AS_FLOATS = 100_000_000
"""Weights up to this many are kept ready to multiply, in 400 MB; more of them in one byte each."""
_BLOCK = 4_000_000
"""Weights that are multiplied at a time."""


class Resamples:
    """b resamples of the clusters 0 .. G - 1 of a task, drawn once.

    Every figure is computed on the same resamples, also those of a category or of items that count: there a
    resample holds as many of the category's clusters as fell to it, as a new sample of the task would.
    """

    def __init__(self, cluster: Ints, b: int, seed: int = 0) -> None:
        self._groups = int(cluster.max()) + 1 if len(cluster) else 0
        # a count above 255 has odds below 1e-500
        kept = np.float32 if b * self._groups <= _AS_FLOATS else np.uint8
        self._weights: npt.NDArray[np.float32 | np.uint8] = np.empty((b, self._groups), kept)
        row = 0
        for block in multinomial_weights(self._groups, b, seed):
            self._weights[row : row + len(block)] = block
            row += len(block)

    def sums(self, columns: Floats, cluster: npt.ArrayLike) -> Floats:
        """Replicates of the column sums: [n, k] -> [b, k], for any rows of the task with their codes [n].

        In single precision: counts are exact, and an error to six digits is enough. Equal columns, such as
        the denominators of transitions, are multiplied once.
        """
        codes = np.asarray(cluster)
        places: dict[bytes, int] = {}
        place: list[int] = []
        sums: list[npt.NDArray[np.float32]] = []
        for column in columns.T:
            per_cluster = np.bincount(codes, weights=column, minlength=self._groups).astype(np.float32)
            key = per_cluster.tobytes()
            if key not in places:
                places[key] = len(sums)
                sums.append(per_cluster)
            place.append(places[key])
        table = np.stack(sums, axis=1)
        step = max(1, _BLOCK // max(self._groups, 1))
        found = [
            self._weights[i : i + step].astype(np.float32, copy=False) @ table
            for i in range(0, len(self._weights), step)
        ]
        return np.concatenate(found)[:, place].astype(np.float64)
