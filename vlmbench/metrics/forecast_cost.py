"""What foretelling flips saves: the share of them that is found for a share of the time of answering all.

Times are medians of one run on one machine. COSTS is for reading beside METRICS of `metrics.forecast`, and is
no part of them: a metric is the same wherever the run is repeated, and `compare` judges metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.forecast import SHARES, Pairs, flips_found
from vlmbench.schema import Estimate

BUDGETS = (0.25, 0.5)

COSTS = {
    "foretelling": "time of the forecasts alone, as a share of answering every pair: per item one pass back, "
    "per pair one encoding",
    "cost@s": "the same with the answers of the share s of the pairs, which are encoded once more",
    "found_at_cost@c": "share of all flips found where forecasts and answers may cost c; absent where the "
    "forecasts alone cost more",
    "found_margin_at_cost@c": "control: the clean answers' margins cost nothing beyond the clean answers, so "
    "that all of c goes into answers: those of the share c of the pairs with the lowest margin",
}


@dataclass(frozen=True)
class Price:
    """Milliseconds. What both ways need is left out: the clean answer, and preparing pictures."""

    item: float
    """The clean request encoded, and its pass back."""
    pair: float
    """A variant encoded for its forecast."""
    answer: float
    """A variant answered, its encoding included."""

    def foretelling(self, items: int, pairs: int) -> float:
        """As a share of answering all pairs."""
        return (items * self.item + pairs * self.pair) / (pairs * self.answer)

    def spent(self, items: int, pairs: int, answered: int) -> float:
        """Forecasts and answers, as a share of answering all pairs."""
        return self.foretelling(items, pairs) + answered / pairs


def forecast_costs(pairs: Pairs, items: int, price: Price) -> dict[str, float | Estimate]:
    """The figures of COSTS over the pairs with a forecast, which lie on `items` items; empty without any."""
    known = ~np.isnan(pairs.forecast)
    count = int(known.sum())
    if not count or price.answer <= 0:
        return {}
    flipped, cluster = pairs.flipped[known], pairs.cluster[known]
    foretelling = price.foretelling(items, count)
    found: dict[str, float | Estimate] = {"foretelling": foretelling}
    found |= {f"cost@{share:g}": foretelling + share for share in SHARES}
    for cost in BUDGETS:
        if cost > foretelling:
            share = cost - foretelling
            found[f"found_at_cost@{cost:g}"] = flips_found(-pairs.forecast[known], flipped, cluster, share)
        found[f"found_margin_at_cost@{cost:g}"] = flips_found(-pairs.margin[known], flipped, cluster, cost)
    return found
