"""Fleiss' kappa of a model's answers to one item under all variants, where the labels are closed.

Labels are closed where they mean the same for all items of a group and are few. They mean the same where the
answer is a text (yes, no, red, 3), or an option's index into a list that all items have; an index into lists
of each item's own is none. They are few where at most LABELS different answers were given, with ITEMS_EACH
items or more for each: free text has more, and kappa of fewer items says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.agreement import pairwise_agreement
from vlmbench.metrics.bootstrap import percentiles, with_bootstrap
from vlmbench.metrics.estimate import Floats, distinct, from_influence, not_certain
from vlmbench.metrics.outcomes import Bools, Ints, Outcomes
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples

LABELS = 20
"""Different answers of a closed group, at most."""
ITEMS_EACH = 5
"""Items per different answer, at least."""

METRICS = {
    "fleiss_kappa": "agreement among all answers to an item, the original included, beyond what answers "
    "drawn from all items would have; where labels are closed, and absent elsewhere",
}


def kappa_metrics(
    outcomes: Outcomes,
    columns: Ints,
    label: Ints,
    option_list: Ints,
    mask: Bools | None = None,
    resamples: Resamples | None = None,
) -> dict[str, Estimate]:
    """METRICS over the variants among `columns` and their references; empty where labels are not closed.

    label [n, m]: codes that mean the same in every row of one option list; option_list [n]: which list.
    An item counts once for each reference, as in the other figures of whole items.
    """
    rows = np.ones(outcomes.n, bool) if mask is None else mask
    columns = columns[outcomes.is_variant[columns]]
    if not len(columns) or distinct(option_list[rows]) != 1:
        return {}
    references = np.unique(outcomes.base[columns])
    blocks = [np.append(columns[outcomes.base[columns] == r], r) for r in references]
    widest = max(map(len, blocks))
    labels, given = (
        np.concatenate([_wide(array[rows][:, block], widest) for block in blocks])
        for array in (label, outcomes.parsed)
    )
    given = given.astype(bool)
    used = given.sum(axis=1) > 1
    met = distinct(labels[given & used[:, None]])
    if not met or met > LABELS or used.sum() < ITEMS_EACH * met:
        return {}
    return {
        "fleiss_kappa": kappa_estimate(labels, given, np.tile(outcomes.cluster[rows], len(blocks)), resamples)
    }


def kappa_estimate(label: Ints, given: Bools, cluster: Ints, resamples: Resamples | None = None) -> Estimate:
    """`agreement.fleiss_kappa` of [n, m] answers with its error, clustered [n] and linearised (delta method).

    No value where all answers are one label. A kappa of exactly 1 has an interval too: see `not_certain`.
    """
    used = given.sum(axis=1) > 1
    counted = given & used[:, None]
    agreement = np.where(used, np.nan_to_num(pairwise_agreement(label, counted)), 0.0)
    item, column = np.nonzero(counted)
    names, code = np.unique(label[item, column], return_inverse=True)
    times = np.zeros((len(label), len(names)))
    np.add.at(times, (item, code), 1.0)
    n, answers = int(used.sum()), times.sum()
    share = times.sum(axis=0) / max(answers, 1.0)
    chance = float(share @ share)
    if not n or len(names) < 2:
        return Estimate(value=None, n=n)
    observed = float(agreement.sum() / n)
    value = (observed - chance) / (1 - chance)
    psi_observed = np.where(used, agreement - observed, 0.0) / n
    psi_chance = 2 * (times @ share - times.sum(axis=1) * chance) / answers
    psi = psi_observed / (1 - chance) - psi_chance * (1 - observed) / (1 - chance) ** 2
    found = from_influence(value, psi, cluster, used, bound=None)
    found = not_certain(found, cluster, used, 1 / (1 - chance))
    if resamples is not None:
        sums = resamples.sums(np.column_stack([agreement, used, times]), cluster)
        groups = np.array([distinct(cluster[used])])
        found = with_bootstrap(found, percentiles(_kappas(sums)[:, None], groups))
    if found.low is None or found.high is None:
        return found
    return found.model_copy(update={"low": max(found.low, -1.0), "high": min(found.high, 1.0)})


def _kappas(sums: Floats) -> Floats:
    """[b] of replicates [b, 2 + labels]: agreement, items, and how often each label; NaN where undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = sums[:, 0] / sums[:, 1]
        chance = ((sums[:, 2:] / sums[:, 2:].sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
        kappas: Floats = np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
    return kappas


def _wide(array: Ints | Bools, width: int) -> Ints:
    """Columns of zeros up to the width of the widest block."""
    return np.pad(array, ((0, 0), (0, width - array.shape[1]))).astype(np.int64)
