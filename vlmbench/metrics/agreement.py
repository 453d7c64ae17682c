"""How far the several answers to one item agree: per-item figures over an answer matrix [n, m].

Answers are integer codes that need only be comparable within a row; `given` [n, m] marks those that exist.
"""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.outcomes import Bools, Floats, Ints


def answer_counts(answer: Ints, given: Bools) -> tuple[Ints, Floats]:
    """The distinct answers of every item: (item [u], how many times [u]), u the total of distinct answers."""
    item, column = np.nonzero(given)
    if not len(item):
        return np.zeros(0, np.int64), np.zeros(0)
    codes = answer[item, column]
    base = int(codes.min())
    width = int(codes.max()) - base + 1
    keys, times = np.unique(item * width + (codes - base), return_counts=True)
    return keys // width, times.astype(np.float64)


def pairwise_agreement(answer: Ints, given: Bools) -> Floats:
    """[n]: share of the pairs of answers that are equal, sum_a c_a (c_a - 1) / (K (K - 1)); NaN where K < 2.

    Unbiased at every K for the chance that two answers agree, unlike the share of the modal answer, which at
    K = 2 cannot be below one half.
    """
    n = len(answer)
    item, times = answer_counts(answer, given)
    equal = np.bincount(item, weights=times * (times - 1), minlength=n)
    total = given.sum(axis=1).astype(np.float64)
    agreement: Floats = np.divide(equal, total * (total - 1), out=np.full(n, np.nan), where=total > 1)
    return agreement


def answer_entropy(answer: Ints, given: Bools) -> Floats:
    """[n]: -sum_a p_a log p_a in nats, p_a = c_a / K; NaN where K < 2.

    The plug-in value, biased low at small K: compare it at equal K only. Rounded to 12 decimals, because two
    items with the same counts in another order must tie in a ranking.
    """
    n = len(answer)
    item, times = answer_counts(answer, given)
    total = given.sum(axis=1).astype(np.float64)
    share = times / total[item]
    entropy = np.bincount(item, weights=-share * np.log(share), minlength=n)
    return np.where(total > 1, np.round(entropy, 12) + 0.0, np.nan)


def any_flip_at(k: int, total: Floats, flips: Floats) -> Floats:
    """[n]: chance that k of an item's K variants, drawn without replacement, hold one or more of its f flips.

    1 - C(K - f, k) / C(K, k), as a product of k factors (K - f - j) / (K - j), which neither overflows nor
    cancels. NaN where K < k. total = K [n], flips = f [n].
    """
    if k < 1:
        raise ValueError(f"k must be at least 1: got {k}")
    total = np.asarray(total, np.float64)
    enough = total >= k
    none = np.ones_like(total)
    for j in range(k):
        none *= np.maximum(total - flips - j, 0.0) / np.where(enough, total - j, 1.0)
    return np.where(enough, 1.0 - none, np.nan)


def fleiss_kappa(label: Ints, given: Bools) -> float:
    """Agreement beyond chance, (P - P_e) / (1 - P_e), for labels that mean the same in every row.

    P is the mean pairwise agreement of the items with at least two answers, P_e the chance that two of their
    answers, drawn from all items, are equal. Items may have different numbers of answers (Fleiss 1971 with
    the usual extension). NaN where there is nothing to compare or only one label.
    """
    usable = given & (given.sum(axis=1, keepdims=True) > 1)
    if not usable.any():
        return float("nan")
    observed = np.nanmean(pairwise_agreement(label, usable)[usable.any(axis=1)])
    _, times = np.unique(label[usable], return_counts=True)
    chance = float(((times / times.sum()) ** 2).sum())
    return float((observed - chance) / (1 - chance)) if chance < 1 else float("nan")
