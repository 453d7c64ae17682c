"""Was the evidence dropped, or kept and not used? For tasks whose items have boxes.

The evidence of a record is the share of each box asked about that kept tokens see. A box counts by itself:
of two objects, the one that is missing decides. A token is kept if its weight in one that the model gets is
above 1/2, as a copy or with others added to it; what only enters a mean is dropped. A method that makes means
of all tokens neither keeps nor drops any, and has no evidence.

METRICS says what each name means; items without a box are in no denominator here, and neither are boxes that
a perturbation moved off the picture.
"""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.estimate import Floats, ratio_estimate
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

DROPPED = 0.05
"""A box counts as dropped below this share: nothing but slivers of it at the edge of kept tokens."""

METRICS = {
    "evidence_recall": "mean share of each box asked about that kept tokens see, boxes of an item averaged",
    "evidence_dropped": "share of the items with a box of which less than 5 % was kept",
    "lost": "share of the items with boxes: full model right, pruned model wrong",
    "lost_dropped": "share of the lost with a box of which less than 5 % was kept",
    "lost_unused": "share of the lost with more of every box kept: kept and unused",
}


def evidence_metrics(outcomes: Outcomes, column: int, evidence: Floats, least: Floats) -> dict[str, Estimate]:
    """The figures of METRICS for `column`; evidence and least [n, m]: mean and minimum over an item's boxes,
    NaN where it has none.

    Empty where no record tells of evidence. `evidence_dropped` is the rate that `lost_dropped` has to be read
    against: where a method drops the box of most items, most of what it loses was dropped by chance alone.
    A share of the lost has no value where nothing is lost.
    """
    known = outcomes.valid[:, column] & ~np.isnan(evidence[:, column])
    if not known.any():
        return {}
    recall = np.where(known, evidence[:, column], 0.0)
    dropped = known & (least[:, column] < DROPPED)
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
