"""Answers that nearly flip: the probability margin of the first answer token under a perturbation."""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.estimate import Floats, Ints, ratio_estimate
from vlmbench.metrics.outcomes import Bools, Outcomes
from vlmbench.schema import Estimate

NEAR = 0.1
"""Probability margin below which an answer that held is called near a flip."""

METRICS = {
    "prob_margin": "mean probability of the first answer token minus the runner-up's, pairs with a reference",
    "prob_margin_change": "the same minus the reference's, same pairs",
    "near_flip_rate": "share of those pairs that do not flip and whose margin is below .1",
}


def nearness(
    outcomes: Outcomes, columns: Ints, margin: Floats, mask: Bools | None = None
) -> dict[str, Estimate]:
    """The figures of METRICS over the variants among `columns`; margin [n, m], NaN where unknown."""
    columns = columns[outcomes.is_variant[columns]]
    own, before = margin[:, columns], margin[:, outcomes.base[columns]]
    known = outcomes.pairs[:, columns] & ~np.isnan(own) & ~np.isnan(before)
    if mask is not None:
        known = known & mask[:, None]
    if not known.any():
        return {}
    count = known.sum(axis=1)
    near = known & ~outcomes.flipped[:, columns] & (own < NEAR)
    figures = {
        "prob_margin": (np.where(known, own, 0.0), None),
        "prob_margin_change": (np.where(known, own - before, 0.0), None),
        "near_flip_rate": (near, 1.0),
    }
    return {
        name: ratio_estimate(values.sum(axis=1), count, outcomes.cluster, bound)
        for name, (values, bound) in figures.items()
    }
