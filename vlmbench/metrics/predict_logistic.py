"""L2 logistic regression by Newton's method, in numpy alone: some dozens of features, thousands of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.metrics.estimate import Bools, Floats

_STEPS = 100
_STEEPEST = 1e-9
"""Largest gradient per item at which the minimum is reached."""
_SLOW = 0.3
"""Share of the gradient that a step may leave before the curvature is computed anew."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and spread of every feature in the training items; missing values stand at the mean."""

    mean: Floats
    spread: Floats

    @classmethod
    def of(cls, features: Floats) -> Scaling:
        """features: [n, d], NaN where missing. What is constant, or never known, has the spread infinity."""
        known = ~np.isnan(features)
        times = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, features, 0.0)
        mean = filled.sum(axis=0) / times
        spread = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(axis=0) / times)
        return cls(mean, np.where(spread > 1e-12, spread, np.inf))

    def apply(self, features: Floats) -> Floats:
        """[n, d]: z-scores; 0 where a value is missing and in columns that tell nothing."""
        scaled: Floats = np.where(np.isnan(features), 0.0, (features - self.mean) / self.spread)
        return scaled


def fit_logistic(features: Floats, label: Bools, strength: float) -> Floats:
    """[d + 1]: intercept and weights that minimise sum(log loss) + |weights|^2 / (2 strength).

    The objective of scikit-learn's LogisticRegression with C = strength: the intercept is not shrunk.
    features: [n, d] without NaN; label: [n], True = positive. All zeros where a class is missing, because
    nothing can be told apart.
    """
    weights: Floats = fit_path(features, label, (strength,))[0]
    return weights


def fit_path(features: Floats, label: Bools, strengths: Sequence[float]) -> Floats:
    """[len(strengths), d + 1]: the solutions of `fit_logistic`, each found from the one before.

    The curvature, which costs d times a gradient, is kept from step to step as long as a step with it takes
    most of the gradient away.
    """
    n, d = features.shape
    found = np.zeros((len(strengths), d + 1))
    if label.all() or not label.any():
        return found
    design = np.concatenate([np.ones((n, 1)), features], axis=1)
    target = label.astype(np.float64)
    weights, curvature = np.zeros(d + 1), None
    for place, strength in enumerate(strengths):
        penalty = np.append(0.0, np.full(d, 1 / strength))
        weights, curvature = _minimum(design, target, penalty, weights, curvature)
        found[place] = weights
    return found


def _minimum(
    design: Floats, target: Floats, penalty: Floats, weights: Floats, curvature: Floats | None
) -> tuple[Floats, Floats | None]:
    """The minimum, and the curvature of the log loss last used."""
    value, gradient, chance = _slope(design, target, penalty, weights)
    inverse, fresh = None, False
    for _ in range(_STEPS):
        if np.abs(gradient).max() <= _STEEPEST * len(target):
            break
        if curvature is None:
            # numpy takes a product with its own transpose at a fraction of the cost of one with another array
            spread = design * np.sqrt(chance * (1 - chance))[:, None]
            curvature, inverse, fresh = spread.T @ spread, None, True
        if inverse is None:
            inverse = np.linalg.inv(curvature + np.diag(penalty + 1e-10))
        step = inverse @ gradient
        size = 1.0
        new = _slope(design, target, penalty, weights - step)
        while fresh and new[0] > value and size > 1e-6:  # far from the minimum a full step overshoots
            size /= 2
            new = _slope(design, target, penalty, weights - size * step)
        slower = np.abs(new[1]).max() > _SLOW * np.abs(gradient).max()
        if new[0] > value:
            if fresh:
                break
            curvature = None  # an old curvature led uphill: the step is not taken
            continue
        weights = weights - size * step
        value, gradient, chance = new
        fresh = False
        if slower:
            curvature = None
    return weights, curvature


def log_loss(features: Floats, label: Bools, weights: Floats) -> float:
    """Sum over the items of -log(probability of their label)."""
    return float(np.logaddexp(0.0, np.where(label, -1.0, 1.0) * (weights[0] + features @ weights[1:])).sum())


def _slope(design: Floats, target: Floats, penalty: Floats, weights: Floats) -> tuple[float, Floats, Floats]:
    """(objective, its gradient [d + 1], chance of every item [n])."""
    line = design @ weights
    softplus = np.logaddexp(0.0, line)
    shrunk = penalty * weights
    chance = np.exp(line - softplus)
    value = float((softplus - target * line).sum() + (shrunk * weights).sum() / 2)
    return value, design.T @ (chance - target) + shrunk, chance
