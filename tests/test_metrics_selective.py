"""Rankings, risk-coverage and tests of differences against brute force and scipy."""

from __future__ import annotations

import math
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.metrics import ranking, selective, significance
from vlmbench.metrics.bootstrap import multinomial_weights
from vlmbench.metrics.outcomes import Outcomes

seeds = st.integers(0, 2**32 - 1)


def ties(seed: int, n: int = 20, levels: int = 4):
    """(score, label) with few distinct scores and both classes."""
    rng = np.random.default_rng(seed)
    score, label = rng.integers(0, levels, size=n) / levels, rng.random(n) < 0.6
    label[:2] = [True, False]
    return score, label


def brute_auroc(score, label) -> float:
    wins = [(a > b) + (a == b) / 2 for a in score[label] for b in score[~label]]
    return float(np.mean(wins)) if wins else math.nan


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_auroc_is_the_share_of_pairs_and_the_mann_whitney_statistic(seed):
    score, label = ties(seed)
    assert ranking.auroc(score, label) == pytest.approx(brute_auroc(score, label))
    u = scipy.stats.mannwhitneyu(score[label], score[~label]).statistic
    assert ranking.auroc(score, label) == pytest.approx(u / (label.sum() * (~label).sum()))
    np.testing.assert_allclose(ranking.midranks(score), scipy.stats.rankdata(score))
    assert ranking.auroc(np.append(score, np.nan), np.append(label, True)) == ranking.auroc(score, label)


def test_auroc_without_both_classes_or_with_a_constant_score():
    assert math.isnan(ranking.auroc([0.1, 0.2], [True, True]))
    assert ranking.auroc_estimate([0.1, 0.2], [True, True], [0, 1]).value is None
    assert ranking.auroc([0.3] * 4, [True, False, True, False]) == 0.5
    best = ranking.auroc_estimate(np.arange(100), np.arange(100) >= 97, np.arange(100))
    assert (best.value, best.high) == (1, 1)
    assert best.low < 0.5  # three positives prove little


def test_the_error_of_auroc_is_that_of_a_cluster_bootstrap():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(150), 3)
    shared = rng.normal(size=150)[cluster]
    label = shared + rng.normal(size=450) > 0
    a = np.round(shared + rng.normal(size=450), 1)
    b = np.round(label + 2 * rng.normal(size=450), 1)
    replicates = []
    for weights in np.concatenate(list(multinomial_weights(150, 400, seed=1))).astype(int):
        rows = np.repeat(np.arange(450), weights[cluster])
        one, two = ranking.auroc(a[rows], label[rows]), ranking.auroc(b[rows], label[rows])
        replicates.append((one, one - two))
    expected = np.std(replicates, axis=0)
    assert ranking.auroc_estimate(a, label, cluster).se == pytest.approx(expected[0], rel=0.12)
    difference = ranking.auroc_difference(a, b, label, cluster)
    assert difference.se == pytest.approx(expected[1], rel=0.12)
    assert difference.value == pytest.approx(ranking.auroc(a, label) - ranking.auroc(b, label))


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_within_category_auroc_pools_the_pairs_of_a_category(seed):
    score, label = ties(seed, n=24)
    category = np.random.default_rng(seed).integers(0, 4, size=24)
    wins = [
        (score[i] > score[j]) + (score[i] == score[j]) / 2
        for i in range(24)
        for j in range(24)
        if label[i] and not label[j] and category[i] == category[j]
    ]
    found = ranking.within_category_auroc(score, label, category, np.arange(24))
    assert found.value == (pytest.approx(np.mean(wins)) if wins else None)
    whole = ranking.within_category_auroc(score, label, np.zeros(24), np.arange(24))
    alone = ranking.auroc_estimate(score, label, np.arange(24))
    assert whole.model_dump() == pytest.approx(alone.model_dump())


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 10))
def test_category_auroc_leaves_both_items_of_a_pair_out(seed, n):
    rng = np.random.default_rng(seed)
    label, category = rng.random(n) < 0.5, rng.integers(0, 4, size=n)

    def rate(i, j):
        others = [k for k in range(n) if k not in (i, j)]
        same = [k for k in others if category[k] == category[i]]
        # an item alone in its category, pair partner aside, falls back to all that remain
        if sum(category == category[i]) == 1 or category[i] == category[j]:
            same = others
        return float(np.mean(label[same])) if same else 0.5

    wins = []
    for i, j in product(range(n), range(n)):
        if label[i] and not label[j]:
            same = category[i] == category[j]
            a, b = rate(i, j), rate(j, i)
            wins.append(0.5 if same or math.isclose(a, b, abs_tol=1e-12) else float(a > b))
    found = ranking.category_auroc(label, category)
    assert found == pytest.approx(np.mean(wins)) if wins else math.isnan(found)


def test_the_leave_one_out_rate_and_why_its_auroc_is_not_the_control():
    correct = np.array([True, True, False, True])
    rates = ranking.category_base_rate(correct, ["a", "a", "a", "b"])
    np.testing.assert_allclose(rates, [0.5, 0.5, 1.0, 2 / 3])
    rng = np.random.default_rng(0)
    kind = np.arange(400) % 4
    leave_one, leave_pair = [], []
    for _ in range(100):
        noise = rng.random(400) < 0.7
        leave_one.append(ranking.auroc(ranking.category_base_rate(noise, kind), noise))
        leave_pair.append(ranking.category_auroc(noise, kind))
    assert np.mean(leave_one) < 0.42  # a category that knows nothing would look worse than a coin
    assert np.mean(leave_pair) == pytest.approx(0.5, abs=0.02)
    assert ranking.category_auroc(noise, np.zeros(400)) == 0.5


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_average_precision_sums_over_thresholds(seed):
    score, label = ties(seed)
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        taken = score >= threshold
        now = (label & taken).sum() / label.sum()
        expected += (now - recall) * label[taken].mean()
        recall = now
    assert ranking.average_precision(score, label) == pytest.approx(expected)
    assert ranking.average_precision(np.ones(20), label) == pytest.approx(label.mean())


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 6))
def test_aurc_is_the_mean_over_all_orders_of_tied_items(seed, n):
    rng = np.random.default_rng(seed)
    confidence, loss = rng.integers(0, 3, size=n) / 2, rng.random(n)
    curves = []
    for order in permutations(range(n)):
        if all(confidence[a] >= confidence[b] for a, b in pairwise(order)):
            curves.append([loss[list(order[:k])].mean() for k in range(1, n + 1)])
    mean = np.mean(curves, axis=0)
    np.testing.assert_allclose(selective.risk_at_rank(confidence, loss), mean)
    assert selective.aurc(confidence, loss) == pytest.approx(mean.mean())
    for coverage in (0.25, 0.5, 0.75, 1.0):
        rank = max(1, math.ceil(coverage * n))
        found = selective.precision_at_coverage(confidence, loss, coverage)
        assert found == pytest.approx(1 - mean[rank - 1])


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_risk_coverage_takes_whole_blocks(seed):
    confidence, wrong = ties(seed)
    curve = selective.risk_coverage(confidence, wrong)
    reachable = {}
    for t in sorted(set(confidence), reverse=True):
        taken = confidence >= t
        reachable[t] = (taken.mean(), wrong[taken].mean())
    assert curve.threshold.tolist() == list(reachable)
    np.testing.assert_allclose(np.stack([curve.coverage, curve.risk], 1), list(reachable.values()))
    for risk in (0.0, 0.3, 0.5, 1.0):
        expected = max([c for c, r in reachable.values() if r <= risk + 1e-12], default=0.0)
        assert selective.coverage_at_risk(confidence, wrong, risk) == pytest.approx(expected)


def test_selective_metrics_of_nothing_and_of_a_perfect_confidence():
    nothing = selective.selective_metrics([], [], [], [])
    assert all(estimate.value is None for estimate in nothing.values())
    score = np.array([1.0] * 80 + [0.0] * 20)
    found = selective.selective_metrics(score, score, np.arange(100), np.arange(100) % 2)
    assert found["auroc"].value == found["within_category_auroc"].value == 1
    assert found["auprc_errors"].value == 1
    assert found["error_rate"].value == pytest.approx(0.2)
    assert found["coverage_at_risk@0.01"].value == pytest.approx(0.8)
    assert found["precision_at_coverage@0.75"].value == 1


def test_stability_scores_order_items_by_their_answers():
    answer = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 2, 3], [0, -1, -1, -1]])
    n, m = answer.shape
    outcomes = Outcomes(
        answer=answer,
        state=np.where(answer < 0, 4, 0),
        score=np.full((n, m), np.nan),
        tie=np.zeros((n, m), bool),
        prob=np.full(n, np.nan),
        cluster=np.arange(n),
        reference=np.array([-1, 0, 0, 0]),
        unchanged=np.zeros((n, m), bool),
    )
    scores = selective.stability_scores(outcomes, [1, 2, 3])
    np.testing.assert_allclose(scores["agreement"], [1, 0.5, 0.5, 0, np.nan])
    np.testing.assert_allclose(scores["one_minus_flip_rate"], [1, 2 / 3, 0, 0, np.nan])
    assert scores["negative_entropy"][1] == scores["negative_entropy"][2]  # exactly: they must tie
    assert scores["negative_entropy"][3] == pytest.approx(-math.log(4))
    with pytest.raises(ValueError, match="one reference"):
        selective.stability_scores(outcomes, [0])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test_or_its_mid_p(b, c):
    found = significance.mcnemar(b, c)
    exact = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
    if b + c < 25:
        assert (found.method, found.p) == ("mcnemar-exact", pytest.approx(exact))
    else:
        mid = 2 * scipy.stats.binom.cdf(min(b, c), b + c, 0.5) - scipy.stats.binom.pmf(b, b + c, 0.5)
        assert (found.method, found.p) == ("mcnemar-mid-p", pytest.approx(min(1.0, mid)))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_sign_flip_lists_all_patterns_of_the_clusters(seed):
    rng = np.random.default_rng(seed)
    difference, cluster = rng.integers(-2, 3, size=18).astype(float), rng.integers(0, 7, size=18)
    sums = [difference[cluster == code].sum() for code in range(7)]
    totals = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=7)]
    expected = np.mean([total >= abs(sum(sums)) - 1e-9 for total in totals])
    assert significance.sign_flip(difference, cluster).p == pytest.approx(expected)


def test_drawn_sign_flips_are_near_the_exact_value():
    rng = np.random.default_rng(1)
    difference = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=300)
    b, c = int((difference > 0).sum()), int((difference < 0).sum())
    found = significance.sign_flip(difference, np.arange(300), seed=3)
    assert found.method == "sign-flip"
    assert found.p == pytest.approx(scipy.stats.binomtest(b, b + c).pvalue, abs=0.015)


def test_the_test_fits_the_scores():
    rng = np.random.default_rng(0)
    a, b = (rng.random(80) < 0.7).astype(float), (rng.random(80) < 0.5).astype(float)
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    plain = significance.compare_scores(a, b, np.arange(80))
    assert plain == significance.mcnemar(only_a, only_b)
    grouped = significance.compare_scores(a, b, np.arange(80) // 2)
    assert (grouped.method, grouped.b, grouped.c) == ("sign-flip", only_a, only_b)
    soft = significance.compare_scores(a * 0.6, b, np.arange(80))
    assert soft.method == "paired-bootstrap"
    assert significance.bootstrap_test(np.full(30, 0.1), np.arange(30)).p < 0.001
    assert significance.compare_scores([np.nan], [1.0], [0]).p == 1.0


def test_holm_steps_down_and_keeps_the_order():
    np.testing.assert_allclose(significance.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(significance.holm([0.5, np.nan, 0.6]), [1.0, np.nan, 1.0])
    assert significance.holm([]).shape == (0,)
