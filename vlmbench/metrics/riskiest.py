"""Only the pairs with the lowest forecast margin are answered: which those are, and what they tell of all.

The others were never answered, so that neither the flip rate over all pairs nor how well the forecast ranks
them is known: among pairs that were chosen by their forecast an AUROC is not that over all. RISKIEST holds
what can be said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.estimate import Bools, Floats, Ints, ratio_estimate
from vlmbench.schema import Estimate

EDGE = 0.25
"""Of the answered pairs: those next to the cut."""

RISKIEST = {
    "flip_rate_answered": "share of the answered pairs that flip: too high for all pairs, by choice",
    "flip_rate_at_least": "flips found as a share of all pairs: a lower bound of their flip rate",
    "flip_rate_edge": "share that flips of the quarter of the answered pairs with the highest forecast "
    "margin; where the forecast orders pairs by risk, those that were not answered flip less often",
}


@dataclass(frozen=True, eq=False)
class Chosen:
    """Arrays [p] over all pairs; forecast is NaN where there is none, and such pairs are all answered."""

    answered: Bools
    flipped: Bools
    """False where not answered."""
    forecast: Floats
    cluster: Ints


def riskiest(forecast: Floats, share: float) -> Bools:
    """[p] bool: the `share` of the pairs with the lowest forecast margins [p], none of them NaN.

    max(1, floor(share p + 1/2)) of them; of equal ones the first.
    """
    chosen = np.zeros(len(forecast), dtype=bool)
    if len(forecast):
        count = max(1, int(np.floor(share * len(forecast) + 0.5 + 1e-9)))
        chosen[np.argsort(forecast, kind="stable")[:count]] = True
    return chosen


def riskiest_metrics(pairs: Chosen) -> dict[str, Estimate]:
    """The figures of RISKIEST."""
    every = np.ones(len(pairs.answered))
    ranked = np.flatnonzero(pairs.answered & ~np.isnan(pairs.forecast))
    last = ranked[riskiest(-pairs.forecast[ranked], EDGE)]
    edge = np.zeros(len(pairs.answered))
    edge[last] = 1
    figures = {"answered": pairs.answered, "at_least": every, "edge": edge}
    return {
        f"flip_rate_{name}": ratio_estimate(pairs.flipped * counted, counted, pairs.cluster)
        for name, counted in figures.items()
        if counted.any()
    }
