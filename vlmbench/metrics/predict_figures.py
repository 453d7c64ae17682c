"""How well each score tells right answers from wrong ones, and how two scores differ on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.bootstrap import DRAWS
from vlmbench.metrics.estimate import Bools, Floats, Ints, not_certain, ratio_estimate
from vlmbench.metrics.predict_curves import ranked_estimates
from vlmbench.metrics.ranking import auroc_influence, auroc_interval, within_category_auroc
from vlmbench.schema import Estimate


@dataclass(frozen=True, eq=False)
class Score:
    """A confidence per item [n], larger = more probably right, NaN where there is none.

    by_category: the score is the category's base rate and nothing else.
    """

    value: Floats
    by_category: bool = False

    @property
    def used(self) -> Bools:
        known: Bools = ~np.isnan(self.value)
        return known


@dataclass(frozen=True, eq=False)
class Labels:
    """What is predicted: right [n], with the cluster and the category of every item as codes [n]."""

    right: Bools
    cluster: Ints
    category: Ints

    def rows(self, mask: Bools) -> Labels:
        return Labels(self.right[mask], self.cluster[mask], self.category[mask])


def category_rate(right: Bools, category: Ints) -> Floats:
    """[n]: share of right items in the item's category, a tie block per category.

    The rate of all items, so that no item of a category is ranked above another. Out-of-fold rates would put
    wrong items above right ones of the same category, because leaving an error out raises the rate.
    """
    rates: Floats = (np.bincount(category, weights=right) / np.maximum(np.bincount(category), 1))[category]
    return rates


def category_influence(right: Bools, category: Ints) -> tuple[float, Floats]:
    """(AUROC of the category alone, psi [n]), leave-pair-out as `ranking.category_auroc`.

    A pair is won where the category of its right item has the higher base rate once both items are left out.
    psi are the structural components around the value, the order of the categories taken as given: simulated
    with seven categories the interval holds the AUROC of the true order 93 % of the time at 700 items, and
    85 % at 210, where the order is not yet known and the value .03 too low.
    """
    psi = np.zeros(len(right))
    if right.all() or not right.any():
        return float("nan"), psi
    size = np.bincount(category).astype(np.float64)
    pos = np.bincount(category, weights=right)
    neg = size - pos
    rest = (pos.sum() - 1) / (len(right) - 2) if len(right) > 2 else 0.5
    alone = size <= 1
    of_pos = np.where(alone, rest, (pos - 1) / np.where(alone, 1, size - 1))[:, None]
    of_neg = np.where(alone, rest, pos / np.where(alone, 1, size - 1))[None, :]
    won = np.where(np.isclose(of_pos, of_neg, rtol=0, atol=1e-12), 0.5, of_pos > of_neg)
    np.fill_diagonal(won, 0.5)
    above, below = won @ neg / neg.sum(), pos @ won / pos.sum()
    value = float(pos @ above / pos.sum())
    psi[right] = (above[category[right]] - value) / pos.sum()
    psi[~right] = (below[category[~right]] - value) / neg.sum()
    return value, psi


def influence(score: Score, labels: Labels, mask: Bools) -> tuple[float, Floats]:
    """(AUROC, psi) over the items of `mask`, all of which have a score."""
    right = labels.right[mask]
    if score.by_category:
        return category_influence(right, labels.category[mask])
    return auroc_influence(score.value[mask], right)


def auroc_of(score: Score, labels: Labels) -> Estimate:
    """AUROC with its clustered 95 % interval."""
    used = score.used
    value, psi = influence(score, labels, used)
    return auroc_interval(value, psi, labels.right[used], labels.cluster[used])


def auroc_minus(one: Score, two: Score, labels: Labels) -> Estimate:
    """AUROC of one minus AUROC of two over the items that have both, paired and clustered."""
    used = one.used & two.used
    (a, psi_a), (b, psi_b) = influence(one, labels, used), influence(two, labels, used)
    codes = labels.cluster[used]
    found = auroc_interval(a - b, psi_a - psi_b, labels.right[used], codes, bound=None)
    return not_certain(found, codes, np.ones(len(codes), bool))


def score_figures(score: Score, labels: Labels, b: int = DRAWS, seed: int = 0) -> dict[str, Estimate]:
    """All figures of one score: AUROC within and across categories, errors found, risk and coverage.

    An answer is right or wrong (score > 0.5), also in risk. auprc_errors belongs beside error_rate, its value
    for a random score. within_category_auroc is absent for the category itself, which ties there.
    """
    mine, used = labels.rows(score.used), score.used
    found = {"auroc": auroc_of(score, labels)}
    if not score.by_category:
        found["within_category_auroc"] = within_category_auroc(
            score.value[used], mine.right, mine.category, mine.cluster
        )
    found["error_rate"] = ratio_estimate(~mine.right, np.ones(len(mine.right)), mine.cluster)
    return found | ranked_estimates(score.value[used], mine.right, mine.cluster, b, seed)


def mean_of(columns: Sequence[Floats]) -> Floats:
    """[n]: mean over several models of what each tells of an item; NaN where none tells anything."""
    values = np.stack(columns, axis=1)
    known = ~np.isnan(values)
    times = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    # rounded: the same answers of the models in another order must tie in a ranking
    mean: Floats = np.where(times > 0, np.round(total / np.maximum(times, 1), 12), np.nan)
    return mean
