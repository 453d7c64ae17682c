"""Out-of-fold scores: every item is scored by a regression that has seen no item of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.estimate import Bools, Floats, Ints
from vlmbench.metrics.predict_logistic import Scaling, fit_logistic, fit_path, log_loss

FOLDS = 10
INNER = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""C of the regression, from hardly any weight to hardly any penalty; inner folds choose."""


def grouped_folds(cluster: Ints, label: Bools, folds: int, seed: int) -> Ints:
    """[n]: the fold of every item in [0, folds), or [0, clusters) where there are fewer.

    A cluster is never split. Clusters in seeded order, those with most errors and then items first, each to
    the fold with fewest errors, or fewest items where the cluster has no error: base rates that differ
    between folds would enter every score, because what is held out is missing from the training items.
    Depends on the codes of the clusters and not on the order of the items.
    """
    _, place, size = np.unique(cluster, return_inverse=True, return_counts=True)
    errors = np.bincount(place, weights=~label).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.lexsort((-size[order], -errors[order]))]
    fold_of = np.zeros(len(size), dtype=np.int64)
    held = np.zeros((2, min(folds, len(size))), dtype=np.int64)
    for group in order.tolist():
        by = held if errors[group] else held[1:]
        fold = np.lexsort(by[::-1])[0]
        fold_of[group] = fold
        held[:, fold] += errors[group], size[group]
    found: Ints = fold_of[place]
    return found


@dataclass(frozen=True, eq=False)
class Fitted:
    """score [n]: larger = more probably right, in [0, 1]; strengths: the C that each fold chose."""

    score: Floats
    strengths: tuple[float, ...]


def out_of_fold(features: Floats, label: Bools, cluster: Ints, fold: Ints, seed: int) -> Fitted:
    """Scores [n] of items that their regression has not seen; features [n, d] with NaN where missing.

    z-scores and C come from the training items alone: C is the one of STRENGTHS with the smallest log loss
    over INNER grouped folds of them, the smaller of equals. See `held_out_score` for the scale.
    """
    score, strengths = np.full(len(label), np.nan), []
    for number in range(int(fold.max()) + 1):
        out = fold == number
        chosen = choose_strength(features[~out], label[~out], cluster[~out], seed)
        score[out] = held_out_score(features[~out], label[~out], features[out], chosen)
        strengths.append(chosen)
    return Fitted(score, tuple(strengths))


def out_of_group(features: Floats, label: Bools, cluster: Ints, fold: Ints, group: Ints, seed: int) -> Floats:
    """Scores [n] by regressions that have seen neither the item's group (task, category) nor its cluster.

    Only C is chosen once per group, on all items of the other groups. NaN where nothing is left to train on.
    """
    score = np.full(len(label), np.nan)
    for held in np.unique(group):
        others = group != held
        if not others.any():
            continue
        chosen = choose_strength(features[others], label[others], cluster[others], seed)
        for number in np.unique(fold[~others]):
            train, out = others & (fold != number), ~others & (fold == number)
            if train.any():
                score[out] = held_out_score(features[train], label[train], features[out], chosen)
    return score


def held_out_score(train: Floats, label: Bools, test: Floats, strength: float) -> Floats:
    """[m]: share of the training items whose linear score is below that of a test item, ties half.

    Folds are ranked together, so their scores need one scale. Log odds would not do: their spread hangs on C,
    and their intercept is the base rate of the training items, low where the fold held out has many right
    answers, which ranks noise below one half (simulated with six noisy flips: AUROC .46, by share .48 to
    .50; with folds that are not balanced by label .40).
    """
    scaling = Scaling.of(train)
    seen = scaling.apply(train)
    weights = fit_logistic(seen, label, strength)[1:]
    # rounded: equal items must tie although sums of floats depend on their order
    known = np.sort(np.round(seen @ weights, 10))
    line = np.round(scaling.apply(test) @ weights, 10)
    below, upto = np.searchsorted(known, line, "left"), np.searchsorted(known, line, "right")
    score: Floats = (below + upto) / (2 * len(known))
    return score


def choose_strength(
    features: Floats, label: Bools, cluster: Ints, seed: int, strengths: Sequence[float] = STRENGTHS
) -> float:
    """The C whose regressions lose least on inner folds, grouped by cluster."""
    fold = grouped_folds(cluster, label, INNER, seed)
    lost = np.zeros(len(strengths))
    for number in range(int(fold.max()) + 1 if fold.max() > 0 else 0):
        out = fold == number
        scaling = Scaling.of(features[~out])
        seen, unseen = scaling.apply(features[~out]), scaling.apply(features[out])
        for place, weights in enumerate(fit_path(seen, label[~out], strengths)):
            lost[place] += log_loss(unseen, label[out], weights)
    return strengths[int(np.argmin(lost))]
