"""What one task's records look like to the stability metrics: arrays over items [n] and conditions [m].

The rules of the denominator live here and nowhere else:

- ERROR, SKIPPED and NOT_APPLICABLE records never count, nor do inputs that a perturbation left unchanged
  (a renderer that fails silently would otherwise make a model look stable).
- A pair (item, variant) counts where the record AND its reference count.
- A pair is a flip where both sides are PARSED and their canonical answers differ. A counted pair with a side
  that is UNPARSED, REFUSED or EMPTY is in the denominator and is no flip; where the two states differ it is a
  change of state, which is reported apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vlmbench.schema import State

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STATES = tuple(State)
"""A state's code is its place here."""

_PARSED = STATES.index(State.PARSED)
_COUNTS = np.array([state.counts for state in STATES])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The records of ONE task, item axis n, condition axis m. Arrays are used as they are, never written to.

    answer     int [n, m]: code of the canonical answer, comparable within a row only; -1 where there is none
    state      int [n, m]: place in `STATES`
    score      float [n, m] in [0, 1]: NaN where there is none
    tie        bool [n, m]: the smallest logit margin is within the numerical tolerance of the run
    prob       float [n]: probability of the first answer token under the clean condition, NaN where unknown
    cluster    int [n]: items of one image (or group) share a code
    reference  int [m]: column that flips are counted against; -1 or the column itself where there is none
    unchanged  bool [n, m]: the perturbed input equals the original

    Raises ValueError naming the array whose shape or values do not fit.
    """

    answer: Ints
    state: Ints
    score: Floats
    tie: Bools
    prob: Floats
    cluster: Ints
    reference: Ints
    unchanged: Bools

    def __post_init__(self) -> None:
        if self.answer.ndim != 2:
            raise ValueError(f"answer must be [items, conditions]: got shape {self.answer.shape}")
        n, m = self.answer.shape
        shapes: dict[str, tuple[int, ...]] = {
            "state": (n, m),
            "score": (n, m),
            "tie": (n, m),
            "unchanged": (n, m),
        }
        shapes |= {"prob": (n,), "cluster": (n,), "reference": (m,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}: got {getattr(self, name).shape}")
        if self.state.size and not (self.state.min() >= 0 and self.state.max() < len(STATES)):
            raise ValueError(f"state must be a place in {[str(state) for state in STATES]}")
        if m and not (self.reference.min() >= -1 and self.reference.max() < m):
            raise ValueError(f"reference must be a column in [-1, {m}): got {self.reference}")
        if (self.parsed & (self.answer < 0)).any():
            raise ValueError("answer is -1 in a PARSED record")

    @property
    def n(self) -> int:
        return int(self.answer.shape[0])

    def rows(self, mask: Bools | Ints) -> Outcomes:
        """The items that `mask` (bool [n] or places) selects: a category, a stratum."""
        return Outcomes(
            answer=self.answer[mask],
            state=self.state[mask],
            score=self.score[mask],
            tie=self.tie[mask],
            prob=self.prob[mask],
            cluster=self.cluster[mask],
            reference=self.reference,
            unchanged=self.unchanged[mask],
        )

    @cached_property
    def base(self) -> Ints:
        """[m]: every column's reference column; its own place where it has none."""
        own = np.arange(len(self.reference))
        return np.where(self.reference < 0, own, self.reference).astype(np.int64)

    @cached_property
    def is_variant(self) -> Bools:
        """[m]: the column has a reference other than itself."""
        variant: Bools = self.base != np.arange(len(self.base))
        return variant

    @cached_property
    def valid(self) -> Bools:
        """[n, m]: the record is in the denominator."""
        valid: Bools = _COUNTS[self.state] & ~self.unchanged
        return valid

    @cached_property
    def parsed(self) -> Bools:
        """[n, m]: the record is in the denominator and has a canonical answer."""
        parsed: Bools = self.valid & (self.state == _PARSED)
        return parsed

    @cached_property
    def scored(self) -> Bools:
        """[n, m]: the record is in the denominator of accuracy."""
        scored: Bools = self.valid & ~np.isnan(self.score)
        return scored

    @cached_property
    def correct(self) -> Bools:
        """[n, m]: score > 0.5. Soft scores are cut for transitions and errors, never for accuracy."""
        correct: Bools = self.scored & (self.score > 0.5)
        return correct

    @cached_property
    def pairs(self) -> Bools:
        """[n, m]: both the record and its reference count; False in columns that are no variants."""
        return self.valid & self.valid[:, self.base] & self.is_variant

    @cached_property
    def parsed_pairs(self) -> Bools:
        """[n, m]: pairs with an answer on both sides."""
        return self.pairs & self.parsed & self.parsed[:, self.base]

    @cached_property
    def scored_pairs(self) -> Bools:
        """[n, m]: pairs with a score on both sides."""
        return self.pairs & self.scored & self.scored[:, self.base]

    @cached_property
    def flipped(self) -> Bools:
        """[n, m]: pairs with two different canonical answers."""
        flipped: Bools = self.parsed_pairs & (self.answer != self.answer[:, self.base])
        return flipped

    @cached_property
    def state_changed(self) -> Bools:
        """[n, m]: pairs whose two states differ."""
        changed: Bools = self.pairs & (self.state != self.state[:, self.base])
        return changed

    @cached_property
    def tied_pairs(self) -> Bools:
        """[n, m]: pairs with a tie on either side, where a flip may be rounding and nothing else."""
        return self.pairs & (self.tie | self.tie[:, self.base])

    @cached_property
    def flips(self) -> Floats:
        """[n, m]: 1 flip, 0 none, NaN outside the denominator."""
        return np.where(self.pairs, self.flipped.astype(np.float64), np.nan)
