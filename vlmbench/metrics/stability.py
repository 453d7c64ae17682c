"""Does the model keep its answer: flip rates, AnyFlip, agreement, transitions, and what stability is worth.

Definitions follow "Questioning the Stability of Visual Question Answering" (arXiv 2511.11206) where it has
one. A figure over several conditions pools pairs (item, variant). Figures of whole items (AnyFlip, agreement,
stable items) are taken per item AND reference condition, so that pooling `shift` over two pruners asks of
each pruned model whether it keeps its own answer.

METRICS says what each name means; every one is a ratio of sums with a clustered interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.agreement import answer_entropy, any_flip_at, pairwise_agreement
from vlmbench.metrics.bootstrap import difference_all, estimate_all
from vlmbench.metrics.estimate import Ratio
from vlmbench.metrics.outcomes import Bools, Floats, Ints, Outcomes
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples

KS = (2, 5, 10)
"""The k of AnyFlip@k; those larger than the number of variants at hand are left out."""

METRICS = {
    "accuracy": "mean score over the records that count; soft scores enter as they are",
    "accuracy_change": "mean score of the variants minus that of their references, same pairs",
    "flip_rate": "share of (item, variant) pairs with two different canonical answers",
    "state_change_rate": "share of pairs whose states differ (one side unparsed, refused or empty)",
    "stay_correct": "share of scored pairs: both correct (score > 0.5), same answer",
    "correct_to_correct": "share of scored pairs: both correct, different answers",
    "correct_to_wrong": "share of scored pairs, equal states: correct, then wrong",
    "wrong_to_correct": "share of scored pairs, equal states: wrong, then correct",
    "wrong_to_wrong": "share of scored pairs: both wrong, different answers; invisible to accuracy",
    "stay_wrong": "share of scored pairs, equal states: both wrong, no different answer",
    "any_flip": "share of items with at least one flip; grows with the number of variants",
    "any_flip@k": "the same for k variants drawn from the item's K; items with K < k left out, counted",
    "agreement": "mean over items of the share of equal pairs among all answers, the original included",
    "entropy": "mean over items of the entropy of the answers, nats",
    "accuracy_stable": "mean original score of the items that kept answer and state under every variant",
    "accuracy_unstable": "the same for items with a flip or a change of state",
    "errors_stable_share": "share of the wrong original answers that no variant changes",
    "excess_flip_rate": "flip rate minus that of the repeats, over the items that have both",
    "excess_any_flip@k": "AnyFlip@k minus that of the repeats at the same k",
}


@dataclass(frozen=True)
class Group:
    """The figures of a group of conditions, with the counts they rest on."""

    metrics: dict[str, Estimate]
    counts: dict[str, int]


def record_ratios(outcomes: Outcomes, columns: Ints) -> dict[str, Ratio]:
    """Figures of single records: accuracy. Empty where nothing has a score."""
    scored = outcomes.scored[:, columns]
    if not scored.any():
        return {}
    score = np.where(scored, outcomes.score[:, columns], 0.0)
    return {"accuracy": Ratio(score.sum(axis=1), _sum(scored))}


def pair_ratios(outcomes: Outcomes, columns: Ints) -> dict[str, Ratio]:
    """Figures of (item, variant) pairs, pooled over the variants among `columns`.

    The six transitions and the changes of state add up to all scored pairs: a change of state is its own
    transition, so that correct_to_wrong holds wrong answers and never missing ones.
    """
    columns = columns[outcomes.is_variant[columns]]
    if not len(columns):
        return {}
    pairs = _sum(outcomes.pairs[:, columns])
    flipped, changed = outcomes.flipped[:, columns], outcomes.state_changed[:, columns]
    ratios = {"flip_rate": Ratio(_sum(flipped), pairs), "state_change_rate": Ratio(_sum(changed), pairs)}
    scored = outcomes.scored_pairs[:, columns]
    if scored.any():
        before, after = outcomes.correct[:, outcomes.base[columns]], outcomes.correct[:, columns]
        total, kept = _sum(scored), scored & ~changed
        transitions = {
            "stay_correct": before & after & ~flipped,
            "correct_to_correct": before & after & flipped,
            "correct_to_wrong": before & ~after,
            "wrong_to_correct": ~before & after,
            "wrong_to_wrong": ~before & ~after & flipped,
            "stay_wrong": ~before & ~after & ~flipped,
        }
        ratios |= {name: Ratio(_sum(kept & cases), total) for name, cases in transitions.items()}
    return ratios


def item_ratios(
    outcomes: Outcomes, columns: Ints, ks: Sequence[int] = KS
) -> tuple[dict[str, Ratio], dict[str, int]]:
    """Figures of items, per reference among `columns` and summed: (ratios, counts)."""
    columns = columns[outcomes.is_variant[columns]]
    total = _Totals(outcomes.n)
    widest = 0
    for reference in np.unique(outcomes.base[columns]):
        block = columns[outcomes.base[columns] == reference]
        pairs = _sum(outcomes.pairs[:, block])
        flips = _sum(outcomes.flipped[:, block])
        some = pairs > 0
        widest = max(widest, len(block))
        total.add("any_flip", flips > 0, some)
        for k in ks:
            if k <= len(block):
                total.add(f"any_flip@{k}", any_flip_at(k, pairs, flips), pairs >= k)
                total.count(f"any_flip@{k}_left_out", some & (pairs < k))

        together = np.append(block, reference)
        answer, given = outcomes.answer[:, together], outcomes.parsed[:, together]
        for name, figure in (
            ("agreement", pairwise_agreement(answer, given)),
            ("entropy", answer_entropy(answer, given)),
        ):
            total.add(name, figure, ~np.isnan(figure))

        stable, unstable = stable_items(outcomes, block, int(reference))
        scored, right = outcomes.scored[:, reference], outcomes.correct[:, reference]
        total.add("accuracy_stable", outcomes.score[:, reference], stable & scored)
        total.add("accuracy_unstable", outcomes.score[:, reference], unstable & scored)
        total.add("errors_stable_share", stable, (stable | unstable) & scored & ~right)
        total.count("items_stable", stable)
        total.count("items_unstable", unstable)
        total.count("items_without_answer", some & ~outcomes.parsed[:, reference])
    bounds = {"entropy": float(np.log(widest + 1))}
    return total.ratios(bounds), total.counts


def stable_items(outcomes: Outcomes, columns: Ints, reference: int) -> tuple[Bools, Bools]:
    """(stable [n], unstable [n]) over variants that share a reference.

    Both have an original answer and at least one counted variant; stable items kept answer and state under
    all of them. An item without an original answer has nothing to keep and is neither.
    """
    subject = outcomes.pairs[:, columns].any(axis=1) & outcomes.parsed[:, reference]
    moved = (outcomes.flipped[:, columns] | outcomes.state_changed[:, columns]).any(axis=1)
    return subject & ~moved, subject & moved


def counts(outcomes: Outcomes, columns: Sequence[int] | Ints) -> dict[str, int]:
    """What stands in the denominators, and the ties beside the flips."""
    columns = _columns(outcomes, columns)
    variants = columns[outcomes.is_variant[columns]]
    pairs, flipped = outcomes.pairs[:, variants], outcomes.flipped[:, variants]
    tied = outcomes.tied_pairs[:, variants]
    found = {
        "items": outcomes.valid[:, columns].any(axis=1),
        "records": outcomes.valid[:, columns],
        "ties": outcomes.valid[:, columns] & outcomes.tie[:, columns],
        "unchanged": outcomes.unchanged[:, columns],
        "pairs": pairs,
        "pairs_parsed": outcomes.parsed_pairs[:, variants],
        "pairs_left_out": ~pairs,
        "pairs_tied": tied,
        "flips": flipped,
        "flips_tied": flipped & tied,
        "state_changes": outcomes.state_changed[:, variants],
    }
    return {name: int(np.count_nonzero(cases)) for name, cases in found.items()}


def summarise(
    outcomes: Outcomes,
    columns: Sequence[int] | Ints,
    mask: Bools | None = None,
    floor: Sequence[int] | Ints = (),
    ks: Sequence[int] = KS,
    resamples: Resamples | None = None,
) -> Group:
    """All figures of a group of conditions: a family, a strength, everything; see METRICS.

    `mask` [n] restricts to a category or stratum; `floor` are the repeat columns that excess is taken over;
    with `resamples` errors and intervals are of those cluster resamples in place of the analytic ones.
    Metrics without any variant or score at hand are absent; those whose denominator is empty have the value
    None.
    """
    if mask is not None:
        outcomes = outcomes.rows(mask)
    chosen, repeats = _columns(outcomes, columns), _columns(outcomes, floor)
    items, left_out = item_ratios(outcomes, chosen, ks)
    pairs = pair_ratios(outcomes, chosen)
    differences = _score_change(outcomes, chosen)
    floor_items, _ = item_ratios(outcomes, repeats, ks)
    differences |= excess({**pairs, **items}, {**pair_ratios(outcomes, repeats), **floor_items})
    ratios = {**record_ratios(outcomes, chosen), **pairs, **items}
    metrics = estimate_all(ratios, outcomes.cluster, resamples)
    metrics |= difference_all(differences, outcomes.cluster, resamples)
    return Group(metrics, {**counts(outcomes, chosen), **left_out})


def cell_metrics(
    outcomes: Outcomes,
    column: int,
    floor: Sequence[int] | Ints = (),
    resamples: Resamples | None = None,
) -> dict[str, Estimate]:
    """The figures of one condition. A column without a reference has its accuracy and nothing else."""
    chosen, repeats = _columns(outcomes, [column]), _columns(outcomes, floor)
    pairs = pair_ratios(outcomes, chosen)
    differences = _score_change(outcomes, chosen) | excess(pairs, pair_ratios(outcomes, repeats))
    ratios = {**record_ratios(outcomes, chosen), **pairs}
    return {
        **estimate_all(ratios, outcomes.cluster, resamples),
        **difference_all(differences, outcomes.cluster, resamples),
    }


class _Totals:
    """Sums numerators, denominators and counts over the reference conditions."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.columns: dict[str, tuple[Floats, Floats]] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Floats | Bools, where: Bools) -> None:
        num, den = self.columns.setdefault(name, (np.zeros(self.n), np.zeros(self.n)))
        num += np.where(where, value, 0.0)
        den += where

    def count(self, name: str, cases: Bools) -> None:
        self.counts[name] = self.counts.get(name, 0) + int(np.count_nonzero(cases))

    def ratios(self, bounds: dict[str, float]) -> dict[str, Ratio]:
        return {name: Ratio(num, den, bounds.get(name, 1.0)) for name, (num, den) in self.columns.items()}


def _sum(cases: Bools) -> Floats:
    total: Floats = np.count_nonzero(cases, axis=1).astype(np.float64)
    return total


def _columns(outcomes: Outcomes, columns: Sequence[int] | Ints) -> Ints:
    return np.asarray(columns, dtype=np.int64).reshape(-1)


def _score_change(outcomes: Outcomes, columns: Ints) -> dict[str, tuple[Ratio, Ratio]]:
    columns = columns[outcomes.is_variant[columns]]
    scored = outcomes.scored_pairs[:, columns]
    if not scored.any():
        return {}
    total = _sum(scored)
    after = np.where(scored, outcomes.score[:, columns], 0.0).sum(axis=1)
    before = np.where(scored, outcomes.score[:, outcomes.base[columns]], 0.0).sum(axis=1)
    return {"accuracy_change": (Ratio(after, total), Ratio(before, total))}


def excess(figures: dict[str, Ratio], floor: dict[str, Ratio]) -> dict[str, tuple[Ratio, Ratio]]:
    """Only flips have a floor, and AnyFlip only at equal k: it grows with the number of variants."""
    names = [name for name in figures if name == "flip_rate" or name.startswith("any_flip@")]
    return {f"excess_{name}": (figures[name], floor[name]) for name in names if name in floor}
