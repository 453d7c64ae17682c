"""What a pruned model keeps of the full one: loyalty, retention, and the tokens that it takes.

Figures of ONE column (the pruned model) against its reference column (the full model on the same input). A
quotient of means over the same items is linearised, psi = (psi_a - r psi_b) / b with r = a / b, so that its
error carries the pairing and the clusters. METRICS says what each name means. The difference of the two
accuracies is stability's `accuracy_change`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.distributions import t_quantile
from vlmbench.metrics.estimate import (
    NO_VARIANCE,
    Bools,
    Floats,
    from_influence,
    linearise,
    not_certain,
    paired_difference,
    ratio_estimate,
)
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

METRICS = {
    "loyalty": "share of pairs in which answer and state equal the full model's",
    "retention": "mean score divided by the full model's, same items; counts what a blind model answers too",
    "image_gain": "mean score of the full model minus that of the blind run, same items",
    "retention_above_blind": "(score - blind) / (full - blind), items scored under all three",
    "detectable": "smallest paired difference of accuracy that this sample finds (two-sided 5 %, power 80 %)",
}

Points = Sequence[tuple[float, Estimate]]
"""A curve: (share of the visual tokens kept, retention) per budget, in any order."""


def retention_metrics(outcomes: Outcomes, column: int, blind: int | None) -> dict[str, Estimate]:
    """The figures of METRICS for `column`; those that need the `blind` column only where there is one.

    Empty for a column without a reference. The value is None where nothing is in the denominator, where the
    full model scores 0 (`retention`), and where the full model is not shown to beat the blind one
    (`retention_above_blind`): the 95 % interval of full - blind, which is `image_gain`, reaches 0 or below,
    and a quotient over it could be anything. Where no score differs the sample shows no variance, which is no
    proof that there is none; the interval is then value +- u / denominator, u the upper end of Wilson's
    interval of 0 changed scores in as many draws as there are clusters.
    """
    if not outcomes.is_variant[column]:
        return {}
    reference = int(outcomes.base[column])
    pairs = outcomes.pairs[:, column]
    loyal = pairs & ~outcomes.flipped[:, column] & ~outcomes.state_changed[:, column]
    scored = outcomes.scored_pairs[:, column]
    metrics = {
        "loyalty": ratio_estimate(loyal, pairs, outcomes.cluster),
        "retention": _retention(outcomes, column, reference, scored),
        "detectable": Estimate(
            value=smallest_detectable_difference(outcomes, column, reference), n=int(scored.sum())
        ),
    }
    if blind is not None:
        scored = scored & outcomes.scored[:, blind]
        full, none = _scores(outcomes, reference, scored), _scores(outcomes, blind, scored)
        gain = paired_difference(full, scored, none, scored, outcomes.cluster)
        metrics["image_gain"] = gain
        metrics["retention_above_blind"] = (
            _above_blind(outcomes, column, reference, blind, scored)
            if gain.low is not None and gain.low > 0
            else Estimate(value=None, n=gain.n)
        )
    return metrics


def smallest_detectable_difference(
    outcomes: Outcomes, column: int, reference: int, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference in mean score between two columns that this sample would show.

    (t_{1 - alpha/2} + t_{power}) x SE of the paired difference, clustered, t with clusters - 1 degrees of
    freedom (Miller 2024, arXiv 2411.00640, with normal quantiles): a two-sided test at level `alpha` finds a
    difference of this size with probability `power`. None where the items scored on both sides lie in fewer
    than two clusters or no score differs, when nothing is known of the error, and where not even a difference
    of 1 would be found.
    """
    for name, share in (("alpha", alpha), ("power", power)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must be in (0, 1): got {share}")
    used = outcomes.scored[:, column] & outcomes.scored[:, reference]
    one, two = (_scores(outcomes, place, used) for place in (column, reference))
    difference = paired_difference(one, used, two, used, outcomes.cluster)
    if difference.se is None or difference.se <= NO_VARIANCE:
        return None
    df = len(np.unique(outcomes.cluster[used])) - 1
    found = (t_quantile(1 - alpha / 2, df) + t_quantile(power, df)) * difference.se
    return found if found <= 1 else None


def keep_at(share_of_retention: float, points: Points) -> Estimate:
    """Share of the visual tokens that it takes to keep e.g. .95 of the full model's score.

    The curve is linear between the measured budgets and ends at the full model, (1, 1), which is added;
    budgets without a value are left out. Value: the smallest share from which on the curve does not fall
    below the level. Interval: the ends of every budget's own 95 % interval are joined to a band, which is
    inverted: low is the first share at which the upper curve reaches the level, high the share from which on
    the lower curve stays there. Nothing is extrapolated: a value equal to the smallest budget means "at
    most", and low is then 0. low and high are None where a budget has no interval. n is the smallest of the
    budgets'. There is no se.
    Raises ValueError for a level outside (0, 1].
    """
    if not 0 < share_of_retention <= 1:
        raise ValueError(f"share_of_retention must be in (0, 1]: got {share_of_retention}")
    curve = _Curve(points)
    if not curve.n:
        return Estimate(value=None)
    value = _stays_from(curve.shares, curve.value, share_of_retention)
    if curve.low is None or curve.high is None:
        return Estimate(value=value, n=curve.n)
    return Estimate(
        value=value,
        low=_reaches_at(curve.shares, curve.high, share_of_retention),
        high=_stays_from(curve.shares, curve.low, share_of_retention),
        n=curve.n,
    )


def area_under_retention(points: Points) -> Estimate:
    """Mean retention over the kept shares from the smallest budget to 1, by the trapezoid rule.

    The full model, (1, 1), is added. The budgets share their items, and Estimates do not tell how their
    errors go together: se, low and high add up as if they were perfectly correlated, the widest they can be.
    Areas compare only over the same budgets. None where no budget below 1 has a value.
    """
    curve = _Curve(points)
    width = curve.shares[-1] - curve.shares[0]
    if not curve.n or width <= 0:
        return Estimate(value=None, n=curve.n)

    def area(heights: Floats | None) -> float | None:
        return None if heights is None else float(np.trapezoid(heights, curve.shares) / width)

    return Estimate(
        value=area(curve.value), se=area(curve.se), low=area(curve.low), high=area(curve.high), n=curve.n
    )


class _Curve:
    """Points with a value by ascending share [k], the full model last; n = 0 where there is none."""

    def __init__(self, points: Points) -> None:
        for share, _ in points:
            # a share that is a mean of quotients may pass 1 by rounding
            if not 0 <= share <= 1 + 1e-9:
                raise ValueError(f"kept shares must be in [0, 1]: got {share}")
        known = [(min(share, 1.0), estimate) for share, estimate in points if estimate.value is not None]
        known.sort(key=lambda point: point[0])
        self.n = min((e.n for _, e in known), default=0)
        if not known or known[-1][0] < 1:
            known.append((1.0, Estimate(value=1.0, se=0.0, low=1.0, high=1.0)))
        estimates = [estimate for _, estimate in known]
        self.shares: Floats = np.array([share for share, _ in known], np.float64)
        self.value: Floats = np.array([e.value for e in estimates], np.float64)
        self.se, self.low, self.high = (
            _column([getattr(e, name) for e in estimates]) for name in ("se", "low", "high")
        )


def _column(figures: list[float | None]) -> Floats | None:
    return None if None in figures else np.array(figures, np.float64)


def _stays_from(shares: Floats, heights: Floats, level: float) -> float | None:
    """Smallest share from which on the curve is at the level or above; None where it ends below."""
    below = np.flatnonzero(heights < level)
    if not len(below):
        return float(shares[0])
    last = int(below[-1])
    return _crossing(shares, heights, last, level) if last + 1 < len(shares) else None


def _reaches_at(shares: Floats, heights: Floats, level: float) -> float | None:
    """First share at which the curve is at the level; 0 where it starts there, None where it never is."""
    reached = np.flatnonzero(heights >= level)
    if not len(reached):
        return None
    first = int(reached[0])
    return _crossing(shares, heights, first - 1, level) if first else 0.0


def _crossing(shares: Floats, heights: Floats, i: int, level: float) -> float:
    """Where the segment from point i (below the level) to i + 1 (at the level or above) meets it."""
    part = (level - heights[i]) / (heights[i + 1] - heights[i])
    return float(shares[i] + part * (shares[i + 1] - shares[i]))


def _scores(outcomes: Outcomes, column: int, used: Bools) -> Floats:
    """[n], 0 in the rows that are not used."""
    return np.where(used, outcomes.score[:, column], 0.0)


def _retention(outcomes: Outcomes, column: int, reference: int, used: Bools) -> Estimate:
    score, psi = linearise(_scores(outcomes, column, used), used)
    full, psi_full = linearise(_scores(outcomes, reference, used), used)
    if not full > 0:
        return Estimate(value=None, n=int(used.sum()))
    found = _quotient(score, psi, full, psi_full, outcomes, used)
    # scores are not negative, so neither is a ratio of their means
    return found if found.low is None else found.model_copy(update={"low": max(found.low, 0.0)})


def _above_blind(outcomes: Outcomes, column: int, reference: int, blind: int, used: Bools) -> Estimate:
    score, psi = linearise(_scores(outcomes, column, used), used)
    full, psi_full = linearise(_scores(outcomes, reference, used), used)
    none, psi_none = linearise(_scores(outcomes, blind, used), used)
    return _quotient(score - none, psi - psi_none, full - none, psi_full - psi_none, outcomes, used)


def _quotient(a: float, psi_a: Floats, b: float, psi_b: Floats, outcomes: Outcomes, used: Bools) -> Estimate:
    """a / b with its error; `used` [n] are the items that both rest on."""
    value = a / b
    found = from_influence(value, (psi_a - value * psi_b) / b, outcomes.cluster, used, bound=None)
    return not_certain(found, outcomes.cluster, used, 1 / abs(b))
