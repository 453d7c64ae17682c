"""Answers that nearly flip: the probability margin of the first answer token under a perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.bootstrap import estimate_all
from vlmbench.metrics.estimate import Floats, Ints, Ratio
from vlmbench.metrics.outcomes import Bools, Outcomes
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples

NEAR = 0.1
"""Probability margin below which an answer that held is called near a flip."""

METRICS = {
    "prob_margin": "mean probability of the first answer token minus the runner-up's, pairs with a reference",
    "prob_margin_change": "the same minus the reference's, same pairs",
    "near_flip_rate": "share of those pairs that do not flip and whose margin is below .1",
}


def nearness(
    outcomes: Outcomes,
    columns: Ints,
    margin: Floats,
    mask: Bools | None = None,
    resamples: Resamples | None = None,
) -> dict[str, Estimate]:
    """The figures of METRICS over the variants among `columns`; margin [n, m], NaN where unknown."""
    columns = columns[outcomes.is_variant[columns]]
    own, before = margin[:, columns], margin[:, outcomes.base[columns]]
    known = outcomes.pairs[:, columns] & ~np.isnan(own) & ~np.isnan(before)
    if mask is not None:
        known = known & mask[:, None]
    if not known.any():
        return {}
    count = known.sum(axis=1).astype(np.float64)
    near = known & ~outcomes.flipped[:, columns] & (own < NEAR)
    ratios = {
        "prob_margin": Ratio(np.where(known, own, 0.0).sum(axis=1), count, None),
        "prob_margin_change": Ratio(np.where(known, own - before, 0.0).sum(axis=1), count, None),
        "near_flip_rate": Ratio(near.sum(axis=1).astype(np.float64), count),
    }
    return estimate_all(ratios, outcomes.cluster, resamples)
