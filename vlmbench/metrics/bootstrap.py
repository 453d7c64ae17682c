"""Cluster bootstrap: all records of a resampled cluster together, every metric from the same draws.

A metric is a ratio of sums, so one replicate of all metrics is one row of cluster counts times the matrix of
cluster sums, and a chunk of replicates is one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlmbench.metrics.estimate import (
    Floats,
    Ints,
    Ratio,
    at_bound,
    clean,
    cluster_sums,
    linearise,
    paired,
    paired_difference,
    ratio_estimate,
)
from vlmbench.schema import Estimate

DRAWS = 5000
_CHUNK = 2_000_000
"""Elements of one block of weights: 16 MB in each of its three forms, whatever the number of clusters."""


class Bootstrap(NamedTuple):
    """Standard deviation and 2.5 / 97.5 percentiles of the replicates, each [k]; NaN where undefined."""

    se: Floats
    low: Floats
    high: Floats


def multinomial_weights(groups: int, b: int, seed: int) -> Iterator[Floats]:
    """How often each of `groups` clusters is drawn in each of `b` resamples, in blocks [rows, groups].

    Draws with replacement counted by bincount: the same law as rng.multinomial in half the time.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(groups, 1))
    for start in range(0, b, rows):
        size = min(rows, b - start)
        draws = rng.integers(0, groups, size=(size, groups))
        draws += np.arange(size)[:, None] * groups
        counts = np.bincount(draws.ravel(), minlength=size * groups)
        yield counts.reshape(size, groups).astype(np.float64)


def bootstrap_sums(columns: Floats, cluster: npt.ArrayLike, b: int = DRAWS, seed: int = 0) -> Floats:
    """Replicates of the column sums: [n, k] -> [b, k]. Clusters whose rows are all 0 are not drawn.

    Any function of sums can be read off: ratios, differences, interactions; with one column per model a
    second product with weights over models makes it two-way.
    """
    occupied = (columns != 0).any(axis=1)
    sums = cluster_sums(columns[occupied], np.asarray(cluster)[occupied])
    if len(sums) == 0:
        return np.zeros((b, columns.shape[1]))
    return np.concatenate([weights @ sums for weights in multinomial_weights(len(sums), b, seed)])


def two_way_bootstrap(
    num: npt.ArrayLike, den: npt.ArrayLike, cluster: npt.ArrayLike, b: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over models of each model's ratio, clusters and models drawn again independently.

    num, den [n, k] for k models; after the two-way bootstrap of crossed effects (Owen 2007), which errs on
    the wide side. Models without a denominator do not count. Fewer than two models: the cluster bootstrap's.
    With few models the interval says little of others: it holds for models like these.
    """
    top, bottom = clean(num, den)
    used = bottom.sum(axis=0) > 0
    top, bottom = top[:, used], bottom[:, used]
    k = top.shape[1]
    n = int((bottom != 0).any(axis=1).sum())
    if not k:
        return Estimate(value=None, n=n)
    value = float((top.sum(axis=0) / bottom.sum(axis=0)).mean())
    sums = bootstrap_sums(np.concatenate([top, bottom], axis=1), cluster, b, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = sums[:, :k] / sums[:, k:]
    weights = np.random.default_rng((seed, k)).multinomial(k, np.full(k, 1 / k), size=b)
    replicates = np.nansum(ratios * weights, axis=1) / k
    if _groups(bottom, cluster).min() < 2:
        return Estimate(value=value, n=n)
    low, high = np.percentile(replicates, (2.5, 97.5))
    return Estimate(value=value, se=float(replicates.std(ddof=1)), low=float(low), high=float(high), n=n)


def cluster_bootstrap(
    num: npt.ArrayLike, den: npt.ArrayLike, cluster: npt.ArrayLike, b: int = DRAWS, seed: int = 0
) -> Bootstrap:
    """Percentile intervals of k ratios at once. num, den: [n, k]; NaN and den = 0 do not count.

    A ratio whose data lie in fewer than two clusters, and a replicate without denominator, is NaN.
    """
    top, bottom = clean(num, den)
    k = top.shape[1]
    sums = bootstrap_sums(np.concatenate([top, bottom], axis=1), cluster, b, seed)
    return _percentiles(_ratio(sums[:, :k], sums[:, k:]), _groups(bottom, cluster))


def paired_bootstrap(
    num_a: npt.ArrayLike,
    den_a: npt.ArrayLike,
    num_b: npt.ArrayLike,
    den_b: npt.ArrayLike,
    cluster: npt.ArrayLike,
    b: int = DRAWS,
    seed: int = 0,
) -> Bootstrap:
    """The same for k differences ratio a - ratio b, both sides from the same draws. Arrays [n, k]."""
    columns = paired(num_a, den_a, num_b, den_b)
    sums = bootstrap_sums(np.concatenate(columns, axis=1), cluster, b, seed)
    top_a, bottom_a, top_b, bottom_b = np.split(sums, 4, axis=1)
    return _percentiles(_ratio(top_a, bottom_a) - _ratio(top_b, bottom_b), _groups(columns[1], cluster))


def estimate_all(
    ratios: Mapping[str, Ratio], cluster: npt.ArrayLike, b: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Every ratio with its analytic error, or with b > 0 all of them with the bootstrap of the same draws.

    A value exactly at an end of its range keeps Wilson's interval: its replicates are all equal.
    """
    estimates = {
        name: ratio_estimate(ratio.num, ratio.den, cluster, ratio.bound) for name, ratio in ratios.items()
    }
    if not b or not ratios:
        return estimates
    num = np.stack([ratio.num for ratio in ratios.values()], axis=1)
    den = np.stack([ratio.den for ratio in ratios.values()], axis=1)
    boot = cluster_bootstrap(num, den, cluster, b, seed)
    for k, (name, ratio) in enumerate(ratios.items()):
        estimate = estimates[name]
        if estimate.value is not None and not at_bound(estimate.value, ratio.bound):
            estimates[name] = with_bootstrap(estimate, boot, k)
    return estimates


def difference_all(
    pairs: Mapping[str, tuple[Ratio, Ratio]], cluster: npt.ArrayLike, b: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Every difference ratio a - ratio b, paired by item; b and seed as in `estimate_all`."""
    estimates = {
        name: paired_difference(one.num, one.den, two.num, two.den, cluster, one.bound)
        for name, (one, two) in pairs.items()
    }
    if not b or not pairs:
        return estimates
    columns = [
        np.stack([getattr(pair[side], part) for pair in pairs.values()], axis=1)
        for side in (0, 1)
        for part in ("num", "den")
    ]
    boot = paired_bootstrap(columns[0], columns[1], columns[2], columns[3], cluster, b, seed)
    for k, (name, (one, two)) in enumerate(pairs.items()):
        top_a, bottom_a, top_b, bottom_b = paired(one.num, one.den, two.num, two.den)
        values = linearise(top_a, bottom_a)[0], linearise(top_b, bottom_b)[0]
        if not any(at_bound(value, ratio.bound) for value, ratio in zip(values, (one, two), strict=True)):
            estimates[name] = with_bootstrap(estimates[name], boot, k)
    return estimates


def with_bootstrap(estimate: Estimate, boot: Bootstrap, k: int = 0) -> Estimate:
    """`estimate` with error and interval of column k; unchanged where the bootstrap has none."""
    if np.isnan(boot.se[k]):
        return estimate
    update = {"se": float(boot.se[k]), "low": float(boot.low[k]), "high": float(boot.high[k])}
    return estimate.model_copy(update=update)


def _ratio(num: Floats, den: Floats) -> Floats:
    return np.divide(num, den, out=np.full_like(num, np.nan), where=den != 0)


def _groups(den: Floats, cluster: npt.ArrayLike) -> Ints:
    """[k]: clusters in which each column has a denominator."""
    occupied = cluster_sums((den != 0).astype(np.float64), cluster) > 0
    groups: Ints = np.count_nonzero(occupied, axis=0).astype(np.int64)
    return groups


def _percentiles(replicates: Floats, groups: Ints) -> Bootstrap:
    k = replicates.shape[1]
    result = Bootstrap(np.full(k, np.nan), np.full(k, np.nan), np.full(k, np.nan))
    for j in np.flatnonzero(groups > 1):
        column = replicates[:, j]
        column = column[~np.isnan(column)]
        if len(column) > 1:
            result.se[j] = column.std(ddof=1)
            result.low[j], result.high[j] = np.quantile(column, [0.025, 0.975])
    return result
