"""Retention, loyalty and keep@: algebra on small cases, errors against a bootstrap by hand, coverage."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.metrics import retention, stability
from vlmbench.metrics.estimate import paired_difference, wilson
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.retention import (
    area_under_retention,
    keep_at,
    retention_metrics,
    smallest_detectable_difference,
)
from vlmbench.schema import Estimate, State

FULL, PRUNED, BLIND = 0, 1, 2
seeds = st.integers(0, 2**32 - 1)


def make(score, cluster=None, answer=None, state=None, reference=(-1, 0, 0)) -> Outcomes:
    """Columns full, pruned, blind. By default the answer tells the score and everything is PARSED."""
    score = np.asarray(score, float)
    n, m = score.shape
    place = {name: i for i, name in enumerate(STATES)}
    return Outcomes(
        answer=np.where(np.isnan(score), 9, score * 4).astype(int) if answer is None else np.asarray(answer),
        state=np.zeros((n, m), int) if state is None else np.vectorize(place.get)(np.asarray(state)),
        score=score,
        tie=np.zeros((n, m), bool),
        prob=np.full(n, np.nan),
        cluster=np.arange(n) if cluster is None else np.asarray(cluster),
        reference=np.asarray(reference[:m]),
        unchanged=np.zeros((n, m), bool),
    )


def simulated(rng: np.random.Generator, clusters: int, missing: float = 0.05) -> Outcomes:
    """Clusters of 1 to 6 items of like difficulty; full, pruned, blind in falling order, some scores soft."""
    cluster = np.repeat(np.arange(clusters), rng.integers(1, 7, clusters))
    hard = rng.normal(0, 1, clusters)[cluster]
    item = rng.normal(0, 1, len(cluster))
    score = np.stack(
        [
            hard + item + rng.normal(0, noise, len(cluster)) < cut
            for cut, noise in ((1.4, 0.5), (0.9, 0.7), (-0.5, 2.0))
        ],
        axis=1,
    ).astype(float)
    score[rng.random(score.shape) < 0.1] *= 0.3
    score[rng.random(score.shape) < missing] = np.nan
    return make(score, cluster)


def quotients(outcomes: Outcomes) -> tuple[float, float]:
    """(retention, retention above blind) by means over the items with both and with all three scores."""
    score = outcomes.score
    two = score[~np.isnan(score[:, :2]).any(axis=1)].mean(axis=0)
    three = score[~np.isnan(score).any(axis=1)].mean(axis=0)
    return two[PRUNED] / two[FULL], (three[PRUNED] - three[BLIND]) / (three[FULL] - three[BLIND])


def test_values_are_the_definitions():
    p, u, e = State.PARSED, State.UNPARSED, State.EMPTY
    rows = [
        ((1, 1, 0), (1, 1, 2), (p, p, p)),
        ((1, 0, 0), (1, 2, 2), (p, p, p)),
        ((1, 0.5, 0), (1, 3, 2), (p, p, p)),
        ((0, 1, 0), (2, 1, 2), (p, p, p)),
        ((0, 0, 1), (-1, -1, 1), (u, u, p)),
        ((1, np.nan, 0), (1, -1, 2), (p, e, p)),
        ((np.nan, 1, 0), (-1, 1, 2), (u, p, p)),
    ] * 20
    score, answer, state = zip(*rows, strict=True)
    outcomes = make(score, answer=answer, state=state)
    found = retention_metrics(outcomes, PRUNED, BLIND)
    assert found.keys() == retention.METRICS.keys()
    # loyal: the same answer, and twice no readable answer; EMPTY is not UNPARSED
    assert (found["loyalty"].value, found["loyalty"].n) == (pytest.approx(2 / 7), 140)
    assert (found["retention"].value, found["retention"].n) == (pytest.approx(2.5 / 3), 100)
    assert found["image_gain"].value == pytest.approx((3 - 1) / 5)
    assert found["retention_above_blind"].value == pytest.approx((2.5 - 1) / (3 - 1))
    pairs = stability.pair_ratios(outcomes, np.array([PRUNED]))
    flips, changes = (
        pairs[name].num.sum() / pairs[name].den.sum() for name in ("flip_rate", "state_change_rate")
    )
    assert found["loyalty"].value == pytest.approx(1 - flips - changes)
    assert retention_metrics(outcomes, PRUNED, None).keys() == {"loyalty", "retention", "detectable"}
    assert retention_metrics(outcomes, FULL, BLIND) == {}


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_items_without_a_score_and_the_order_of_items_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    outcomes = simulated(rng, 40)
    found = retention_metrics(outcomes, PRUNED, BLIND)
    values = quotients(outcomes)
    for name, value in zip(("retention", "retention_above_blind"), values, strict=True):
        if found[name].value is not None:
            assert found[name].value == pytest.approx(value)
    mixed = retention_metrics(outcomes.rows(rng.permutation(outcomes.n)), PRUNED, BLIND)
    used = retention_metrics(outcomes.rows(outcomes.scored.all(axis=1)), PRUNED, BLIND)
    for name, estimate in found.items():
        assert mixed[name].model_dump() == pytest.approx(estimate.model_dump(), abs=1e-9)
    assert used["retention_above_blind"].model_dump() == pytest.approx(
        found["retention_above_blind"].model_dump(), abs=1e-9
    )


def test_a_perfect_full_model_leaves_the_plain_mean():
    rng = np.random.default_rng(1)
    score = np.stack([np.ones(60), rng.integers(0, 2, 60), np.zeros(60)], axis=1)
    cluster = rng.integers(0, 25, 60)
    found = retention_metrics(make(score, cluster), PRUNED, BLIND)
    accuracy = stability.cell_metrics(make(score, cluster), PRUNED)["accuracy"]
    for name in ("retention", "retention_above_blind"):
        assert found[name].value == pytest.approx(accuracy.value)
        assert found[name].se == pytest.approx(accuracy.se)


@pytest.mark.parametrize("seed", [0, 1])
def test_errors_are_those_of_a_bootstrap_by_hand(seed):
    rng = np.random.default_rng(seed)
    outcomes = simulated(rng, 400)
    found = retention_metrics(outcomes, PRUNED, BLIND)
    members = [np.flatnonzero(outcomes.cluster == code) for code in range(400)]
    draws = []
    for _ in range(2000):
        rows = np.concatenate([members[code] for code in rng.integers(0, 400, 400)])
        draws.append(quotients(make(outcomes.score[rows], outcomes.cluster[rows])))
    draws = np.array(draws)
    for k, name in enumerate(("retention", "retention_above_blind")):
        estimate = found[name]
        # 2000 draws tell a standard deviation to 1.6 %
        assert estimate.se == pytest.approx(draws[:, k].std(ddof=1), rel=0.05), name
        np.testing.assert_allclose(
            [estimate.low, estimate.high], np.quantile(draws[:, k], [0.025, 0.975]), atol=0.3 * estimate.se
        )


def test_nominal_95_percent_intervals_cover_between_92_and_98():
    rng = np.random.default_rng(5)
    truth = quotients(simulated(rng, 200_000, missing=0))
    hits, shown = np.zeros(2), np.zeros(2)
    for _ in range(400):
        found = retention_metrics(simulated(rng, 80), PRUNED, BLIND)
        for k, name in enumerate(("retention", "retention_above_blind")):
            if found[name].low is not None:
                shown[k] += 1
                hits[k] += found[name].low <= truth[k] <= found[name].high
    assert (shown == 400).all()
    assert (hits / shown >= 0.92).all()
    assert (hits / shown <= 0.98).all()


def test_a_denominator_that_may_be_nothing_gives_no_quotient():
    rng = np.random.default_rng(0)
    guess = rng.integers(0, 2, (80, 3)).astype(float)
    same = np.stack([guess[:, 0], guess[:, 1], guess[:, 0]], axis=1)
    worse = np.stack([np.zeros(80), guess[:, 1], np.ones(80)], axis=1)
    for score in (guess, same, worse):
        found = retention_metrics(make(score), PRUNED, BLIND)
        assert found["image_gain"].low <= 0
        assert found["retention_above_blind"] == Estimate(value=None, n=80)
    assert retention_metrics(make(worse), PRUNED, BLIND)["retention"] == Estimate(value=None, n=80)


def test_no_difference_in_the_sample_is_not_certainty():
    rng = np.random.default_rng(0)
    full = (rng.random(50) < 0.8).astype(float)
    u = wilson(0, 50)[1]
    kept = retention_metrics(make(np.stack([full, full, full * 0], axis=1)), PRUNED, BLIND)
    for name in ("retention", "retention_above_blind"):
        assert (kept[name].value, kept[name].se) == (1, 0)
        assert (kept[name].low, kept[name].high) == (
            pytest.approx(1 - u / full.mean()),
            pytest.approx(1 + u / full.mean()),
        )
    assert kept["loyalty"].low == pytest.approx(wilson(1, 50)[0])
    lost = retention_metrics(make(np.stack([full, full * 0, full * 0], axis=1)), PRUNED, BLIND)
    assert (lost["retention"].value, lost["retention"].low) == (0, 0)
    assert lost["retention"].high == pytest.approx(u / full.mean())
    assert lost["retention_above_blind"].low == pytest.approx(-u / full.mean())


def test_degenerate_data_have_no_value_or_no_error_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for score in (np.zeros((0, 3)), [[np.nan] * 3] * 4):
            outcomes = make(score)
            found = retention_metrics(outcomes, PRUNED, BLIND)
            assert all(found[name].value is None for name in found if name != "loyalty")
            assert found["loyalty"].n == outcomes.n
            assert smallest_detectable_difference(outcomes, PRUNED, FULL) is None
        skipped = make([[1, 1, 0]] * 4, state=[[State.PARSED, State.SKIPPED, State.PARSED]] * 4)
        assert retention_metrics(skipped, PRUNED, None)["loyalty"] == Estimate(value=None)
        lonely = make([[1, 0, 0], [1, 1, 0], [0, 1, 0]], cluster=[3, 3, 3])
        found = retention_metrics(lonely, PRUNED, BLIND)
        assert found["retention"] == Estimate(value=1.0, n=3)
        assert found["retention_above_blind"].value is None
        assert smallest_detectable_difference(lonely, PRUNED, FULL) is None
        assert smallest_detectable_difference(lonely, FULL, FULL) is None


def test_the_smallest_detectable_difference_is_found_with_that_power():
    rng = np.random.default_rng(2)
    base = (rng.random(300) < 0.6).astype(float)
    other = np.where(rng.random(300) < 0.2, 1 - base, base)
    outcomes = make(np.stack([base, other], axis=1))
    found = smallest_detectable_difference(outcomes, PRUNED, FULL)
    se = paired_difference(other, np.ones(300), base, np.ones(300), np.arange(300)).se
    t = scipy.stats.t(299)
    assert found == pytest.approx((t.ppf(0.975) + t.ppf(0.8)) * se)
    # a difference of that size is significant in 80 of 100 samples
    draws = rng.normal(found, se, 20_000)
    assert (np.abs(draws) > t.ppf(0.975) * se).mean() == pytest.approx(0.8, abs=0.02)
    assert smallest_detectable_difference(outcomes, FULL, PRUNED) == pytest.approx(found)
    assert smallest_detectable_difference(outcomes, PRUNED, FULL, power=0.9) > found
    assert smallest_detectable_difference(outcomes, PRUNED, FULL, alpha=0.01) > found
    # items that say the same twice over bring nothing
    twice = make(np.repeat(outcomes.score, 2, axis=0), np.repeat(np.arange(300), 2))
    assert smallest_detectable_difference(twice, PRUNED, FULL) == pytest.approx(found, rel=0.01)
    with pytest.raises(ValueError, match=r"power must be in \(0, 1\): got 1"):
        smallest_detectable_difference(outcomes, PRUNED, FULL, power=1)


def at(value, half=0.02, n=100) -> Estimate:
    return Estimate(value=value, se=half / 2, low=value - half, high=value + half, n=n)


def test_keep_at_interpolates_and_its_interval_inverts_the_band():
    points = [(0.5, at(0.97)), (0.1, at(0.8, n=90)), (0.25, at(0.9))]
    found = keep_at(0.95, points)
    assert found.value == pytest.approx(0.25 + 0.25 * 5 / 7)
    assert found.low == pytest.approx(0.25 + 0.25 * 3 / 7)
    assert found.high == pytest.approx(0.5)
    assert (found.n, found.se) == (90, None)
    assert keep_at(0.85, points).value == pytest.approx(0.1 + 0.15 / 2)
    assert keep_at(0.97, points).value == pytest.approx(0.5)
    assert keep_at(0.98, points).value == pytest.approx(0.5 + 0.5 / 3)
    assert keep_at(1, points).value == pytest.approx(1)


def test_keep_at_takes_a_dip_for_a_loss_and_its_interval_for_a_doubt():
    points = [(0.1, at(0.96)), (0.2, at(0.94)), (0.4, at(0.98))]
    found = keep_at(0.95, points)
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, pytest.approx(0.2 + 0.2 * 3 / 4))


def test_keep_at_the_ends_of_what_was_measured():
    most = keep_at(0.95, [(0.1, at(0.99)), (0.2, at(1.0))])
    assert (most.value, most.low, most.high) == (0.1, 0.0, 0.1)
    unclear = keep_at(0.95, [(0.1, at(0.96))])
    assert (unclear.value, unclear.low) == (0.1, 0.0)
    assert unclear.high == pytest.approx(0.1 + 0.9 * 0.01 / 0.06)
    # an identity row that itself falls short: nothing measured is enough
    short = keep_at(0.95, [(0.1, at(0.5)), (1.0, at(0.94))])
    assert (short.value, short.high) == (None, None)
    assert short.low == pytest.approx(0.1 + 0.9 * 0.43 / 0.44)
    assert keep_at(0.95, []) == Estimate(value=None)
    assert keep_at(0.95, [(0.3, Estimate(value=None, n=5))]) == Estimate(value=None)
    assert keep_at(0.5, [(0.3, Estimate(value=0.3, n=5))]) == Estimate(value=0.3 + 0.7 * 2 / 7, n=5)
    for level in (0, 1.01):
        with pytest.raises(ValueError, match="share_of_retention"):
            keep_at(level, [])
    with pytest.raises(ValueError, match="kept shares"):
        keep_at(0.9, [(1.5, at(0.9))])
    assert keep_at(0.9, [(1 + 1e-15, at(0.8))]).value is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.2, 1.1)), min_size=1, max_size=6),
    st.floats(0.3, 1),
)
def test_keep_at_is_the_first_share_of_a_scan_from_above(raw, level):
    points = [(share, at(value)) for share, value in raw]
    found = keep_at(level, points)
    assert found.low <= found.value <= found.high
    order = sorted(raw, key=lambda point: point[0])
    shares, values = [s for s, _ in order] + [1.0], [v for _, v in order] + [1.0]
    if len(set(shares)) == len(shares):
        above = np.linspace(found.value, 1, 500)
        assert (np.interp(above, shares, values) >= level - 1e-9).all()
        if found.value > shares[0]:
            assert np.interp(found.value, shares, values) == pytest.approx(level)


def test_keep_at_covers():
    """Budgets of the same items, as in a sweep: the interval holds the share of the true curve."""
    rng = np.random.default_rng(3)
    shares, hits = (0.1, 0.25, 0.5), 0
    cuts = np.array([0.2, 0.8, 1.3])

    def curve(n: int) -> list[tuple[float, Estimate]]:
        easy, noise = rng.normal(0, 1, n), rng.normal(0, 0.5, (n, 4))
        score = (easy[:, None] + noise < np.array([1.5, *cuts])).astype(float)
        outcomes = make(score, reference=(-1, 0, 0, 0))
        return [
            (share, retention_metrics(outcomes, k + 1, None)["retention"]) for k, share in enumerate(shares)
        ]

    truth = keep_at(0.9, curve(200_000)).value
    for _ in range(300):
        found = keep_at(0.9, curve(200))
        hits += found.low <= truth <= found.high
    assert hits / 300 >= 0.92


def test_the_area_is_the_mean_height_with_the_widest_error():
    points = [(0.5, at(0.9, 0.04)), (0.2, at(0.6, 0.02))]
    found = area_under_retention(points)
    assert found.value == pytest.approx((0.3 * 0.75 + 0.5 * 0.95) / 0.8)
    assert found.se == pytest.approx((0.15 * 0.01 + 0.4 * 0.02) / 0.8)
    assert found.high - found.value == pytest.approx(2 * found.se)
    assert found.value - found.low == pytest.approx(2 * found.se)
    assert area_under_retention([(0.3, at(1.0, 0.0))]).value == pytest.approx(1)
    alone = area_under_retention([(0.3, Estimate(value=0.5, n=4))])
    assert (alone.value, alone.se, alone.low, alone.n) == (pytest.approx(0.75), None, None, 4)
    for nothing in ([], [(1.0, at(0.9))], [(0.2, Estimate(value=None))]):
        assert area_under_retention(nothing).value is None
