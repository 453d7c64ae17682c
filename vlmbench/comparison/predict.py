"""Does the stability of small models tell where a large one is right, and does it beat the controls?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from vlmbench.comparison.predicting import Material, Named, read_material
from vlmbench.comparison.prediction import Difference, HeldOut, Prediction, Predictor, Source
from vlmbench.errors import UsageError
from vlmbench.metrics.bootstrap import DRAWS
from vlmbench.metrics.estimate import Ints, distinct, ratio_estimate
from vlmbench.metrics.predict_curves import curve
from vlmbench.metrics.predict_figures import (
    Labels,
    Score,
    auroc_minus,
    auroc_of,
    category_rate,
    score_figures,
)
from vlmbench.metrics.predict_folds import FOLDS, grouped_folds, out_of_fold, out_of_group
from vlmbench.metrics.predict_recipes import DIFFERENCES, Recipe, recipes
from vlmbench.metrics.ranking import within_category_auroc
from vlmbench.schema import Table

HELD_OUT = ("stability", "agreement", "stability_and_probability", "probability")
"""What is shown on tasks or categories that no regression has seen."""


def predict(
    small: Sequence[tuple[str, Table]],
    large: tuple[str, Table] | None = None,
    *,
    common: bool = False,
    allow_partial: bool = False,
    seed: int = 0,
    folds: int = FOLDS,
    draws: int = DRAWS,
    only: Sequence[str] = (),
) -> Prediction:
    """Predicts whether the unperturbed answers of `large` are right (score > 0.5) from tables of `small`.

    (name, table) each. Without `large` the answers of the one small model itself: selective prediction.
    Scores of fitted predictors are out of fold, folds grouped by cluster. `only` these predictors are
    computed, all without it. Raises NotComparableError where the
    tables are not of the same items or small and large are the same weights, UsageError where there is
    nothing to predict.
    """
    if not small:
        raise UsageError("predict needs at least one small model: --small RUN")
    if large is None and len(small) > 1:
        raise UsageError(
            f"{len(small)} small models and no --large: name the run whose answers are predicted"
        )
    if folds < 2:
        raise UsageError(f"--folds must be at least 2: got {folds}")
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more: got {seed}")
    ones = [Named(*one) for one in small]
    target = Named(*large) if large else None
    material = read_material(ones, target, common, allow_partial)
    labels, tasks = _labels(material)
    _refuse_one_class(labels, (target or ones[0]).name)
    names = [one.name for one in ones]
    own = None if target is None else material.probability
    found = recipes(names, material.signals, _kinds(material), own, material.same)
    todo = [recipe for recipe in found if not only or recipe.name in only]
    fold = grouped_folds(labels.cluster, labels.right, folds, seed)
    predictors, scores = [], {}
    for recipe in todo:
        predictor, score = _scored(recipe, labels, fold, seed, draws)
        predictors.append(predictor)
        if score is not None:
            scores[recipe.name] = score
    pairs = [(one, two) for one, two in DIFFERENCES if one in scores and two in scores]
    n = len(labels.right)
    return Prediction(
        small=[
            _source(one, found.calls, found.families)
            for one, found in zip(ones, material.signals, strict=True)
        ],
        large=_source(target) if target else None,
        seed=seed,
        folds=int(fold.max()) + 1,
        draws=draws,
        items={task: material.tasks.count(task) for task in dict.fromkeys(material.tasks)},
        left_out=material.left_out,
        n=n,
        clusters=distinct(labels.cluster),
        errors=int((~labels.right).sum()),
        accuracy=ratio_estimate(labels.right, np.ones(n), labels.cluster),
        predictors=predictors,
        differences=[
            Difference(one=one, two=two, auroc=auroc_minus(scores[one], scores[two], labels))
            for one, two in pairs
        ],
        held_out=_held_out(todo, scores, labels, fold, material, tasks, seed),
        warnings=material.warnings,
    )


def _labels(material: Material) -> tuple[Labels, Ints]:
    """Labels, and the task of every item as a code; sorted names, so that item order changes nothing."""
    codes = [
        np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)
        for names in (material.clusters, _kinds(material), material.tasks)
    ]
    return Labels(material.right, codes[0], codes[1]), codes[2]


def _kinds(material: Material) -> list[str]:
    """The category of every item; two tasks share none."""
    several = len(set(material.tasks)) > 1
    pairs = zip(material.tasks, material.categories, strict=True)
    return [f"{task} · {category}" if several else category for task, category in pairs]


def _refuse_one_class(labels: Labels, name: str) -> None:
    n, right = len(labels.right), int(labels.right.sum())
    if n == 0:
        raise UsageError(
            f"{name}: no item has a scored answer and answers under variants: nothing to predict"
        )
    if right in (0, n):
        raise UsageError(
            f"{name}: all {n} answers are {'right' if right else 'wrong'}: there is nothing to tell apart; "
            "take more items"
        )
    if distinct(labels.cluster) < 2:
        raise UsageError(f"{name}: all {n} items are of one image: no fold can leave it out")


def _scored(
    recipe: Recipe, labels: Labels, fold: Ints, seed: int, draws: int
) -> tuple[Predictor, Score | None]:
    if recipe.missing:
        return Predictor(name=recipe.name, role=recipe.role, fitted=False, missing=recipe.missing), None
    strengths: tuple[float, ...] = ()
    if recipe.features is not None:
        fitted = out_of_fold(recipe.features, labels.right, labels.cluster, fold, seed)
        score, strengths = Score(fitted.score), fitted.strengths
    elif recipe.by_category:
        score = Score(category_rate(labels.right, labels.category), by_category=True)
    else:
        assert recipe.number is not None
        score = Score(recipe.number)
    used = score.used
    predictor = Predictor(
        name=recipe.name,
        role=recipe.role,
        fitted=recipe.features is not None,
        features=1 if recipe.features is None else recipe.features.shape[1],
        strengths=list(strengths),
        metrics=score_figures(score, labels, draws, seed),
        curve=list(curve(score.value[used], labels.right[used])),
    )
    return predictor, score


def _held_out(
    todo: Sequence[Recipe],
    scores: dict[str, Score],
    labels: Labels,
    fold: Ints,
    material: Material,
    tasks: Ints,
    seed: int,
) -> list[HeldOut]:
    """Leave one task out, then one category: of each first all together. What would say the same is not said
    twice: one category per task."""
    rows: list[HeldOut] = []
    several = distinct(tasks) > 1
    if several:
        rows += _left_out("task", tasks, material.tasks, todo, scores, labels, fold, seed)
    kinds = distinct(labels.category)
    if kinds > (distinct(tasks) if several else 1):
        names = _kinds(material)
        rows += _left_out("category", labels.category, names, todo, scores, labels, fold, seed)
    return rows


def _left_out(
    word: Literal["task", "category"],
    group: Ints,
    names: Sequence[str],
    todo: Sequence[Recipe],
    scores: dict[str, Score],
    labels: Labels,
    fold: Ints,
    seed: int,
) -> list[HeldOut]:
    """One group after the other is left out of every training; group, names: [n]."""
    moved: dict[str, Score] = {}
    for recipe in todo:
        if recipe.name not in HELD_OUT or recipe.name not in scores:
            continue
        if recipe.features is None:
            moved[recipe.name] = scores[recipe.name]
        else:
            found = out_of_group(recipe.features, labels.right, labels.cluster, fold, group, seed)
            moved[recipe.name] = Score(found)
    errors = ~labels.right
    together = {
        name: within_category_auroc(score.value, labels.right, group, labels.cluster)
        for name, score in moved.items()
    }
    rows = [HeldOut(by=word, group={}, n=len(errors), errors=int(errors.sum()), auroc=together)]
    for code in range(int(group.max()) + 1):
        mask = group == code
        mine = labels.rows(mask)
        rows.append(
            HeldOut(
                by=word,
                group={word: names[int(np.flatnonzero(mask)[0])]},
                n=int(mask.sum()),
                errors=int(errors[mask].sum()),
                auroc={name: auroc_of(Score(score.value[mask]), mine) for name, score in moved.items()},
            )
        )
    return rows


def _source(one: Named, variants: int = 0, families: Sequence[str] = ()) -> Source:
    return Source(
        name=one.name, model=one.model, revision=one.revision, variants=variants, families=list(families)
    )
