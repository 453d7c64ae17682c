"""Was the evidence dropped, or kept and not used? For tasks whose items have a box.

The evidence of a record is the share of the asked box's tokens that were kept. METRICS says what each name
means; items without a box are in no denominator here.
"""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.estimate import Floats, ratio_estimate
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

DROPPED = 0.05
"""Evidence below this share counts as dropped: nothing but slivers of the box at the edge of kept tokens."""

METRICS = {
    "evidence_recall": "mean share of the asked box's tokens that were kept",
    "evidence_dropped": "share of the items of whose box less than 5 % was kept",
    "lost": "share of the items with a box: full model right, pruned model wrong",
    "lost_dropped": "share of the lost of whose box less than 5 % was kept",
    "lost_unused": "share of the lost of whose box more was kept: kept and unused",
}


def evidence_metrics(outcomes: Outcomes, column: int, evidence: Floats) -> dict[str, Estimate]:
    """The figures of METRICS for `column`; evidence [n, m], NaN where an item has no box.

    Empty where no record tells of evidence. `evidence_dropped` is the rate that `lost_dropped` has to be read
    against: where a method drops the box of most items, most of what it loses was dropped by chance alone.
    A share of the lost has no value where nothing is lost.
    """
    known = outcomes.valid[:, column] & ~np.isnan(evidence[:, column])
    if not known.any():
        return {}
    recall = np.where(known, evidence[:, column], 0.0)
    dropped = known & (recall < DROPPED)
    metrics = {
        "evidence_recall": ratio_estimate(recall, known, outcomes.cluster),
        "evidence_dropped": ratio_estimate(dropped, known, outcomes.cluster),
    }
    if outcomes.is_variant[column]:
        scored = outcomes.scored_pairs[:, column] & known
        lost = scored & outcomes.correct[:, outcomes.base[column]] & ~outcomes.correct[:, column]
        metrics |= {
            "lost": ratio_estimate(lost, scored, outcomes.cluster),
            "lost_dropped": ratio_estimate(lost & dropped, lost, outcomes.cluster),
            "lost_unused": ratio_estimate(lost & ~dropped, lost, outcomes.cluster),
        }
    return metrics
