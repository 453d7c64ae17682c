"""What image and question do to the answer together, beyond what each does alone.

A crossed condition (x, y) is matched with the image perturbation x alone, the question perturbation y alone
and the unchanged input, over the items that count in all four. METRICS says what each name means. After
"Questioning the Stability of Visual Question Answering" (arXiv 2511.11206), which perturbs one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.bootstrap import difference_all, estimate_all, percentiles, with_bootstrap
from vlmbench.metrics.estimate import Bools, Floats, Ratio, distinct, from_influence, linearise, not_certain
from vlmbench.metrics.outcomes import Ints, Outcomes
from vlmbench.metrics.stability import excess, pair_ratios
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.metrics.resamples import Resamples
    from vlmbench.metrics.tabulate import Variation

METRICS = {
    "flip_rate_image": "share of flips under the image perturbation alone, matched items and pairs",
    "flip_rate_question": "share of flips under the question perturbation alone",
    "flip_rate": "share of flips under both together",
    "excess_flip_rate": "flip_rate minus the flip rate of the model's repeats, over the items that have both",
    "flip_interaction": "flip_rate minus 1 - (1 - F_image)(1 - F_question), what independent axes would give",
    "hidden_flips": "share that flips under both together and under neither alone",
    "undone_flips": "share that flips under one of them alone, and not under both together",
    "accuracy_image": "mean score under the image perturbation alone",
    "accuracy_question": "mean score under the question perturbation alone",
    "accuracy": "mean score under both together",
    "accuracy_interaction": "A_both - A_image - A_question + A_clean",
}


@dataclass(frozen=True)
class Crossing:
    """Columns of one crossed pair; `clean` is the unchanged input under the same pruner."""

    family: tuple[str, str]
    """Of the image and of the question perturbation."""
    both: int
    image: int
    question: int
    clean: int


def crossings(variations: Sequence[Variation]) -> Iterator[tuple[str, list[Crossing]]]:
    """Per pruner (empty for the full model) its crossed pairs, whose parts were also run alone."""
    place = {v.condition: j for j, v in enumerate(variations)}
    found: dict[str, list[Crossing]] = {}
    for j, v in enumerate(variations):
        condition = v.condition
        if v.axis != "cross" or condition.image is None or condition.question is None:
            continue
        image, question = replace(condition, question=None), replace(condition, image=None)
        clean = replace(image, image=None)
        if {image, question, clean} <= place.keys():
            family = condition.image.name, condition.question.name
            crossing = Crossing(family, j, place[image], place[question], place[clean])
            found.setdefault(v.pruner, []).append(crossing)
    yield from found.items()


def crossing_metrics(
    outcomes: Outcomes,
    pairs: Sequence[Crossing],
    floor: Sequence[int] | Ints = (),
    resamples: Resamples | None = None,
) -> dict[str, Estimate]:
    """The figures of METRICS over all matched (item, pair); empty where there is none.

    Interactions are means over pairs of that pair's own, weighted by its matched items; errors are clustered,
    linearised in the rates (delta method), or those of `resamples`. floor: columns of the model's repeats.
    """
    both, image, question, clean = (
        np.array([getattr(p, name) for p in pairs], dtype=np.int64)
        for name in ("both", "image", "question", "clean")
    )
    columns = (both, image, question)
    matched = outcomes.pairs[:, both] & outcomes.pairs[:, image] & outcomes.pairs[:, question]
    if not matched.any():
        return {}
    count = _sum(matched)
    flips = [outcomes.flipped[:, c] & matched for c in columns]
    alone = flips[1] | flips[2]
    figures = {
        "flip_rate_image": flips[1],
        "flip_rate_question": flips[2],
        "flip_rate": flips[0],
        "hidden_flips": flips[0] & ~alone,
        "undone_flips": alone & ~flips[0],
    }
    ratios = {name: Ratio(_sum(cases), count) for name, cases in figures.items()}
    metrics = estimate_all(ratios, outcomes.cluster, resamples)
    repeats = pair_ratios(outcomes, np.asarray(floor, dtype=np.int64))
    over = excess({"flip_rate": ratios["flip_rate"]}, repeats)
    metrics |= difference_all(over, outcomes.cluster, resamples)
    metrics["flip_interaction"] = _flip_interaction(outcomes, matched, flips, resamples)
    scored = matched.copy()
    for c in (*columns, clean):
        scored &= outcomes.scored[:, c]
    if scored.any():
        metrics |= _accuracy(outcomes, scored, columns, clean, resamples)
    return metrics


def _flip_interaction(
    outcomes: Outcomes, matched: Bools, flips: Sequence[Bools], resamples: Resamples | None
) -> Estimate:
    """Pair by pair F_xy - 1 + (1 - F_x)(1 - F_y), weighted by matched items."""
    value, psi = 0.0, np.zeros(outcomes.n)
    for pair in range(matched.shape[1]):
        used = matched[:, pair]
        if not used.any():
            continue
        weight = used.sum() / matched.sum()
        (xy, psi_xy), (x, psi_x), (y, psi_y) = (
            linearise(cases[:, pair].astype(np.float64), used.astype(np.float64)) for cases in flips
        )
        value += weight * (xy - 1 + (1 - x) * (1 - y))
        psi += weight * (psi_xy - (1 - y) * psi_x - (1 - x) * psi_y)
    some: Bools = np.asarray(matched.any(axis=1))
    found = from_influence(value, psi, outcomes.cluster, some, bound=None)
    if resamples is not None:
        groups = np.array([distinct(outcomes.cluster[some])])
        replicates = _interactions(outcomes, matched, flips, resamples)
        found = with_bootstrap(found, percentiles(replicates[:, None], groups))
    return not_certain(found, outcomes.cluster, some)


def _interactions(outcomes: Outcomes, matched: Bools, flips: Sequence[Bools], resamples: Resamples) -> Floats:
    """[b]: replicates of the weighted mean over pairs."""
    columns = np.concatenate([matched, *flips], axis=1).astype(np.float64)
    n, xy, x, y = np.split(resamples.sums(columns, outcomes.cluster), 4, axis=1)
    product = np.divide((n - x) * (n - y), n, out=np.zeros_like(n), where=n > 0)
    total = n.sum(axis=1)
    mean: Floats = np.divide(
        (xy - n + product).sum(axis=1), total, out=np.full(len(n), np.nan), where=total > 0
    )
    return mean


def _accuracy(
    outcomes: Outcomes,
    scored: Bools,
    columns: Sequence[Ints],
    clean: Ints,
    resamples: Resamples | None,
) -> dict[str, Estimate]:
    count = _sum(scored)
    total = [np.where(scored, outcomes.score[:, c], 0.0).sum(axis=1) for c in (*columns, clean)]
    names = ("accuracy", "accuracy_image", "accuracy_question")
    ratios = {name: Ratio(sums, count) for name, sums in zip(names, total, strict=False)}
    interaction = "accuracy_interaction"
    ratios[interaction] = Ratio(total[0] - total[1] - total[2] + total[3], count, None)
    metrics = estimate_all(ratios, outcomes.cluster, resamples)
    metrics[interaction] = not_certain(metrics[interaction], outcomes.cluster, count > 0)
    return metrics


def _sum(cases: Bools) -> Floats:
    total: Floats = np.count_nonzero(cases, axis=1).astype(np.float64)
    return total
