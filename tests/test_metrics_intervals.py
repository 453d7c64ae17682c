"""Errors and intervals: formulas by double loop, bootstrap against analysis, coverage by simulation."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.distributions import fair_coins, t_quantile
from vlmbench.metrics.bootstrap import (
    bootstrap_sums,
    cluster_bootstrap,
    difference_all,
    estimate_all,
    multinomial_weights,
    paired_bootstrap,
)
from vlmbench.metrics.estimate import Ratio, paired_difference, ratio_estimate, wilson
from vlmbench.metrics.predict_curves import ranked_estimates
from vlmbench.metrics.resamples import Resamples

seeds = st.integers(0, 2**32 - 1)


def clustered(rng: np.random.Generator, clusters: int, share: float = 0.4, width: int = 6):
    """Binary outcomes whose chance is drawn per cluster, of 1 to 5 items each: (num, den, cluster)."""
    sizes = rng.integers(1, 6, size=clusters)
    cluster = np.repeat(np.arange(clusters), sizes)
    chance = rng.beta(share * 2, (1 - share) * 2, size=clusters)[cluster]
    den = rng.integers(1, width + 1, size=len(cluster))
    return rng.binomial(den, chance), den, cluster


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_the_clustered_error_of_a_mean_is_the_formula(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 25))
    s, cluster = rng.random(n), rng.integers(0, 4, size=n)
    cluster[:2] = [0, 1]
    mean = s.mean()
    squared = s.var(ddof=1) / n
    for i in range(n):
        for j in range(n):
            if i != j and cluster[i] == cluster[j]:
                squared += (s[i] - mean) * (s[j] - mean) / n**2
    found = ratio_estimate(s, np.ones(n), cluster, bound=None)
    assert found.value == pytest.approx(mean)
    assert found.se == pytest.approx(squared**0.5)
    half = scipy.stats.t.ppf(0.975, len(set(cluster)) - 1) * found.se
    assert (found.low, found.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_the_error_of_a_ratio_is_that_of_its_residuals(seed):
    rng = np.random.default_rng(seed)
    num, den, cluster = clustered(rng, 6)
    value, n = num.sum() / den.sum(), len(num)
    residual = num - value * den
    squared = n / (n - 1) * sum(r * r for r in residual)
    for i in range(n):
        squared += sum(residual[i] * residual[j] for j in range(n) if i != j and cluster[i] == cluster[j])
    assert ratio_estimate(num, den, cluster).se == pytest.approx(squared**0.5 / den.sum())


def test_single_items_have_the_ordinary_error_and_the_paired_t_interval():
    rng = np.random.default_rng(0)
    a, b, one = rng.random(30), rng.random(30), np.ones(30)
    assert ratio_estimate(a, one, np.arange(30)).se == pytest.approx(scipy.stats.sem(a))
    found = paired_difference(a, one, b, one, np.arange(30))
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_zero_and_one_have_wilsons_interval_on_the_clusters():
    cluster = np.repeat(np.arange(40), 3)
    for side in (0, 1):
        found = ratio_estimate(np.full(120, side * 5), np.full(120, 5), cluster)
        expected = scipy.stats.binomtest(40 * side, 40).proportion_ci(0.95, method="wilson")
        assert (found.value, found.se, found.n) == (side, 0, 120)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert ratio_estimate(np.zeros(40), np.ones(40), np.arange(40), bound=2.0).high == pytest.approx(
        2 * wilson(0, 40)[1]
    )


def test_shares_have_wilsons_interval_on_the_effective_sample_size():
    num, den, cluster = clustered(np.random.default_rng(4), 80, 0.1)
    found = ratio_estimate(num, den, cluster)
    t = scipy.stats.t.ppf(0.975, 79)
    effective = found.value * (1 - found.value) / found.se**2
    # the interval's ends are the shares that lie t standard errors from the value
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(t * (end * (1 - end) / effective) ** 0.5)
    half = ratio_estimate(num * 2, den, cluster, bound=2.0)
    assert (half.low, half.high) == (pytest.approx(2 * found.low), pytest.approx(2 * found.high))


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilson_is_scipys(k, extra):
    n = k + extra
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson(k / n, n), (expected.low, expected.high), atol=1e-12)


def test_a_floor_of_zero_flips_is_not_certainty():
    rng = np.random.default_rng(0)
    num = rng.binomial(5, 0.1, size=60)
    cluster, den, none = np.arange(60), np.full(60, 5), np.zeros(60)
    rate, excess = ratio_estimate(num, den, cluster), paired_difference(num, den, none, den, cluster)
    assert excess.value == rate.value
    assert excess.low < rate.low
    both = paired_difference(none, den, none, den, cluster)
    assert (both.value, both.low, both.high) == (0, -wilson(0, 60)[1], wilson(0, 60)[1])


def test_clusters_that_all_agree_are_not_certainty():
    """Two images of 7 items with the same rate, the same accuracy before and after, an answer that ties."""
    cluster, ones = np.repeat([0, 1], 7), np.ones(14)
    flips = np.tile([1, 0, 0, 0, 0, 0, 0], 2)
    rate = ratio_estimate(flips, ones * 6, cluster)
    assert rate.se == pytest.approx(0, abs=1e-12)
    assert (rate.low, rate.high) == pytest.approx(wilson(1 / 42, 2))
    right = np.tile([1.0, 1, 1, 0, 0, 0, 0], 2)
    none = paired_difference(right, ones, right, ones, cluster)
    assert (none.value, none.se) == (0, 0)
    assert (none.low, none.high) == pytest.approx((-wilson(0, 2)[1], wilson(0, 2)[1]))
    boot = Resamples(cluster, 300)
    ratios = {"rate": Ratio(flips.astype(float), ones * 6)}
    assert estimate_all(ratios, cluster, boot)["rate"] == rate
    pairs = {"none": (Ratio(right, ones), Ratio(right, ones))}
    assert difference_all(pairs, cluster, boot)["none"] == none


def test_a_figure_that_a_tie_keeps_from_its_end_is_hardly_surer_than_there():
    """48 answers on 28 images, half of them taken: all right, or a tie block at the cut that holds the only
    error, so that the mean over its orders is one half of a percent short of 100."""
    cluster = np.arange(48) % 28
    confidence = np.where(np.arange(48) < 23, 2.0, 1.0)
    right = np.ones(48, bool)
    sure = ranked_estimates(confidence, right, cluster, 500)["precision_at_coverage@0.5"]
    right[40] = False
    nearly = ranked_estimates(confidence, right, cluster, 500)["precision_at_coverage@0.5"]
    assert sure.value == 1
    assert 0.995 < nearly.value < 1
    assert nearly.low == pytest.approx(sure.low, abs=0.03)
    assert sure.low < 0.9


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_missing_rows_and_the_order_of_rows_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    num, den, cluster = clustered(rng, 12)
    expected = ratio_estimate(num, den, cluster)
    wider = np.append(num, [np.nan, 3, 1]), np.append(den, [2, np.nan, 0]), np.append(cluster, [0, 99, 98])
    order = rng.permutation(len(wider[0]))
    found = ratio_estimate(*(column[order] for column in wider))
    assert found.model_dump() == pytest.approx(expected.model_dump(), abs=1e-12)
    one = cluster_bootstrap(num[:, None], den[:, None], cluster, 200, seed=1)
    two = cluster_bootstrap(*(column[order][:, None] for column in wider[:2]), wider[2][order], 200, seed=1)
    np.testing.assert_allclose(one, two, atol=1e-12)


def test_degenerate_data_have_no_value_or_no_error_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = np.zeros(0)
        assert ratio_estimate(empty, empty, empty).value is None
        nothing = ratio_estimate([np.nan, 1], [1, 0], [0, 1])
        assert (nothing.value, nothing.se, nothing.low, nothing.n) == (None, None, None, 0)
        lonely = ratio_estimate([1, 0, 1], [1, 1, 1], [7, 7, 7])
        assert (lonely.value, lonely.se, lonely.low, lonely.n) == (pytest.approx(2 / 3), None, None, 3)
        assert paired_difference([1.0], [1], [np.nan], [1], [0]).value is None
        boot = cluster_bootstrap(np.ones((3, 2)), [[1, 0], [1, 0], [1, 0]], [7, 7, 7], 50)
        assert np.isnan(boot).all()
        assert np.isnan(cluster_bootstrap(np.zeros((0, 1)), np.zeros((0, 1)), empty, 50)).all()
        # one of two clusters has a denominator: a quarter of the replicates has none
        num, den = np.array([[1.0, 1], [0, 0]]), np.array([[1.0, 1], [1, 0]])
        boot = cluster_bootstrap(num, den, [0, 1], 50)
        assert boot.se[0] > 0
        assert np.isnan(boot.se[1])


def test_weights_are_resamples_of_the_clusters():
    weights = np.concatenate(list(multinomial_weights(30, 4000, seed=0)))
    assert weights.shape == (4000, 30)
    assert (weights.sum(axis=1) == 30).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 29 / 30, rtol=0.15)


def test_the_blocks_of_weights_are_seamless(monkeypatch):
    num, den, cluster = clustered(np.random.default_rng(0), 50)
    columns = np.stack([num, den], axis=1).astype(float)
    expected = bootstrap_sums(columns, cluster, 300, seed=5)
    by_hand = []
    sums = np.stack([columns[cluster == code].sum(axis=0) for code in range(50)])
    for weights in multinomial_weights(50, 300, seed=5):
        by_hand.extend([sum(w * row for w, row in zip(line, sums, strict=True)) for line in weights])
    np.testing.assert_allclose(expected, by_hand)
    monkeypatch.setattr("vlmbench.metrics.bootstrap._CHUNK", 50 * 7)
    assert bootstrap_sums(columns, cluster, 300, seed=5).shape == (300, 2)
    np.testing.assert_allclose(bootstrap_sums(columns, cluster, 300, seed=5), expected)


def test_bootstrap_and_analysis_agree():
    rng = np.random.default_rng(2)
    num, den, cluster = clustered(rng, 200)
    other = rng.binomial(den, 0.2)
    alone = ratio_estimate(num, den, cluster)
    boot = cluster_bootstrap(np.stack([num, other], 1), np.stack([den, den], 1), cluster, seed=1)
    assert boot.se[0] == pytest.approx(alone.se, rel=0.06)
    np.testing.assert_allclose([boot.low[0], boot.high[0]], [alone.low, alone.high], atol=0.01)
    difference = paired_difference(num, den, other, den, cluster)
    paired = paired_bootstrap(*(x[:, None] for x in (num, den, other, den)), cluster, seed=1)
    assert paired.se[0] == pytest.approx(difference.se, rel=0.06)
    ratios = {"one": Ratio(num, den), "none": Ratio(num * 0, den)}
    draws = Resamples(cluster, 5000, seed=1)
    found = estimate_all(ratios, cluster, draws)
    assert found["one"].se == pytest.approx(boot.se[0])
    assert found["none"] == ratio_estimate(num * 0, den, cluster)
    pairs = {"gap": (Ratio(num, den), Ratio(other, den)), "floor": (ratios["one"], ratios["none"])}
    gaps = difference_all(pairs, cluster, draws)
    assert gaps["gap"].se == pytest.approx(paired.se[0])
    assert gaps["floor"] == paired_difference(num, den, num * 0, den, cluster)
    again = estimate_all(ratios, cluster, Resamples(cluster, 5000, seed=1))
    assert again == found


@pytest.mark.parametrize(("clusters", "share"), [(40, 0.4), (150, 0.15)])
def test_nominal_95_percent_intervals_cover_between_92_and_98(clusters, share):
    """400 data sets of clustered flips and of their paired difference to a second condition."""
    rng = np.random.default_rng(7)
    hits = {"ratio": 0, "difference": 0, "bootstrap": 0}
    for simulation in range(400):
        num, den, cluster = clustered(rng, clusters, share)
        other = rng.binomial(den, 0.3)
        alone = ratio_estimate(num, den, cluster)
        gap = paired_difference(num, den, other, den, cluster)
        boot = cluster_bootstrap(num[:, None], den[:, None], cluster, 1000, seed=simulation)
        hits["ratio"] += alone.low <= share <= alone.high
        hits["difference"] += gap.low <= share - 0.3 <= gap.high
        hits["bootstrap"] += boot.low[0] <= share <= boot.high[0]
    for name, count in hits.items():
        assert 0.92 <= count / 400 <= 0.98, (name, count)


def test_small_rates_keep_their_level_where_the_symmetric_interval_does_not():
    rng = np.random.default_rng(3)
    kept = symmetric = 0
    for _ in range(400):
        num, den, cluster = clustered(rng, 100, 0.005)
        found = ratio_estimate(num, den, cluster)
        t = scipy.stats.t.ppf(0.975, 99)
        kept += found.low <= 0.005 <= found.high
        symmetric += abs(found.value - 0.005) <= t * found.se
    assert 0.92 <= kept / 400 <= 0.98
    assert symmetric / 400 < 0.85


def test_ignoring_the_clusters_would_cover_too_little():
    """The planted fault of the test above: an interval that takes every item for a cluster of its own."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        num, den, _cluster = clustered(rng, 40)
        found = ratio_estimate(num, den, np.arange(len(num)))
        hits += found.low <= 0.4 <= found.high
    assert hits / 400 < 0.9


@given(st.integers(1, 400) | st.sampled_from([1000, 4999, 100_000]), st.floats(0.001, 0.999))
def test_quantiles_of_t_are_scipys(df, share):
    expected = scipy.stats.t.ppf(share, df)
    assert t_quantile(share, df) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert t_quantile(share, df) == -t_quantile(1 - share, df) or share > 0.5


def test_quantiles_of_t_outside_their_range_are_refused():
    for share, df in ((0, 3), (1, 3), (0.5, 0), (float("nan"), 3)):
        with pytest.raises(ValueError, match="share must be in"):
            t_quantile(share, df)


@given(st.integers(0, 1200) | st.just(20_001))
def test_the_law_of_fair_coins_is_scipys_binomial(n):
    law, expected = fair_coins(n), scipy.stats.binom.pmf(np.arange(n + 1), n, 0.5)
    np.testing.assert_allclose(law, expected, rtol=1e-10, atol=1e-290)


def test_importing_the_metrics_imports_neither_torch_nor_scipy():
    code = (
        "import sys, vlmbench.metrics.stability, vlmbench.metrics.selective, vlmbench.metrics.significance;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
