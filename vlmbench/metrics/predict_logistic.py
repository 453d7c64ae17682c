"""L2 logistic regression of scikit-learn, and z-scores that know of missing values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmbench.errors import UsageError
from vlmbench.metrics.estimate import Bools, Floats


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

    scikit-learn's LogisticRegression with C = strength: the intercept is not shrunk. features: [n, d] without
    NaN; label: [n], True = positive. All zeros where a class is missing, because nothing can be told apart.
    Raises UsageError without scikit-learn.
    """
    weights: Floats = fit_path(features, label, (strength,))[0]
    return weights


def fit_path(features: Floats, label: Bools, strengths: Sequence[float]) -> Floats:
    """[len(strengths), d + 1]: the solutions of `fit_logistic`, each found from the one before."""
    found = np.zeros((len(strengths), features.shape[1] + 1))
    if label.all() or not label.any():
        return found
    model = _regression()
    for place, strength in enumerate(strengths):
        model.set_params(C=strength).fit(features, label)
        found[place] = np.append(model.intercept_, model.coef_)
    return found


def _regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UsageError('predict needs scikit-learn: pip install "vlmbench[predict]"') from None
    # dozens of features: second-order steps reach the minimum in a few passes
    return LogisticRegression(solver="newton-cholesky", tol=1e-8, warm_start=True)


def log_loss(features: Floats, label: Bools, weights: Floats) -> float:
    """Sum over the items of -log(probability of their label)."""
    return float(np.logaddexp(0.0, np.where(label, -1.0, 1.0) * (weights[0] + features @ weights[1:])).sum())
