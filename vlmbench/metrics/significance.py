"""Tests of a difference: McNemar, sign flips over clusters, paired bootstrap, and Holm's correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlmbench.distributions import fair_coins
from vlmbench.metrics.bootstrap import DRAWS, bootstrap_sums
from vlmbench.metrics.estimate import Floats, cluster_sums

EXACT_BELOW = 25
_ENUMERATE = 14
"""Up to 2^14 sign patterns are listed; beyond that they are drawn."""

Method = Literal["mcnemar-exact", "mcnemar-mid-p", "sign-flip-exact", "sign-flip", "paired-bootstrap"]


@dataclass(frozen=True)
class Significance:
    """A two-sided p value. b, c: items that only the first, only the second side has right; -1 unknown."""

    method: Method
    p: float
    b: int = -1
    c: int = -1


def mcnemar(b: int, c: int) -> Significance:
    """Whether b of b + c discordant pairs differs from one half.

    Exact binomial where b + c < 25; above, its mid-p version, which keeps the level where the exact test
    is conservative and needs no continuity correction (Fagerland, Lydersen, Laake 2013). p = 1 at b + c = 0.
    """
    if b < 0 or c < 0:
        raise ValueError(f"b and c are counts: got {b} and {c}")
    n, fewer = b + c, min(b, c)
    if n == 0:
        return Significance("mcnemar-exact", 1.0, b, c)
    law = fair_coins(n)
    tail = float(law[: fewer + 1].sum())
    if n < EXACT_BELOW:
        return Significance("mcnemar-exact", min(1.0, 2 * tail), b, c)
    return Significance("mcnemar-mid-p", min(1.0, 2 * tail - float(law[fewer])), b, c)


def discordant(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> tuple[int, int]:
    """(b, c) of two columns of 1 / 0 / NaN: only a right, only b right; NaN on either side is left out."""
    a, b = np.asarray(correct_a, np.float64), np.asarray(correct_b, np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    one, two = a[both] > 0.5, b[both] > 0.5
    return int((one & ~two).sum()), int((~one & two).sum())


def sign_flip(
    difference: npt.ArrayLike, cluster: npt.ArrayLike, draws: int = 10_000, seed: int = 0
) -> Significance:
    """Whether sum(difference [n]) is 0, by flipping the sign of whole clusters. NaN does not count.

    Valid for clustered and for soft differences. All 2^G patterns where at most 14 clusters differ from 0,
    else `draws` of them with p = (1 + as extreme) / (1 + draws).
    """
    values = np.asarray(difference, np.float64)
    used = ~np.isnan(values)
    sums = cluster_sums(values[used][:, None], np.asarray(cluster)[used])[:, 0]
    sums = sums[sums != 0]
    groups = len(sums)
    if groups == 0:
        return Significance("sign-flip-exact", 1.0)
    observed = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    if groups <= _ENUMERATE:
        patterns = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
        return Significance("sign-flip-exact", float((np.abs((1 - 2 * patterns) @ sums) >= observed).mean()))
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // groups)
    extreme = 0
    for start in range(0, draws, rows):
        signs = rng.integers(0, 2, size=(min(rows, draws - start), groups), dtype=np.int8)
        extreme += int((np.abs((1.0 - 2.0 * signs) @ sums) >= observed).sum())
    return Significance("sign-flip", (1 + extreme) / (1 + draws))


def bootstrap_test(
    difference: npt.ArrayLike, cluster: npt.ArrayLike, b: int = DRAWS, seed: int = 0
) -> Significance:
    """Whether the mean of difference [n] is 0: twice the smaller share of replicates on a side of 0."""
    values = np.asarray(difference, np.float64)
    used = ~np.isnan(values)
    sums = bootstrap_sums(values[used][:, None], np.asarray(cluster)[used], b, seed)[:, 0]
    side = min(int((sums <= 0).sum()), int((sums >= 0).sum()))
    return Significance("paired-bootstrap", min(1.0, 2 * (1 + side) / (1 + b)))


def compare_scores(
    score_a: npt.ArrayLike, score_b: npt.ArrayLike, cluster: npt.ArrayLike, seed: int = 0
) -> Significance:
    """The test that fits paired scores [n]: McNemar for 0/1 scores of independent items, sign flips where
    items share clusters, the paired bootstrap for soft scores. b and c are given wherever scores are 0/1."""
    a, b = np.asarray(score_a, np.float64), np.asarray(score_b, np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b, codes = a[both], b[both], np.asarray(cluster)[both]
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        return bootstrap_test(a - b, codes, seed=seed)
    only_a, only_b = discordant(a, b)
    if len(np.unique(codes)) == len(codes):
        return mcnemar(only_a, only_b)
    found = sign_flip(a - b, codes, seed=seed)
    return Significance(found.method, found.p, only_a, only_b)


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's adjusted p values [k], in the order given; NaN stays NaN and is no test (Holm 1979)."""
    values = np.asarray(p, np.float64)
    adjusted = np.full(values.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(values))
    order = tests[np.argsort(values[tests], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted
