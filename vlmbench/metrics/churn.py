"""Does a pruner choose other tokens under a perturbation, and is it that which changes its answers?

A perturbed request is answered twice: with the tokens chosen anew (reselected), and with those chosen on the
unperturbed one, mapped to the same places of the source (`mask=frozen`). What flips more often in the first
than in the second flips because other tokens were chosen. A rewritten question shows the same picture, so
there tokens are compared by index, and only of methods that see the question. METRICS says what each name
means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.estimate import Bools, Floats, not_certain, paired_difference, ratio_estimate
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.metrics.tabulate import Variation

METRICS = {
    "kept_overlap": "mean share of the kept tokens that see the place of one kept of the unperturbed request",
    "flip_rate": "share of flips with the tokens chosen anew, pairs with a frozen mask where there are any",
    "flip_rate_frozen": "share of flips with the tokens of the unperturbed request, same pairs",
    "churn_flip_rate": "flip_rate minus flip_rate_frozen: what flips because other tokens are chosen",
    "flip_rate_full": "share of flips of the full model under the same perturbations",
}


@dataclass(frozen=True)
class ChurnGroup:
    """Columns of one pruner under one family, or under all of an axis (empty family)."""

    reference: str
    """Id of the pruned, unperturbed condition."""
    axis: str
    family: str
    reselected: tuple[int, ...]
    frozen: tuple[int | None, ...]
    """The same perturbation with the mask frozen, per reselected column; None where it was not run."""
    full: tuple[int, ...]
    """The same perturbations of the full model."""


def is_frozen(variation: Variation) -> bool:
    """Whether the variation keeps the tokens that were chosen on the unperturbed request."""
    part = variation.condition.prune
    return part is not None and part.parameters.get("mask") == "frozen"


def overlap_metrics(outcomes: Outcomes, columns: Sequence[int], overlap: Floats) -> dict[str, Estimate]:
    """`kept_overlap` over `columns`, overlap [n, m]; empty where no record tells."""
    chosen = list(columns)
    known = outcomes.valid[:, chosen] & ~np.isnan(overlap[:, chosen])
    if not known.any():
        return {}
    total = np.where(known, overlap[:, chosen], 0.0).sum(axis=1)
    return {"kept_overlap": ratio_estimate(total, known.sum(axis=1), outcomes.cluster)}


def churn_groups(variations: Sequence[Variation]) -> Iterator[ChurnGroup]:
    """Per pruner: a group for each family, then one for each axis with several families."""
    perturbed = [
        (j, v) for j, v in enumerate(variations) if v.axis in {"null", "image", "question"} and v.reference
    ]
    full = {_what(v): j for j, v in perturbed if v.condition.prune is None}
    frozen = {(v.reference, _what(v)): j for j, v in perturbed if is_frozen(v)}
    own = [(j, v) for j, v in perturbed if v.condition.prune is not None and not is_frozen(v)]

    def group(reference: str, axis: str, family: str) -> ChurnGroup:
        mine = [
            (j, v) for j, v in own if v.reference == reference and v.axis == axis and family in ("", v.family)
        ]
        return ChurnGroup(
            reference,
            axis,
            family,
            tuple(j for j, _ in mine),
            tuple(frozen.get((reference, _what(v))) for _, v in mine),
            tuple(full[_what(v)] for _, v in mine if _what(v) in full),
        )

    for reference in dict.fromkeys(v.reference or "" for _, v in own):
        families = dict.fromkeys((v.axis, v.family) for _, v in own if v.reference == reference)
        for axis, family in families:
            yield group(reference, axis, family)
        for axis in dict.fromkeys(axis for axis, _ in families):
            if sum(name == axis for name, _ in families) > 1:
                yield group(reference, axis, "")


def churn_metrics(outcomes: Outcomes, group: ChurnGroup, overlap: Floats) -> dict[str, Estimate]:
    """The figures of METRICS; empty where the group has neither an overlap nor a frozen mask.

    Both flip rates and their difference are over the pairs (item, perturbation) that count on both sides.
    """
    metrics = overlap_metrics(outcomes, group.reselected, overlap)
    both = [(j, f) for j, f in zip(group.reselected, group.frozen, strict=True) if f is not None]
    if not metrics and not both:
        return {}
    anew, kept = [j for j, _ in both], [f for _, f in both]
    pairs = outcomes.pairs[:, anew] & outcomes.pairs[:, kept]
    if pairs.any():
        total = _sum(pairs)
        flips, flips_frozen = (_sum(outcomes.flipped[:, columns] & pairs) for columns in (anew, kept))
        difference = paired_difference(flips, total, flips_frozen, total, outcomes.cluster)
        metrics |= {
            "flip_rate": ratio_estimate(flips, total, outcomes.cluster),
            "flip_rate_frozen": ratio_estimate(flips_frozen, total, outcomes.cluster),
            "churn_flip_rate": not_certain(difference, outcomes.cluster, total > 0),
        }
    else:
        metrics["flip_rate"] = _flip_rate(outcomes, group.reselected)
    if group.full:
        metrics["flip_rate_full"] = _flip_rate(outcomes, group.full)
    return metrics


def _what(variation: Variation) -> str:
    """The perturbation alone."""
    return "+".join(part.label for role, part in variation.condition.parts if role != "prune")


def _flip_rate(outcomes: Outcomes, columns: Sequence[int]) -> Estimate:
    chosen = list(columns)
    flips, pairs = _sum(outcomes.flipped[:, chosen]), _sum(outcomes.pairs[:, chosen])
    return ratio_estimate(flips, pairs, outcomes.cluster)


def _sum(cases: Bools) -> Floats:
    total: Floats = np.count_nonzero(cases, axis=1).astype(np.float64)
    return total
