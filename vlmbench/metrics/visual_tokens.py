"""How a perturbation changes the number of visual tokens, which it may on models that take pictures of any
size."""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.estimate import Floats, ratio_estimate
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

METRICS = {
    "visual_tokens_change": "mean visual tokens of a request, before any pruning, minus those of its "
    "reference on the same items; absent where no item has another number"
}


def token_changes(outcomes: Outcomes, j: int, tokens: Floats) -> dict[str, Estimate]:
    """The figure of METRICS for column j; tokens [n, m], NaN where not known."""
    reference = int(outcomes.reference[j])
    if reference < 0:
        return {}
    change = tokens[:, j] - tokens[:, reference]
    known = outcomes.valid[:, j] & outcomes.valid[:, reference] & ~np.isnan(change)
    if not change[known].any():
        return {}
    total = np.where(known, change, 0.0)
    return {"visual_tokens_change": ratio_estimate(total, known, outcomes.cluster, bound=None)}
