"""Selective prediction: answer only where the confidence is high. Stability as that confidence, and controls.

Ties are the rule here (twelve variants give thirteen flip rates), so a threshold takes a whole block of equal
confidences or none of it, and where a curve is needed inside a block it is the mean over all its orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmbench.metrics import ranking
from vlmbench.metrics.agreement import answer_entropy, pairwise_agreement
from vlmbench.metrics.estimate import Floats, Ints
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

RISKS = (0.01, 0.05, 0.1, 0.2)
COVERAGES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """One point per block of equal confidence, most confident first; arrays [blocks].

    threshold: the block's confidence; coverage: share of items at or above it; risk: their mean loss.
    """

    threshold: Floats
    coverage: Floats
    risk: Floats
    items: Ints


def risk_coverage(confidence: npt.ArrayLike, loss: npt.ArrayLike) -> RiskCoverage:
    """The points that a threshold can reach. loss in [0, 1], 1 - score; NaN on either side is left out."""
    sure, lost = _usable(confidence, loss)
    values, place, times = np.unique(-sure, return_inverse=True, return_counts=True)
    items = np.cumsum(times)
    losses = np.cumsum(np.bincount(place, weights=lost, minlength=len(values)))
    return RiskCoverage(-values + 0.0, items / max(len(sure), 1), losses / items, items.astype(np.int64))


def risk_at_rank(confidence: npt.ArrayLike, loss: npt.ArrayLike) -> Floats:
    """[n]: mean loss of the 1, 2, .. n most confident items, averaged over the orders inside tie blocks."""
    curve = risk_coverage(confidence, loss)
    ends = np.concatenate([[0], curve.items])
    losses = np.concatenate([[0.0], curve.risk * curve.items])
    ranks = np.arange(1, ends[-1] + 1)
    risks: Floats = np.interp(ranks, ends, losses) / ranks
    return risks


def aurc(confidence: npt.ArrayLike, loss: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve, the mean risk over all coverages i / n (Geifman et al. 2019).

    The exact mean over random orders of tied items; a constant confidence therefore gives the mean loss.
    """
    risks = risk_at_rank(confidence, loss)
    return float(risks.mean()) if len(risks) else float("nan")


def coverage_at_risk(confidence: npt.ArrayLike, loss: npt.ArrayLike, risk: float) -> float:
    """The largest coverage of a threshold whose risk is at most `risk`; 0 if none is, NaN without items."""
    curve = risk_coverage(confidence, loss)
    if not len(curve.coverage):
        return float("nan")
    return float(curve.coverage[curve.risk <= risk + 1e-12].max(initial=0.0))


def precision_at_coverage(confidence: npt.ArrayLike, loss: npt.ArrayLike, coverage: float) -> float:
    """1 - risk of the ceil(coverage n) most confident items, averaged over the orders of tied items."""
    risks = risk_at_rank(confidence, loss)
    if not len(risks):
        return float("nan")
    rank = int(np.ceil(coverage * len(risks) - 1e-9))
    return float(1 - risks[max(rank, 1) - 1])


def stability_scores(outcomes: Outcomes, columns: Sequence[int] | Ints) -> dict[str, Floats]:
    """Per-item confidences [n] from the answers under variants that share one reference; larger = steadier.

    agreement: pairwise, the original included; negative_entropy; one_minus_flip_rate. NaN where an item has
    too few answers. Raises ValueError if the columns have more than one reference or hold no variant.
    """
    chosen = np.asarray(columns, np.int64)
    chosen = chosen[outcomes.is_variant[chosen]]
    references = np.unique(outcomes.base[chosen])
    if len(references) != 1:
        raise ValueError(f"expected variants of one reference condition: got references {list(references)}")
    together = np.append(chosen, references)
    answer, given = outcomes.answer[:, together], outcomes.parsed[:, together]
    pairs = np.count_nonzero(outcomes.pairs[:, chosen], axis=1)
    flips = np.count_nonzero(outcomes.flipped[:, chosen], axis=1)
    rate = np.divide(flips, pairs, out=np.full(outcomes.n, np.nan), where=pairs > 0)
    return {
        "agreement": pairwise_agreement(answer, given),
        "negative_entropy": -answer_entropy(answer, given) + 0.0,
        "one_minus_flip_rate": 1 - rate,
    }


def selective_metrics(
    confidence: npt.ArrayLike,
    score: npt.ArrayLike,
    cluster: npt.ArrayLike,
    category: npt.ArrayLike | None = None,
) -> dict[str, Estimate]:
    """How well `confidence` [n] tells right answers (score > 0.5) from wrong ones.

    auroc, auprc_errors beside error_rate (its value for a random confidence), aurc, coverage_at_risk@r,
    precision_at_coverage@c, and with categories within_category_auroc and category_auroc, the control that
    knows nothing but the category. Items without a score or a confidence are left out of all of them; risk is
    the soft loss 1 - score. Figures that are no ratio of sums come without an interval here.
    """
    sure, points = np.asarray(confidence, np.float64), np.asarray(score, np.float64)
    used = ~(np.isnan(sure) | np.isnan(points))
    sure, points, codes = sure[used], points[used], np.asarray(cluster)[used]
    right, loss = points > 0.5, 1 - points
    metrics = {"auroc": ranking.auroc_estimate(sure, right, codes)}
    plain = {
        "auprc_errors": ranking.average_precision(-sure, ~right),
        "error_rate": float((~right).mean()) if len(right) else float("nan"),
        "aurc": aurc(sure, loss),
    }
    plain |= {f"coverage_at_risk@{risk:g}": coverage_at_risk(sure, loss, risk) for risk in RISKS}
    plain |= {
        f"precision_at_coverage@{share:g}": precision_at_coverage(sure, loss, share) for share in COVERAGES
    }
    if category is not None:
        kinds = np.asarray(category)[used]
        metrics["within_category_auroc"] = ranking.within_category_auroc(sure, right, kinds, codes)
        plain["category_auroc"] = ranking.category_auroc(right, kinds)
    for name, value in plain.items():
        metrics[name] = Estimate(value=None if np.isnan(value) else value, n=len(right))
    return metrics


def _usable(confidence: npt.ArrayLike, loss: npt.ArrayLike) -> tuple[Floats, Floats]:
    sure, lost = np.asarray(confidence, np.float64), np.asarray(loss, np.float64)
    used = ~(np.isnan(sure) | np.isnan(lost))
    return sure[used], lost[used]
