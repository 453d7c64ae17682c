"""`vlmbench predict`: no leak between folds, no credit for the category, controls beside it, refusals."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compare import WORDS, make_cell, make_table

from vlmbench.cli.app import run
from vlmbench.comparison.pooled import pooled
from vlmbench.comparison.predict import predict
from vlmbench.comparison.prediction import Prediction
from vlmbench.comparison.weights import same_weights
from vlmbench.errors import NotComparableError, UsageError
from vlmbench.metrics import ranking, selective
from vlmbench.metrics.estimate import wilson
from vlmbench.metrics.predict_curves import FIGURES, ranked_estimates, ranked_figures
from vlmbench.metrics.predict_figures import Labels, Score, auroc_minus, auroc_of, category_influence
from vlmbench.metrics.predict_folds import grouped_folds, held_out_score, out_of_fold, out_of_group
from vlmbench.metrics.predict_logistic import Scaling, fit_logistic, fit_path
from vlmbench.report.predict import prediction_sections
from vlmbench.schema import Column, Table
from vlmbench.table_io import dump_table, read_table

seeds = st.integers(0, 2**32 - 1)
FAMILIES = ("shift", "polite")


def flips(rng: np.random.Generator, clean: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Another answer with the given chance per item."""
    return np.where(rng.random(len(clean)) < chance, (clean + 1) % len(WORDS), clean)


def small_table(
    rng: np.random.Generator,
    unsteady: np.ndarray,
    variants: int = 6,
    families: Sequence[str] = FAMILIES,
    samples: int = 0,
    revision: str = "sha256:small",
    doubt: Sequence[float] | None = None,
    **block: Any,
) -> Table:
    """A run of `perturb`: every item flips with its chance `unsteady` [n] under each of the variants."""
    n = len(unsteady)
    clean = rng.integers(0, 2, n)
    cells = [make_cell("clean", {}, clean.tolist()).model_copy(update={"axis": "clean"})]
    cells[0] = cells[0].model_copy(update={"doubt": list(rng.random(n) if doubt is None else doubt)})
    for k in range(variants + samples):
        family = families[k % len(families)] if k < variants else "sample"
        axis = "sample" if family == "sample" else "image"
        answer = flips(rng, clean, unsteady).tolist()
        cell = make_cell(f"{family}(k={k})", {axis: {"name": family, "k": k}}, answer, reference="clean")
        cells.append(cell.model_copy(update={"axis": axis, "family": family}))
    table = make_table(cells, **block)
    return table.model_copy(update={"identity": {**table.identity, "model": "small", "revision": revision}})


def large_table(right: np.ndarray, revision: str = "sha256:large", **block: Any) -> Table:
    table = make_table([make_cell("clean", {}, np.where(right, 0, 1).tolist())], **block)
    return table.model_copy(update={"identity": {**table.identity, "model": "large", "revision": revision}})


def planted(seed: int = 0, images: int = 60, per_image: int = 4, **more: Any) -> tuple[Table, Table]:
    """Errors of the large model where the small one is unsteady."""
    rng = np.random.default_rng(seed)
    n = images * per_image
    block = {"clusters": [f"image{k // per_image}" for k in range(n)]}
    unsteady = rng.beta(0.4, 2, n)
    right = rng.random(n) < 0.97 - 0.8 * unsteady
    return small_table(rng, unsteady, **block, **more), large_table(right, **block)


def figure(prediction: Prediction, name: str, metric: str = "auroc") -> float:
    value = prediction.predictor(name).metrics[metric].value
    assert value is not None
    return value


@pytest.mark.parametrize("seed", range(4))
def test_rankings_and_regressions_are_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    label = rng.random(40) < 0.6
    label[:2] = [True, False]
    score = rng.permutation(40) + rng.random()
    assert ranking.auroc(score, label) == pytest.approx(metrics.roc_auc_score(label, score))
    found = dict(zip(FIGURES, ranked_figures(score, ~label, np.ones((1, 40)))[0], strict=True))
    assert found["auprc_errors"] == pytest.approx(metrics.average_precision_score(~label, -score))
    features = rng.normal(size=(40, 5)) + label[:, None] * rng.normal(size=5)
    for strength in (0.01, 1.0, 10.0):
        theirs = linear.LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(features, label)
        expected = np.concatenate([theirs.intercept_, theirs.coef_[0]])
        np.testing.assert_allclose(fit_logistic(features, label, strength), expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0.001, 0.1, 10.0, 1000.0]))
def test_a_fit_is_at_the_minimum_from_wherever_it_starts(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    label = rng.random(30) < 0.8
    label[:2] = [True, False]
    features = np.column_stack([rng.normal(size=(30, 3)), label * 3.0])  # the last one separates
    weights = fit_logistic(features, label, strength)
    chance = 1 / (1 + np.exp(-(weights[0] + features @ weights[1:])))
    assert abs((chance - label).sum()) < 1e-6
    np.testing.assert_allclose(features.T @ (chance - label) + weights[1:] / strength, 0, atol=1e-6)
    path = fit_path(features, label, (0.01, 1.0, strength))
    np.testing.assert_allclose(path[-1], weights, rtol=1e-3, atol=1e-4)
    assert not fit_logistic(features, np.ones(30, bool), strength).any()


def test_scaling_puts_missing_values_at_the_mean_and_ignores_what_is_constant() -> None:
    features = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    expected = [[-1, 0, 0], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(Scaling.of(features).apply(features), expected)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 40), st.integers(2, 12))
def test_folds_never_split_a_cluster(seed: int, groups: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = np.concatenate([np.arange(groups), rng.integers(0, groups, 60)])
    label = rng.random(len(cluster)) < 0.8
    fold = grouped_folds(cluster, label, folds, seed)
    for group in range(groups):
        assert len(set(fold[cluster == group])) == 1
    assert set(fold) == set(range(min(folds, groups)))
    errors = np.bincount(fold, weights=~label)
    assert errors.max() - errors.min() <= np.bincount(cluster, weights=~label).max()
    order = rng.permutation(len(cluster))
    np.testing.assert_array_equal(grouped_folds(cluster[order], label[order], folds, seed), fold[order])


def test_the_name_of_the_image_teaches_nothing_about_other_images() -> None:
    """A label per image and a column per image: known to whoever has seen the image, and to nobody else."""
    rng = np.random.default_rng(0)
    cluster, alone, kind = np.repeat(np.arange(60), 4), np.arange(240), np.arange(240) % 2
    label, features = (rng.random(60) < 0.6)[cluster], np.eye(60)[cluster]
    fold = grouped_folds(cluster, label, 5, 0)
    score = out_of_fold(features, label, cluster, fold, 0).score
    moved = out_of_group(features, label, cluster, fold, kind, 0)
    for number in range(5):
        assert len(set(score[fold == number])) == 1
        for group in range(2):
            assert len(set(moved[(fold == number) & (kind == group)])) == 1
    assert ranking.auroc(score, label) < 0.6
    leaky = out_of_fold(features, label, alone, grouped_folds(alone, label, 5, 0), 0)
    assert ranking.auroc(leaky.score, label) > 0.9


def test_noise_ranks_at_one_half() -> None:
    """Also noise that only names images. Three standard errors of the means are .035."""
    found: dict[str, list[float]] = {"item": [], "image": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        label, cluster = rng.random(180) < 0.7, np.arange(180) // 3
        fold = grouped_folds(cluster, label, 5, seed)
        for name, features in (
            ("item", rng.normal(size=(180, 3))),
            ("image", rng.normal(size=(60, 3))[cluster]),
        ):
            score = out_of_fold(features, label, cluster, fold, 0).score
            found[name].append(ranking.auroc(score, label))
    assert np.mean(found["item"]) == pytest.approx(0.5, abs=0.035)
    assert np.mean(found["image"]) == pytest.approx(0.5, abs=0.035)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_weighted_figures_are_those_of_the_items_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, wrong = rng.integers(0, 5, 20) / 5, rng.random(20) < 0.4
    weights = rng.integers(0, 4, (3, 20)).astype(float)
    weights[:, 0] += 1
    for row, found in zip(weights, ranked_figures(confidence, wrong, weights), strict=True):
        places = np.repeat(np.arange(20), row.astype(int))
        sure, lost = confidence[places], wrong[places]
        expected = [ranking.average_precision(-sure, lost), selective.aurc(sure, lost.astype(float))]
        expected += [
            selective.precision_at_coverage(sure, lost.astype(float), c) for c in selective.COVERAGES
        ]
        expected += [selective.coverage_at_risk(sure, lost.astype(float), r) for r in selective.RISKS]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_figure_at_its_end_is_not_certain() -> None:
    right = np.arange(40) >= 4
    found = ranked_estimates(np.arange(40.0), right, np.arange(40) // 2, 200)
    # ten answers of five images, the errors of two: Wilson's ends for as many cases
    for name, images in (("precision_at_coverage@0.25", 5), ("auprc_errors", 2)):
        assert found[name].value == found[name].high == 1
        assert found[name].low == pytest.approx(wilson(1, images)[0])


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_the_categorys_influence_is_that_of_its_leave_pair_out_auroc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    category = np.unique(rng.integers(0, 5, 30), return_inverse=True)[1]
    right = rng.random(30) < 0.3 + 0.12 * category
    right[:2] = [True, False]
    value, psi = category_influence(right, category)
    assert value == pytest.approx(ranking.category_auroc(right, category))
    assert psi[right].sum() == pytest.approx(0, abs=1e-12)
    assert psi[~right].sum() == pytest.approx(0, abs=1e-12)


def test_intervals_of_auroc_and_of_differences_hold_what_they_promise() -> None:
    """400 data sets of 80 images with shared luck; nominal 95 %. Scores are normal, so the truth is known."""
    hits, rng = np.zeros(3), np.random.default_rng(0)
    gains = (2.0, 1.0)
    truths = [0.5 + 0.5 * math.erf(gain / 2 / math.sqrt(2)) for gain in gains]
    for _ in range(400):
        cluster = np.repeat(np.arange(80), rng.integers(1, 6, 80))
        label = rng.random(len(cluster)) < rng.beta(4, 1, 80)[cluster]
        shared = rng.normal(size=80)[cluster]
        scores = [Score(gain * label + shared + rng.normal(size=len(label))) for gain in gains]
        labels = Labels(label, cluster, np.zeros(len(label), np.int64))
        found = [auroc_of(score, labels) for score in scores] + [auroc_minus(*scores, labels)]
        for k, truth in enumerate([*truths, truths[0] - truths[1]]):
            hits[k] += (found[k].low or 0.0) <= truth <= (found[k].high or 0.0)
    assert ((hits / 400 >= 0.92) & (hits / 400 <= 0.98)).all(), hits / 400


def test_planted_stability_is_found_and_beats_a_control_that_knows_nothing() -> None:
    small, large = planted()
    found = predict([("small", small)], ("large", large), draws=100)
    assert figure(found, "stability") > 0.75
    assert figure(found, "agreement") > 0.75
    differences = {(one.one, one.two): one.auroc for one in found.differences}
    gain = differences["agreement", "probability"]
    assert gain.low is not None
    assert gain.low > 0
    assert found.errors == int((np.array(large.cells[0].score.decode()) < 0.5).sum())
    assert (found.n, found.clusters, found.small[0].variants) == (240, 60, 6)
    assert found.predictor("self_consistency").missing.endswith("perturb --samples 6`")
    assert found.predictor("category").missing


def test_stability_that_only_knows_the_category_is_unmasked() -> None:
    """Hard categories are unsteady AND wrong, but inside a category one has nothing to do with the other.

    Three standard errors of the mean AUROC within categories are .06."""
    within: dict[str, list[float]] = {"stability": [], "agreement": [], "held out": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        kind = np.arange(900) % 3
        hard = np.array([0.02, 0.2, 0.5])[kind]
        block = {
            "clusters": [f"image{k // 6}" for k in range(900)],
            "categories": Column.of([("colour", "count", "digit")[k] for k in kind]),
        }
        small = small_table(rng, hard, variants=8, **block)
        large = large_table(rng.random(900) > hard, **block)
        found = predict([("small", small)], ("large", large), draws=2)
        for name in ("stability", "agreement"):
            assert figure(found, name) > 0.7
            assert figure(found, "category") > figure(found, name)
            within[name].append(figure(found, name, "within_category_auroc"))
        gains = {(one.one, one.two): one.auroc for one in found.differences}
        assert (gains["everything", "controls"].low or 0) < 0
        together, *groups = found.held_out
        assert [row.group for row in groups] == [{"category": name} for name in ("colour", "count", "digit")]
        assert sum(row.errors for row in groups) == together.errors == found.errors
        within["held out"].append(together.auroc["stability"].value or 0.0)
    for values in within.values():
        assert np.mean(values) == pytest.approx(0.5, abs=0.06)
    assert "within_category_auroc" not in found.predictor("category").metrics


def test_self_consistency_is_the_agreement_of_as_many_samples() -> None:
    small, large = planted(samples=9)
    found = predict([("small", small)], ("large", large), draws=2)
    answers = np.array([[int(c) for c in cell.answer] for cell in small.cells]).T
    together = answers[:, [0, *range(7, 13)]]  # the original and the first six of nine samples
    agreement = [np.mean([a == b for i, a in enumerate(row) for b in np.delete(row, i)]) for row in together]
    right = np.array(large.cells[0].score.decode()) > 0.5
    assert figure(found, "self_consistency") == pytest.approx(ranking.auroc(agreement, right))
    assert found.small[0].families == list(FAMILIES)  # samples are no perturbation


def test_several_small_models_and_the_agreement_with_the_large_one() -> None:
    small, large = planted()
    other, _ = planted(5, revision="sha256:other")
    found = predict([("one", small), ("two", other)], ("large", large), draws=2)
    assert found.predictor("probability").fitted
    assert found.predictor("probability").features == 2
    assert found.predictor("stability").features == 12
    right = np.array(large.cells[0].score.decode()) > 0.5
    answers = [np.array([int(c) for c in table.cells[0].answer]) for table in (small, other, large)]
    same = (answers[0] == answers[2]).astype(float) + (answers[1] == answers[2])
    assert figure(found, "same_answer") == pytest.approx(ranking.auroc(same, right))


def test_within_one_model_it_is_selective_prediction() -> None:
    rng = np.random.default_rng(0)
    doubt = np.where(rng.random(120) < 0.5, 0.1, 0.6)
    small = small_table(rng, rng.random(120) / 2, doubt=doubt)
    found = predict([("run", small)], draws=2)
    assert found.large is None
    assert {one.name for one in found.predictors}.isdisjoint({"same_answer", "large_probability"})
    right = np.array(small.cells[0].score.decode()) > 0.5
    assert figure(found, "probability") == pytest.approx(ranking.auroc(-doubt, right))
    assert found.errors == int((~right).sum())


def test_a_written_table_ranks_probabilities_as_the_run_did(tmp_path: Path) -> None:
    """A thousandth apart near 0, near 1 and between: on the scale of margins most of them were ties."""
    rng = np.random.default_rng(1)
    doubt = rng.permutation(np.concatenate([k + 0.001 * np.arange(40) for k in (0.001, 0.4, 0.9)]))
    small = small_table(rng, rng.random(120) / 2, doubt=doubt)
    (tmp_path / "run.json").write_text(dump_table(small), encoding="utf-8")
    found = predict([("run", read_table(tmp_path / "run.json"))], draws=2, only=("probability",))
    right = np.array(small.cells[0].score.decode()) > 0.5
    assert figure(found, "probability") == ranking.auroc(-doubt, right)
    assert figure(found, "probability", "auprc_errors") == pytest.approx(
        ranking.average_precision(doubt, ~right)
    )


@pytest.mark.parametrize(
    ("hashes", "models", "same"),
    [
        (("a", "a"), ("one", "two"), True),
        (("a", "b"), ("one", "one"), False),
        (("", ""), ("one", "one"), True),
        (("", ""), ("one", "two"), False),
        (("a", ""), ("one", "one"), True),
        (("a", None), ("one", "two"), False),
    ],
)
def test_the_same_weights_are_one_model(hashes: Any, models: Any, same: bool) -> None:
    """By hash where both have one, else by name; whatever takes tables of several models asks this."""
    small, large = planted(images=20)
    one, two = (
        table.model_copy(update={"identity": {"model": model} | ({} if h is None else {"revision": h})})
        for table, h, model in zip((small, large), hashes, models, strict=True)
    )
    assert same_weights(one, two) == same_weights(two, one) == same
    other = two.model_copy(update={"cells": one.cells, "tasks": one.tasks})
    for call in (
        lambda: predict([("one", one)], ("two", two), only=("agreement",), draws=2),
        lambda: predict([("one", one), ("two", other)], ("large", large), only=("agreement",), draws=2),
        lambda: pooled([("one", one), ("two", other)]),
    ):
        if same:
            with pytest.raises(NotComparableError, match="one and two are the same weights"):
                call()
        else:
            call()


def test_what_is_held_out_was_seen_by_no_regression() -> None:
    """Unsteady answers are wrong in one category and right in the other: what was learnt there misleads."""
    rng = np.random.default_rng(0)
    kind = np.arange(600) % 6 == 0
    unsteady = rng.beta(0.4, 1, 600)
    wrong = rng.random(600) < np.where(kind, 0.9 - 0.8 * unsteady, 0.1 + 0.8 * unsteady)
    block = {"clusters": [f"image{k // 2}" for k in range(600)]}
    block["categories"] = Column.of(["odd" if odd else "plain" for odd in kind])
    small, large = small_table(rng, unsteady, **block), large_table(~wrong, **block)
    found = predict([("small", small)], ("large", large), draws=2, only=("stability",))
    values = {row.group.get("category"): row.auroc["stability"].value for row in found.held_out}
    assert figure(found, "stability") > 0.6
    assert values["plain"] < 0.3
    assert values["odd"] < 0.3


def test_a_score_depends_on_no_other_item_held_out() -> None:
    """Neither the scale nor the weights of a regression may know them."""
    rng = np.random.default_rng(0)
    label = rng.random(80) < 0.6
    train = rng.normal(size=(80, 3)) + label[:, None] * [1.0, 0.3, 0.0]
    test = np.concatenate([rng.normal(size=(20, 3)), [[1e3, -1e3, 1e3]]])
    together = held_out_score(train, label, test, 0.01)
    alone = [held_out_score(train, label, row[None], 0.01)[0] for row in test]
    np.testing.assert_array_equal(together, alone)
    seen = Scaling.of(train)
    weights = fit_logistic(seen.apply(train), label, 0.01)[1:]
    known, line = seen.apply(train) @ weights, seen.apply(test) @ weights
    np.testing.assert_allclose(together, (known < line[:, None]).mean(axis=1))


def test_tasks_are_left_out_one_by_one() -> None:
    small, large = planted()

    def twice(table: Table) -> Table:
        block = table.tasks[0].model_copy(update={"task": "other"})
        cells = [cell.model_copy(update={"task": "other"}) for cell in table.cells]
        if len(cells) > 1:  # a family less: what the other task lacks is missing and no error
            cells = [cell for cell in cells if cell.family != "polite"]
        return table.model_copy(update={"tasks": [*table.tasks, block], "cells": [*table.cells, *cells]})

    found = predict([("small", twice(small))], ("large", twice(large)), draws=2)
    assert found.items == {"demo": 240, "other": 240}
    assert [row.group for row in found.held_out] == [{}, {"task": "demo"}, {"task": "other"}]
    assert figure(found, "stability") > 0.7
    assert all((row.auroc["stability"].value or 0) > 0.7 for row in found.held_out)
    assert {row.by for row in found.held_out} == {"task"}  # a category each: there is no more to leave out
    with pytest.raises(NotComparableError, match="small has tasks that another run lacks: other"):
        predict([("small", twice(small))], ("large", large))


def test_the_same_tables_give_the_same_bytes_and_item_order_changes_no_figure() -> None:
    small, large = planted(images=30)
    one = predict([("small", small)], ("large", large), draws=50)
    assert predict([("small", small)], ("large", large), draws=50).model_dump_json() == one.model_dump_json()
    order = np.random.default_rng(0).permutation(120)
    block = large.tasks[0]
    moved = large_table(
        (np.array(large.cells[0].score.decode()) > 0.5)[order],
        items=[block.items[i] for i in order],
        clusters=[block.clusters[i] for i in order],
    )
    two = predict([("small", small)], ("large", moved), draws=50)
    for name in ("stability", "agreement", "everything"):
        for metric, estimate in one.predictor(name).metrics.items():
            assert two.predictor(name).metrics[metric].model_dump() == pytest.approx(estimate.model_dump())
    other = predict([("small", small)], ("large", large), draws=50, seed=1)
    assert other.predictor("agreement").metrics["auroc"] == one.predictor("agreement").metrics["auroc"]


def test_of_several_tasks_categories_are_left_out_too() -> None:
    kinds = {"categories": Column.of([("colour", "count")[k % 2] for k in range(240)])}
    small, large = planted()
    tables = []
    for table in (small, large):
        first = table.tasks[0].model_copy(update=kinds)
        other = first.model_copy(update={"task": "other"})
        cells = [*table.cells, *(cell.model_copy(update={"task": "other"}) for cell in table.cells)]
        tables.append(table.model_copy(update={"tasks": [first, other], "cells": cells}))
    found = predict([("small", tables[0])], ("large", tables[1]), draws=2, only=("stability",))
    names = [f"{task} · {kind}" for task in ("demo", "other") for kind in ("colour", "count")]
    groups = [(row.by, *row.group.values()) for row in found.held_out]
    assert groups == [
        ("task",),
        ("task", "demo"),
        ("task", "other"),
        ("category",),
        *(("category", name) for name in names),
    ]
    assert sum(row.errors for row in found.held_out[4:]) == found.held_out[3].errors == found.errors
    titles = {section.title: section for section in prediction_sections(found)}
    assert [row[0] for row in titles["Leave one task out"].rows] == ["demo", "other"]
    assert [row[0] for row in titles["Leave one category out"].rows] == names
    assert all(
        "all together: stability" in titles[f"Leave one {word} out"].below[0] for word in ("task", "category")
    )


def test_one_of_a_kind_is_written_in_the_singular() -> None:
    right = np.arange(60) > 0
    small, _ = planted(images=15)
    block = {"clusters": [f"image{k // 4}" for k in range(60)]}
    found = predict([("small", small)], ("large", large_table(right, **block)), draws=2)
    text = "\n".join(line for section in prediction_sections(found) for line in section.lines)
    assert "1 error, accuracy" in text
    assert "1 error for 6 features" in text
    assert not re.search(r"\b1 (errors|items|images|variants|families)\b", text)


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    """Writes tables by name; returns the paths as text."""

    def write(**tables: Table) -> list[str]:
        for name, table in tables.items():
            (tmp_path / f"{name}.json").write_text(dump_table(table), encoding="utf-8")
        return [str(tmp_path / f"{name}.json") for name in tables]

    return write


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, *words: str) -> None:
    assert run(["predict", *arguments]) == code
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err, captured.err


def test_what_cannot_be_predicted_is_refused_with_its_exit_code(runs: Any, capsys: Any) -> None:
    small, large = planted()
    same = large.model_copy(update={"identity": {**large.identity, "revision": "sha256:small"}})
    served = [t.model_copy(update={"identity": {"model": "openai:x"}}) for t in (small, large)]
    block = large.tasks[0]
    fewer = large_table(
        np.arange(150) % 5 > 0, items=[f"i{k}" for k in range(100, 250)], clusters=["c"] * 150
    )
    others = large_table(np.arange(240) % 5 > 0, items=[f"x{k}" for k in range(240)])
    version = large.model_copy(update={"tasks": [block.model_copy(update={"version": 2})]})
    data = large.model_copy(update={"tasks": [block.model_copy(update={"data_hash": "d1"})]})
    digest = [*block.digests[:-2], "", ""]
    pixels = large.model_copy(update={"tasks": [block.model_copy(update={"digests": digest})]})
    partial = large.model_copy(update={"status": "partial"})
    plain = small.model_copy(update={"cells": small.cells[:1]})
    perfect = large_table(np.ones(240, bool))
    first, *rest = runs(
        small=small,
        large=large,
        same=same,
        served=served[0],
        served2=served[1],
        fewer=fewer,
        others=others,
        version=version,
        data=data,
        pixels=pixels,
        partial=partial,
        plain=plain,
        perfect=perfect,
    )
    at = {Path(path).stem: path for path in [first, *rest]}

    def pair(large: str, small: str = "small") -> list[str]:
        return ["--small", at[small], "--large", at[large]]

    refused(capsys, pair("same"), 4, "are the same weights", "sha256:small")
    refused(capsys, pair("small"), 4, "are the same weights")
    refused(capsys, pair("served2", "served"), 4, "are the same weights (openai:x)")
    refused(capsys, ["--small", first, *pair("large")], 4, "are the same weights")
    refused(capsys, ["--small", first, *pair("large")], 4, "; give every small model once\n")
    refused(capsys, ["--small", at["large"], *pair("large")], 4, "; leave the large model out of --small\n")
    refused(capsys, pair("same"), 4, "; leave --large out to ask how")
    refused(capsys, pair("fewer"), 4, "240 in", "150 in", "140 in common; --common")
    refused(capsys, pair("others"), 4, "0 in common")
    refused(capsys, [*pair("others"), "--common"], 4, "no item in common")
    refused(capsys, pair("version"), 4, "other version: 2 in", "240 items in common")
    refused(capsys, pair("data"), 4, "other data hash: d1 in", "240 items in common")
    refused(capsys, pair("pixels"), 4, "2 of 240 common items have another question", "'i238'")
    refused(capsys, pair("partial"), 4, "partial run", "--allow-partial")
    refused(capsys, pair("large", "plain"), 2, "`vlmbench perturb --model small`")
    refused(capsys, pair("perfect"), 2, "all 240 answers are right")
    refused(capsys, ["--small", first, "--small", at["large"]], 2, "no --large")
    refused(capsys, [*pair("large"), "--folds", "1"], 2, "--folds must be at least 2: got 1")
    refused(capsys, [*pair("large"), "--seed", "-1"], 2, "--seed must be 0 or more: got -1")
    refused(capsys, [*pair("large"), "--format", "xml"], 2, "unknown format 'xml'")
    refused(capsys, [*pair("large"), "--plot", "x.gif"], 2, "must end with .svg, .png, .pdf")
    assert run(["predict", *pair("partial"), "--allow-partial", "--format", "md"]) == 0
    with pytest.raises(UsageError, match="one image"):
        predict([("s", small)], ("l", fewer), common=True)


def test_the_command_prints_draws_and_imports_nothing_heavy(runs: Any, capsys: Any, tmp_path: Path) -> None:
    small, large = runs(**dict(zip(("small", "large"), planted(images=20), strict=True)))
    arguments = ["predict", "--small", small, "--large", large]
    assert run([*arguments, "--format", "json"]) == 0
    printed = Prediction.model_validate_json(capsys.readouterr().out)
    assert printed.kind == "vlmbench-prediction"
    assert len(printed.predictor("stability").curve) == 100
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / name for name in ("one.svg", "two.svg", "three.png")]
    for picture in pictures:
        assert run([*arguments, "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    for word in ("Does stability beat the controls", "Coverage at risk", "errors for 6 features"):
        assert word in text
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    heavy = ("torch", "transformers", "matplotlib")
    script = (
        f"import sys, json\nfrom vlmbench.cli.app import run\ncode = run({arguments!r})\n"
        f"print(json.dumps([code, [n for n in {heavy!r} if n in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == [0, []]
