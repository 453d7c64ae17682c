"""Stability figures against loops written from the definitions, and the rules of the denominator."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.metrics import agreement, stability
from vlmbench.metrics.estimate import wilson
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.resamples import Resamples
from vlmbench.schema import State

CODE = {state: i for i, state in enumerate(STATES)}
COUNTED = {State.PARSED, State.UNPARSED, State.REFUSED, State.EMPTY}
seeds = st.integers(0, 2**32 - 1)


def make(answer, state=None, score=None, reference=None, **arrays) -> Outcomes:
    """Outcomes from lists; PARSED, unscored, without ties, one cluster per item unless given."""
    answer = np.asarray(answer, np.int64)
    n, m = answer.shape
    parts = {
        "state": np.zeros((n, m), np.int64) if state is None else np.vectorize(CODE.get)(state),
        "score": np.full((n, m), np.nan) if score is None else np.asarray(score, float),
        "tie": np.zeros((n, m), bool),
        "prob": np.full(n, np.nan),
        "cluster": np.arange(n),
        "reference": np.array([-1] + [0] * (m - 1)) if reference is None else np.asarray(reference),
        "unchanged": np.zeros((n, m), bool),
    }
    return Outcomes(answer=answer, **{**parts, **{key: np.asarray(value) for key, value in arrays.items()}})


def random_outcomes(seed: int, n: int = 12, m: int = 9) -> Outcomes:
    """Every state, missing scores, unchanged inputs, clusters, and two reference columns (0 and 4)."""
    rng = np.random.default_rng(seed)
    state = rng.choice(len(STATES), p=[0.7, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05], size=(n, m))
    answer = np.where(state == 0, rng.integers(0, 3, size=(n, m)), -1)
    score = np.where(state < 4, np.where(answer == 0, 1.0, rng.choice([0.0, 0.3, 0.6], size=(n, m))), np.nan)
    unchanged = rng.random((n, m)) < 0.04
    unchanged[:, [0, 4]] = False
    return Outcomes(
        answer=answer,
        state=state,
        score=np.where(rng.random((n, m)) < 0.03, np.nan, score),
        tie=rng.random((n, m)) < 0.2,
        prob=rng.random(n),
        cluster=rng.integers(0, max(2, n // 2), size=n),
        reference=np.array([-1, 0, 0, 0, -1, 4, 4, 4, 0])[:m],
        unchanged=unchanged,
    )


def oracle(outcomes: Outcomes, columns: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    """Every figure by loops over items, variants, pairs of answers and subsets of variants."""
    found: dict[str, list[float]] = {}

    def add(name, value):
        found.setdefault(name, []).append(value)

    def counts(i, v):
        return STATES[outcomes.state[i, v]] in COUNTED and not outcomes.unchanged[i, v]

    def parsed(i, v):
        return counts(i, v) and STATES[outcomes.state[i, v]] is State.PARSED

    variants = [v for v in columns if outcomes.reference[v] not in (-1, v)]
    for i in range(outcomes.n):
        for v in columns:
            if counts(i, v) and not math.isnan(outcomes.score[i, v]):
                add("accuracy", outcomes.score[i, v])
        for reference in sorted({int(outcomes.reference[v]) for v in variants}):
            flips, changes, answers = [], [], []
            if parsed(i, reference):
                answers.append(outcomes.answer[i, reference])
            for v in variants:
                if outcomes.reference[v] != reference:
                    continue
                if parsed(i, v):
                    answers.append(outcomes.answer[i, v])
                if not (counts(i, v) and counts(i, reference)):
                    continue
                both = parsed(i, v) and parsed(i, reference)
                flip = both and outcomes.answer[i, v] != outcomes.answer[i, reference]
                change = outcomes.state[i, v] != outcomes.state[i, reference]
                flips.append(flip)
                changes.append(change)
                add("flip_rate", flip)
                add("state_change_rate", change)
                before, after = outcomes.score[i, reference], outcomes.score[i, v]
                if math.isnan(before) or math.isnan(after):
                    continue
                add("accuracy_change", after - before)
                name = (
                    "changed"
                    if change
                    else {
                        (True, True): "correct_to_correct" if flip else "stay_correct",
                        (True, False): "correct_to_wrong",
                        (False, True): "wrong_to_correct",
                        (False, False): "wrong_to_wrong" if flip else "stay_wrong",
                    }[bool(before > 0.5), bool(after > 0.5)]
                )
                for kind in TRANSITIONS:
                    add(kind, kind == name)
            if len(answers) > 1:
                pairs = list(combinations(answers, 2))
                add("agreement", sum(a == b for a, b in pairs) / len(pairs))
                shares = [times / len(answers) for times in Counter(answers).values()]
                add("entropy", -sum(p * math.log(p) for p in shares))
            if flips:
                add("any_flip", any(flips))
            for k in ks:
                if len(flips) >= k:
                    subsets = list(combinations(flips, k))
                    add(f"any_flip@{k}", sum(any(subset) for subset in subsets) / len(subsets))
            if flips and parsed(i, reference) and not math.isnan(outcomes.score[i, reference]):
                stable = not any(flips) and not any(changes)
                right = outcomes.score[i, reference] > 0.5
                add("accuracy_stable" if stable else "accuracy_unstable", outcomes.score[i, reference])
                if not right:
                    add("errors_stable_share", stable)
    return {name: float(np.mean(values)) for name, values in found.items()}


TRANSITIONS = (
    "stay_correct",
    "correct_to_correct",
    "correct_to_wrong",
    "wrong_to_correct",
    "wrong_to_wrong",
    "stay_wrong",
)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([[1, 2, 3], [1, 2, 3, 5, 6, 7, 8], [5, 6], [0, 1], [8]]))
def test_every_figure_equals_loops_over_the_definition(seed, columns):
    outcomes = random_outcomes(seed)
    ks = (1, 2, 3)
    group = stability.summarise(outcomes, columns, ks=ks)
    expected = oracle(outcomes, columns, ks)
    for name, estimate in group.metrics.items():
        if estimate.value is None:
            assert name not in expected
        else:
            assert estimate.value == pytest.approx(expected[name], abs=1e-12), name
    assert expected.keys() <= group.metrics.keys()


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_cell_is_the_group_of_one_column(seed):
    outcomes = random_outcomes(seed)
    whole = stability.summarise(outcomes, [5], floor=[6, 7]).metrics
    cell = stability.cell_metrics(outcomes, 5, floor=[6, 7])
    assert cell.items() <= whole.items()
    assert {"accuracy", "flip_rate", "excess_flip_rate", "correct_to_wrong"} <= cell.keys()
    assert stability.cell_metrics(outcomes, 0).keys() == {"accuracy"}


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_order_and_names_do_not_matter(seed):
    outcomes = random_outcomes(seed)
    columns = [1, 2, 3, 5, 6, 7, 8]
    rng = np.random.default_rng(seed)
    expected = stability.summarise(outcomes, columns, floor=[8])

    def same(other: stability.Group) -> None:
        assert other.counts == expected.counts
        for name, estimate in expected.metrics.items():
            got = other.metrics[name].model_dump()
            assert got == pytest.approx(estimate.model_dump(), abs=1e-9), name

    same(stability.summarise(outcomes.rows(rng.permutation(outcomes.n)), columns, floor=[8]))
    same(stability.summarise(outcomes, rng.permutation(columns), floor=[8]))
    relabelled = outcomes.answer.copy()
    for row in relabelled:
        names = rng.permutation(5)
        row[row >= 0] = names[row[row >= 0]]
    same(stability.summarise(dataclasses.replace(outcomes, answer=relabelled), columns, floor=[8]))
    codes = rng.permutation(100)[outcomes.cluster]
    same(stability.summarise(dataclasses.replace(outcomes, cluster=codes), columns, floor=[8]))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_what_does_not_count_changes_nothing(seed):
    outcomes = random_outcomes(seed)
    rng = np.random.default_rng(seed)
    out = ~outcomes.valid
    noisy = dataclasses.replace(
        outcomes,
        answer=np.where(out, rng.integers(0, 9, outcomes.answer.shape), outcomes.answer),
        score=np.where(out, rng.random(out.shape), outcomes.score),
        tie=np.where(out, True, outcomes.tie),
    )
    columns = [1, 2, 3, 5, 6, 7]
    assert stability.summarise(noisy, columns, floor=[8]) == stability.summarise(outcomes, columns, floor=[8])


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_transitions_and_changes_of_state_are_all_pairs(seed):
    outcomes = random_outcomes(seed)
    scored = dataclasses.replace(outcomes, score=np.where(np.isnan(outcomes.score), 0.0, outcomes.score))
    metrics = stability.summarise(scored, [1, 2, 3]).metrics
    total = sum(metrics[name].value for name in (*TRANSITIONS, "state_change_rate"))
    assert total == pytest.approx(1)


def test_a_flip_needs_two_answers_and_a_change_of_state_is_apart():
    p, u, e, s = State.PARSED, State.UNPARSED, State.ERROR, State.SKIPPED
    outcomes = make(
        [[0, 1, 0], [0, -1, 1], [-1, 1, -1], [0, -1, -1], [-1, 0, 1]],
        [[p, p, p], [p, u, p], [u, p, State.EMPTY], [p, e, s], [e, p, p]],
    )
    nan = math.nan
    expected = [[nan, 1, 0], [nan, 0, 1], [nan, 0, 0], [nan, nan, nan], [nan, nan, nan]]
    np.testing.assert_array_equal(outcomes.flips, expected)
    group = stability.summarise(outcomes, [1, 2])
    assert group.metrics["flip_rate"].value == 2 / 6
    assert group.metrics["state_change_rate"].value == 3 / 6
    wanted = {"pairs": 6, "pairs_parsed": 3, "pairs_left_out": 4, "flips": 2, "state_changes": 3}
    assert wanted.items() <= group.counts.items()
    assert group.counts["items_without_answer"] == 1


def test_an_unchanged_input_is_never_stable():
    outcomes = make([[0, 0], [0, 0]], unchanged=[[False, True], [False, False]])
    group = stability.summarise(outcomes, [1])
    assert (group.metrics["flip_rate"].n, group.counts["items_stable"], group.counts["unchanged"]) == (
        1,
        1,
        1,
    )


def test_ties_are_counted_beside_flips_whichever_side_they_are_on():
    tie = [[True, False], [False, True], [False, False], [True, False]]
    outcomes = make([[0, 1], [0, 1], [0, 1], [0, 0]], tie=tie)
    counts = stability.summarise(outcomes, [1]).counts
    assert (counts["flips"], counts["flips_tied"], counts["pairs_tied"], counts["ties"]) == (3, 2, 3, 1)


def test_excess_is_paired_and_any_flip_is_compared_at_equal_k_only():
    # columns 1-3 variants, 4-5 repeats; the last item has no repeat and leaves the comparison
    p, e = State.PARSED, State.ERROR
    answer = [[0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, -1, -1]]
    outcomes = make(answer, [[p] * 6] * 3 + [[p] * 4 + [e] * 2])
    metrics = stability.summarise(outcomes, [1, 2, 3], floor=[4, 5], ks=(2, 3)).metrics
    assert metrics["flip_rate"].value == 8 / 12
    assert metrics["excess_flip_rate"].value == pytest.approx(5 / 9 - 1 / 6)
    assert metrics["excess_flip_rate"].n == 3
    assert metrics["excess_any_flip@2"].value == pytest.approx((1 + 0 + 1) / 3 - 1 / 3)
    assert "any_flip@3" in metrics
    assert "excess_any_flip@3" not in metrics


def test_the_range_of_an_entropy_is_that_of_the_number_of_answers():
    outcomes = make([[0, 1, 2, 3]] * 30)
    entropy = stability.summarise(outcomes, [1, 2, 3]).metrics["entropy"]
    assert (entropy.value, entropy.high) == (pytest.approx(math.log(4)), pytest.approx(math.log(4)))
    assert entropy.low == pytest.approx(wilson(1, 30)[0] * math.log(4))


def test_items_with_too_few_variants_are_left_out_and_counted():
    p, s = State.PARSED, State.SKIPPED
    outcomes = make([[0, 1, 1], [0, 1, -1], [0, -1, -1]], [[p, p, p], [p, p, s], [p, s, s]])
    group = stability.summarise(outcomes, [1, 2], ks=(2,))
    assert (group.metrics["any_flip@2"].n, group.counts["any_flip@2_left_out"]) == (1, 1)
    assert group.metrics["any_flip"].n == 2


def test_a_mask_is_the_same_as_the_items_alone():
    outcomes = random_outcomes(3, n=20)
    mask = np.arange(20) % 3 == 0
    alone = stability.summarise(outcomes.rows(mask), [1, 2, 3])
    assert stability.summarise(outcomes, [1, 2, 3], mask) == alone


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_count_gives_none_and_no_warning(n):
    outcomes = random_outcomes(1, n=n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for columns, mask in (([1, 2], None), ([0], None), ([], None), ([1, 2], np.zeros(n, bool))):
            for resamples in (None, Resamples(outcomes.cluster, 20)) if n else (None,):
                group = stability.summarise(outcomes, columns, mask, floor=[3], resamples=resamples)
                assert all(estimate.se is None for estimate in group.metrics.values())


def test_any_flip_at_k_is_stable_for_large_suites():
    total, flips = np.array([5000.0, 5000.0, 3.0]), np.array([1.0, 4999.0, 1.0])
    found = agreement.any_flip_at(500, total, flips)
    np.testing.assert_allclose(found[:2], [0.1, 1.0], rtol=1e-9)
    assert np.isnan(found[2])
    with pytest.raises(ValueError, match="at least 1"):
        agreement.any_flip_at(0, total, flips)


def test_agreement_is_unbiased_where_the_modal_share_is_not():
    rng = np.random.default_rng(0)
    answer = rng.choice(3, p=[0.6, 0.3, 0.1], size=(20_000, 2))
    found = agreement.pairwise_agreement(answer, np.ones(answer.shape, bool)).mean()
    assert found == pytest.approx(0.46, abs=0.012)


def test_items_with_the_same_counts_have_exactly_the_same_entropy():
    rows = [np.repeat(np.arange(4), order) for order in permutations((2, 3, 4, 6))]
    answer = np.array(rows)
    assert len(set(agreement.answer_entropy(answer, np.ones(answer.shape, bool)))) == 1


def test_fleiss_kappa_of_the_worked_example():
    # the example of Wikipedia's article: 10 subjects, 14 raters, 5 categories, kappa = 0.210
    table = (
        "0 0 0 0 14|0 2 6 4 2|0 0 3 5 6|0 3 9 2 0|2 2 8 1 1|7 7 0 0 0|3 2 6 3 0|2 5 3 2 2|6 5 2 1 0|0 2 2 3 7"
    )
    rows = [[int(cell) for cell in row.split()] for row in table.split("|")]
    label = np.array([np.repeat(np.arange(5), row) for row in rows])
    assert agreement.fleiss_kappa(label, np.ones(label.shape, bool)) == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.zeros((2, 1))}, "score must have shape"),
        ({"state": np.full((2, 2), 9)}, "state must be a place"),
        ({"reference": np.array([-1, 2])}, "reference must be a column"),
        ({"answer": np.full((2, 2), -1)}, "answer is -1 in a PARSED record"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make([[0, 1], [0, 1]]), **change)
