"""Does a family of perturbations change accuracy: McNemar's b and c, p, and Holm over the families."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.significance import Significance, compare_scores, holm, sign_flip
from vlmbench.schema import Estimate, Summary

METRICS = {
    "accuracy_p": "two-sided p of no accuracy_change, from the test that the summary's `test` names: McNemar "
    "(exact, mid-p from 25 discordant pairs on); sign flips of whole clusters where items share one or have "
    "several variants; the paired bootstrap for soft scores of single variants",
    "accuracy_p_holm": "the same after Holm over the families of the model",
}
COUNTS = {
    "b": "scored pairs: right on the original, wrong under the variant",
    "c": "scored pairs: wrong on the original, right under the variant",
}


def with_tests(outcomes: Outcomes, families: Sequence[tuple[Summary, Sequence[int]]]) -> list[Summary]:
    """The families' summaries with METRICS, COUNTS and `test`; those without scored pairs as they are.

    b and c are of pairs, also where the test weighs whole clusters.
    """
    tests = [_test(outcomes, columns) for _, columns in families]
    p = np.array([np.nan if test is None else test.p for test in tests])
    adjusted = holm(p)
    found = []
    for (summary, columns), test, after in zip(families, tests, adjusted, strict=True):
        if test is None:
            found.append(summary)
            continue
        scored = outcomes.scored_pairs[:, list(columns)]
        before = outcomes.correct[:, outcomes.base[list(columns)]]
        now = outcomes.correct[:, list(columns)]
        counts = {"b": int((scored & before & ~now).sum()), "c": int((scored & ~before & now).sum())}
        n = int(scored.any(axis=1).sum())
        figures = {
            "accuracy_p": Estimate(value=float(test.p), n=n),
            "accuracy_p_holm": Estimate(value=float(after), n=n),
        }
        update = {"metrics": {**summary.metrics, **figures}, "counts": {**summary.counts, **counts}}
        found.append(summary.model_copy(update={**update, "test": test.method}))
    return found


def _test(outcomes: Outcomes, columns: Sequence[int]) -> Significance | None:
    chosen = list(columns)
    scored = outcomes.scored_pairs[:, chosen]
    if not scored.any():
        return None
    before, now = outcomes.score[:, outcomes.base[chosen]], outcomes.score[:, chosen]
    if len(chosen) == 1:
        known = scored[:, 0]
        return compare_scores(
            np.where(known, before[:, 0], np.nan), np.where(known, now[:, 0], np.nan), outcomes.cluster
        )
    total = np.where(scored, now - before, 0.0).sum(axis=1)
    return sign_flip(np.where(scored.any(axis=1), total, np.nan), outcomes.cluster)
