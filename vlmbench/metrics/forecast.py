"""Which variants will flip, foretold without answering them; and how far perturbations move the model inside.

A pair is an item under an image perturbation whose record counts on both sides; its forecast is the margin
that one backward pass foretells (`models.gradient`). METRICS and DRIFTS say what each name means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.estimate import Bools, Floats, Ints, ratio_estimate
from vlmbench.metrics.ranking import auroc_difference, auroc_estimate
from vlmbench.schema import Estimate

SHARES = (0.05, 0.1, 0.25, 0.5)

METRICS = {
    "flip_rate": "share of the pairs that really flip",
    "auroc_forecast": "chance that a pair that flips has the lower forecast margin",
    "auroc_margin": "control: the same for the clean answer's own margin, which knows no perturbation",
    "auroc_drift": "control: the same for how far the visual tokens moved",
    "auroc_gain": "auroc_forecast minus auroc_margin, same pairs",
    "found@s": "share of all flips among the share s of the pairs with the lowest forecast margin",
    "found_margin@s": "control: among those with the lowest margin of the clean answer",
}

DRIFTS = {
    "state_drift": "mean 1 - cosine of the last prompt token's final states, perturbed against clean",
    "state_drift_share": "the same as a share of the distance between items of different images",
    "feature_drift": "mean |Z' - Z| / |Z| of the visual tokens",
    "energy_change": "mean relative change of the visual tokens' Dirichlet energy",
}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Arrays [p] over pairs; NaN where a figure is not known."""

    flipped: Bools
    forecast: Floats
    margin: Floats
    drift: Floats
    cluster: Ints


def forecast_metrics(pairs: Pairs) -> dict[str, Estimate]:
    """The figures of METRICS over the pairs with a forecast; empty where there is none."""
    known = ~np.isnan(pairs.forecast)
    if not known.any():
        return {}
    flipped, cluster = pairs.flipped[known], pairs.cluster[known]
    forecast, margin, drift = -pairs.forecast[known], -pairs.margin[known], pairs.drift[known]
    found = {
        "flip_rate": ratio_estimate(flipped, np.ones(len(flipped)), cluster),
        "auroc_forecast": auroc_estimate(forecast, flipped, cluster),
        "auroc_margin": auroc_estimate(margin, flipped, cluster),
        "auroc_drift": auroc_estimate(drift, flipped, cluster),
        "auroc_gain": auroc_difference(forecast, margin, flipped, cluster),
    }
    for share in SHARES:
        found[f"found@{share:g}"] = flips_found(forecast, flipped, cluster, share)
        found[f"found_margin@{share:g}"] = flips_found(margin, flipped, cluster, share)
    return found


def flips_found(risk: Floats, flipped: Bools, cluster: Ints, share: float) -> Estimate:
    """Share of all flips among the share of the pairs with the highest risk, arrays [p].

    Of a block of equal risk that the share cuts through, each pair counts in part.
    """
    budget = share * len(risk)
    order = np.argsort(-risk, kind="stable")
    _, block, size = np.unique(-risk[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(size)
    part = np.clip((budget - (ends - size)) / size, 0, 1)[block]
    weight = np.empty(len(risk))
    weight[order] = part
    return ratio_estimate(weight * flipped, flipped, cluster)


def drift_metrics(
    state: Floats, unrelated: Floats, feature: Floats, energy: Floats, cluster: Ints
) -> dict[str, Estimate]:
    """The figures of DRIFTS; arrays [p] over pairs, NaN where not known."""
    figures: Sequence[tuple[str, Floats, Floats, float | None]] = (
        ("state_drift", state, np.ones(len(state)), 2.0),
        ("state_drift_share", state, unrelated, None),
        ("feature_drift", feature, np.ones(len(state)), None),
        ("energy_change", energy, np.ones(len(state)), None),
    )
    return {
        name: ratio_estimate(top, bottom, cluster, bound)
        for name, top, bottom, bound in figures
        if (~np.isnan(top) & ~np.isnan(bottom)).any()
    }
