"""What one small model's answers say about an item: stability per family, probability, self-consistency.

Definitions follow "Questioning the Stability of VQA" (arXiv 2511.11206), which predicts the correctness of a
large closed model from flips, entropies and probabilities of small open ones. An item's own label enters
nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.metrics.agreement import pairwise_agreement
from vlmbench.metrics.estimate import Bools, Floats
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.selective import stability_scores

NO_STABILITY = frozenset({"clean", "repeat", "null", "sample", "prune", "control", "roi"})
"""Axes whose cells are no harmless change of the input that could be seen."""

_CERTAIN = 1e-6


@dataclass(frozen=True, eq=False)
class Signals:
    """What one small model tells of n items; NaN where it tells nothing.

    stability [n, d]: per family 1 - flip rate and, with two or more variants, agreement and -entropy
    names: of these d features; families: those that are in use
    agreement [n]: pairwise, over the original and all variants
    calls: variants in use, so that one item costs 1 + calls answers
    probability [n]: of the first token of the original answer; all NaN where the table has none
    consistency [n]: agreement of the original and as many samples; None without enough samples
    samples: sampled answers that the table has
    """

    stability: Floats
    names: tuple[str, ...]
    families: tuple[str, ...]
    agreement: Floats
    calls: int
    probability: Floats
    consistency: Floats | None
    samples: int

    def rows(self, mask: Bools) -> Signals:
        """The items that `mask` (bool [n]) selects."""
        return replace(
            self,
            stability=self.stability[mask],
            agreement=self.agreement[mask],
            probability=self.probability[mask],
            consistency=None if self.consistency is None else self.consistency[mask],
        )


def read_signals(
    outcomes: Outcomes, clean: int, axes: Sequence[str], families: Sequence[str]
) -> Signals | None:
    """None where no variant of the column `clean` has an answer that counts. axes, families: [m]."""
    counted = outcomes.pairs.any(axis=0) & (outcomes.base == clean)
    variants = [j for j in np.flatnonzero(counted).tolist() if axes[j] not in NO_STABILITY]
    if not variants:
        return None
    by_family: dict[tuple[str, str], list[int]] = {}
    for j in variants:
        by_family.setdefault((axes[j], families[j]), []).append(j)
    columns: dict[str, Floats] = {}
    for (axis, family), mine in by_family.items():
        found = stability_scores(outcomes, mine)
        kept = found if len(mine) > 1 else {"one_minus_flip_rate": found["one_minus_flip_rate"]}
        columns |= {f"{axis} {family} {name}": column for name, column in kept.items()}
    # any answer of a family's items may be missing: what is never known tells nothing
    known = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    samples = [j for j, axis in enumerate(axes) if axis == "sample" and outcomes.base[j] == clean]
    samples = [j for j in samples if outcomes.pairs[:, j].any()]
    consistency = None
    if len(samples) >= len(variants):
        together = [clean, *samples[: len(variants)]]
        consistency = pairwise_agreement(outcomes.answer[:, together], outcomes.parsed[:, together])
    return Signals(
        stability=np.stack(list(known.values()), axis=1) if known else np.zeros((outcomes.n, 0)),
        names=tuple(known),
        families=tuple(dict.fromkeys(family for _, family in by_family)),
        agreement=stability_scores(outcomes, variants)["agreement"],
        calls=len(variants),
        probability=outcomes.prob,
        consistency=consistency,
        samples=len(samples),
    )


def log_odds(probability: Floats) -> Floats:
    """[n]: log(p / (1 - p)), p kept 1e-6 away from certainty; NaN stays."""
    inside = np.clip(probability, _CERTAIN, 1 - _CERTAIN)
    odds: Floats = np.log(inside) - np.log1p(-inside)
    return odds


def one_hot(labels: Sequence[str]) -> Floats:
    """[n, k]: a column per distinct label, in sorted order."""
    _, place = np.unique(np.asarray(labels), return_inverse=True)
    return np.eye(int(place.max()) + 1 if place.size else 0)[place]


def join_signals(parts: Sequence[Signals]) -> Signals:
    """One model's signals on the items of several tasks; a family that a task lacks is missing there."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    blocks = []
    for part in parts:
        block = np.full((len(part.agreement), len(names)), np.nan)
        block[:, [names.index(name) for name in part.names]] = part.stability
        blocks.append(block)
    samples = [part.consistency for part in parts if part.consistency is not None]
    return Signals(
        stability=np.concatenate(blocks),
        names=names,
        families=tuple(dict.fromkeys(family for part in parts for family in part.families)),
        agreement=np.concatenate([part.agreement for part in parts]),
        calls=max(part.calls for part in parts),
        probability=np.concatenate([part.probability for part in parts]),
        consistency=np.concatenate(samples) if len(samples) == len(parts) else None,
        samples=min(part.samples for part in parts),
    )
