"""`perturb --forecast --riskiest SHARE`: the language model answers the pairs that are most likely to flip.

A pair is an item under an image perturbation of the full model. Everything else is answered first, then all
pairs are foretold, and of those that have a forecast the SHARE per task with the lowest margins is answered.
Pairs without one, as where the number of visual tokens changes, are all answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench.errors import UsageError
from vlmbench.metrics.riskiest import riskiest
from vlmbench.metrics.tabulate import Variation

if TYPE_CHECKING:
    from vlmbench.engine.inspection import Look
    from vlmbench.engine.ranks import Ranks
    from vlmbench.engine.store import Key
    from vlmbench.experiments.inspection import Inspected
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.schema import Record


def drifts(variation: Variation) -> bool:
    """Whether states can be compared: a perturbation of the full model. A question's moves no visual
    token."""
    condition = variation.condition
    full = condition.prune is None and condition.roi is None
    return full and variation.axis in {"image", "question"} and bool(variation.reference)


def is_foretold(variation: Variation) -> bool:
    """Whether its flips can be forecast: an image perturbation of the full model."""
    return drifts(variation) and variation.axis == "image"


def check_riskiest(share: float | None, forecast: bool) -> None:
    """Raises UsageError."""
    if share is None:
        return
    if not 0 < share < 1:
        raise UsageError(f"--riskiest must be between 0 and 1: got {share:g}")
    if not forecast:
        raise UsageError("--riskiest answers the pairs with the lowest forecast margin: add --forecast")


def check_inspected(
    forecast: bool, drift: bool, share: float | None, variations: Sequence[Variation]
) -> None:
    """Raises UsageError where there is nothing to foretell or to look at."""
    if forecast and not any(map(is_foretold, variations)):
        option = "--forecast" if share is None else f"--riskiest {share:g}"
        raise UsageError(
            f"{option} foretells flips under image perturbations of the full model, and none is asked for: "
            "name one, --perturb shift, and with --prune name none as well"
        )
    if drift and not any(map(drifts, variations)):
        raise UsageError(
            "--drift looks into the full model under image and question perturbations, and none is asked "
            "for: name one, --perturb shift, and with --prune name none as well"
        )


def told_reason(share: float) -> str:
    """Why a pair was not answered."""
    return f"forecast: not among the riskiest {100 * share:g} %"


@dataclass(frozen=True)
class Riskiest:
    """The choice of one run; see `turns.Later`."""

    share: float
    asked: Inspected

    @property
    def identity(self) -> dict[str, Any]:
        return {"riskiest": self.share}

    @property
    def reason(self) -> str:
        return told_reason(self.share)

    def waits(self, variation: Variation) -> bool:
        return is_foretold(variation)

    def left_out(
        self,
        plans: Sequence[TaskPlan],
        folder: Path,
        preparer: Any,
        ranks: Ranks,
        records: Mapping[Key, Record],
    ) -> set[Key]:
        """The first process alone foretells; all read what it wrote, and so choose alike."""
        from vlmbench.engine.inspection import inspect, known_looks
        from vlmbench.experiments.inspection import wanted

        settings = self.asked.settings(folder)
        each = [(plan, wanted(plan, records, self.asked, preparer.seed)) for plan in plans]
        ranks.lead(lambda: [inspect(preparer, plan.task.name, w, folder, settings) for plan, w in each])
        return {
            key
            for plan, w in each
            for key in self._unlikely(plan, known_looks(plan.task.name, w, folder, settings))
        }

    def _unlikely(self, plan: TaskPlan, looks: Sequence[Look]) -> Iterator[Key]:
        forecasts = {look.item: look.forecast for look in looks}
        names = [v.condition.id for v in plan.variations if is_foretold(v)]
        pairs = [(i.id, n) for i in plan.items for n in names if n in forecasts.get(i.id, {})]
        chosen = riskiest(np.array([forecasts[item][name] for item, name in pairs]), self.share)
        return ((plan.task.name, *pair) for pair, taken in zip(pairs, chosen, strict=True) if not taken)
