"""Does a confidence rank right answers above wrong ones: AUROC, AUPRC and the category control.

All functions leave out items whose score is NaN; labels are booleans (True = correct, or = error where said).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmbench.metrics.estimate import Bools, Floats, Ints, at_bound, clustered_se, distinct, interval
from vlmbench.schema import Estimate


def midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of their places."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks


def auroc_influence(score: Floats, label: Bools) -> tuple[float, Floats]:
    """(AUROC, psi [n]): the chance that a True item scores above a False one, ties half (Mann-Whitney).

    psi are the structural components of DeLong 1988 around the value, (V_i - A) / (items of the own class):
    their clustered sum of squares is the variance (Obuchowski 1997), and psi_a - psi_b that of a difference.
    NaN and zeros where a class is missing. score must not hold NaN.
    """
    psi = np.zeros(len(score))
    pos, neg = np.flatnonzero(label), np.flatnonzero(~label)
    if not len(pos) or not len(neg):
        return float("nan"), psi
    ranks = midranks(score)
    above = (ranks[pos] - midranks(score[pos])) / len(neg)
    below = 1 - (ranks[neg] - midranks(score[neg])) / len(pos)
    value = float(above.mean())
    psi[pos], psi[neg] = (above - value) / len(pos), (below - value) / len(neg)
    return value, psi


def auroc(score: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """AUROC with mid-ranks; NaN where a class is missing. score, label: [n]."""
    values, right, _ = _usable(score, label)
    return auroc_influence(values, right)[0]


def auroc_interval(
    value: float,
    psi: Floats,
    label: Bools,
    cluster: npt.ArrayLike,
    used: Bools | None = None,
    bound: float | None = 1.0,
) -> Estimate:
    """Estimate of an AUROC, or with bound = None of a difference, from psi [n] of `auroc_influence`.

    The part of each class is widened by g / (g - 1), and t has the degrees of freedom of the class in fewer
    clusters, g: those few bound what is known, however many the other class has. Simulated with a fifth of
    the answers wrong, 80 images: right 94 to 95 % of the time, 92 to 94 % without; 30 images: 95 to 97 %
    against 92 to 94 %. A value of exactly 0 or 1 rests on the items of the smaller class alone. No interval
    where a class lies in one cluster.
    """
    used = np.ones(len(psi), bool) if used is None else used
    n, codes = int(used.sum()), np.asarray(cluster)
    if n == 0 or np.isnan(value):
        return Estimate(value=None, n=n)
    classes = used & label, used & ~label
    fewest = min(distinct(codes[side]) for side in classes)
    if bound is not None and at_bound(value, bound) and distinct(codes[used]) > 1:
        smaller = max(1, min(int(side.sum()) for side in classes))
        low, high = interval(value, 0.0, fewest + 1, bound, smaller)
        return Estimate(value=value, se=0.0, low=low, high=high, n=n)
    if fewest < 2:
        return Estimate(value=value, n=n)
    wider = psi.copy()
    for side in classes:
        groups = distinct(codes[side])
        wider[side] *= (groups / (groups - 1)) ** 0.5
    se = clustered_se(wider[used], codes[used], n)
    low, high = interval(value, se, fewest, bound)
    if bound is None:
        low, high = max(low, -1.0), min(high, 1.0)
    return Estimate(value=value, se=se, low=low, high=high, n=n)


def auroc_estimate(score: npt.ArrayLike, label: npt.ArrayLike, cluster: npt.ArrayLike) -> Estimate:
    """AUROC with its clustered error; see `auroc_interval`."""
    values, right, used = _usable(score, label)
    value, psi = auroc_influence(values, right)
    return auroc_interval(value, psi, right, np.asarray(cluster)[used])


def auroc_difference(
    score_a: npt.ArrayLike, score_b: npt.ArrayLike, label: npt.ArrayLike, cluster: npt.ArrayLike
) -> Estimate:
    """AUROC of a minus AUROC of b over the items that have both scores, paired and clustered."""
    a, b = np.asarray(score_a, np.float64), np.asarray(score_b, np.float64)
    used = ~(np.isnan(a) | np.isnan(b))
    right = np.asarray(label, bool)[used]
    value_a, psi_a = auroc_influence(a[used], right)
    value_b, psi_b = auroc_influence(b[used], right)
    return auroc_interval(value_a - value_b, psi_a - psi_b, right, np.asarray(cluster)[used], bound=None)


def within_category_auroc(
    score: npt.ArrayLike, label: npt.ArrayLike, category: npt.ArrayLike, cluster: npt.ArrayLike
) -> Estimate:
    """AUROC over the pairs that share a category: what a score knows beyond the kind of the question.

    sum_c U_c / sum_c P_c N_c, with U_c the Mann-Whitney count of category c. n counts the items of categories
    with both classes; the error treats the numbers of pairs as given.
    """
    values, right, used = _usable(score, label)
    _, kind = np.unique(np.asarray(category)[used], return_inverse=True)
    psi, mixed = np.zeros(len(values)), np.zeros(len(values), bool)
    won = total = 0.0
    for code in range(int(kind.max()) + 1 if kind.size else 0):
        here = np.flatnonzero(kind == code)
        value, part = auroc_influence(values[here], right[here])
        if np.isnan(value):
            continue
        pairs = float(right[here].sum()) * float((~right[here]).sum())
        won, total = won + pairs * value, total + pairs
        psi[here], mixed[here] = pairs * part, True
    if total == 0:
        return Estimate(value=None)
    return auroc_interval(won / total, psi / total, right, np.asarray(cluster)[used], mixed)


def average_precision(score: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """AUPRC as sum over thresholds of (R_t - R_{t-1}) P_t; equal scores pass the threshold together.

    NaN without a True item. Its value for a random score is the base rate of True.
    """
    values, hit, _ = _usable(score, label)
    if not hit.any():
        return float("nan")
    _, place, times = np.unique(-values, return_inverse=True, return_counts=True)
    hits = np.bincount(place, weights=hit)
    precision = np.cumsum(hits) / np.cumsum(times)
    return float((hits * precision).sum() / hits.sum())


def category_base_rate(correct: npt.ArrayLike, category: npt.ArrayLike) -> Floats:
    """[n]: the share of correct items among the OTHER items of the category; of all others if it is alone.

    A control as a per-item score. Inside a category a wrong item scores above a right one by construction,
    so do not take its AUROC from here: `category_auroc` does that without the artefact.
    """
    right = np.asarray(correct, np.float64)
    _, kind = np.unique(np.asarray(category), return_inverse=True)
    times, hits = np.bincount(kind)[kind], np.bincount(kind, weights=right)[kind]
    others = (right.sum() - right) / (len(right) - 1) if len(right) > 1 else np.full(len(right), np.nan)
    return np.where(times > 1, (hits - right) / np.maximum(times - 1, 1), others)


def category_auroc(correct: npt.ArrayLike, category: npt.ArrayLike) -> float:
    """AUROC of the category alone, leave-pair-out: both items of a pair are absent from the base rates.

    Items of one category tie; others are ranked by the base rates of the remaining items (Airola et al. 2011:
    nearly unbiased, where leave-one-out ranks every pair of one category the wrong way round). An item alone
    in its category is given the base rate of all remaining items. NaN where a class is missing.
    """
    right = np.asarray(correct, bool)
    _, kind = np.unique(np.asarray(category), return_inverse=True)
    size = np.bincount(kind).astype(np.float64)
    pos = np.bincount(kind, weights=right)
    neg = size - pos
    pairs = np.outer(pos, neg)
    if pairs.sum() == 0:
        return float("nan")
    rest = (pos.sum() - 1) / (len(right) - 2) if len(right) > 2 else 0.5
    alone = size == 1
    of_pos = np.where(alone, rest, (pos - 1) / np.where(alone, 1, size - 1))[:, None]
    of_neg = np.where(alone, rest, pos / np.where(alone, 1, size - 1))[None, :]
    won = np.where(np.isclose(of_pos, of_neg, rtol=0, atol=1e-12), 0.5, of_pos > of_neg)
    np.fill_diagonal(won, 0.5)
    return float((won * pairs).sum() / pairs.sum())


def _usable(score: npt.ArrayLike, label: npt.ArrayLike) -> tuple[Floats, Bools, Ints]:
    values, right = np.asarray(score, np.float64), np.asarray(label, bool)
    used = np.flatnonzero(~np.isnan(values))
    return values[used], right[used], used
