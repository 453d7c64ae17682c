"""The scores that are put side by side: stability, every control, and their combinations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlmbench.metrics.estimate import Floats
from vlmbench.metrics.predict_features import Signals, log_odds, one_hot
from vlmbench.metrics.predict_figures import mean_of

Role = Literal["stability", "control", "combined"]


@dataclass(frozen=True, eq=False)
class Recipe:
    """One predictor. features [n, d] are fitted out of fold; a number [n] is the score itself.

    Neither: `missing` says why and what to do. by_category: the score is the category's base rate.
    """

    name: str
    role: Role
    features: Floats | None = None
    number: Floats | None = None
    by_category: bool = False
    missing: str = ""


PREDICTORS = {
    "stability": "flips, agreement and entropy of the small models, per family of changes",
    "agreement": "share of equal pairs among a small model's answers: no fit, one number",
    "stability_and_probability": "stability with the small models' answer probability",
    "probability": "answer probability of the small model; of several, fitted",
    "large_probability": "answer probability of the large model itself",
    "same_answer": "share of the small models that give the large model's answer",
    "self_consistency": "agreement of as many samples of the unchanged input: the same number of calls",
    "category": "base rate of the item's category, which knows nothing of the answer",
    "controls": "all controls, fitted",
    "everything": "all controls and stability, fitted",
}

CONTROLS = ("probability", "large_probability", "same_answer", "self_consistency", "category")

DIFFERENCES = (
    *(("stability", control) for control in (*CONTROLS, "controls")),
    *(("agreement", control) for control in CONTROLS),
    ("stability_and_probability", "probability"),
    ("everything", "controls"),
)
"""Which predictor is held against which; the last two say what stability adds."""


def recipes(
    names: Sequence[str],
    signals: Sequence[Signals],
    categories: Sequence[str],
    probability: Floats | None,
    same: Floats | None,
) -> list[Recipe]:
    """Every predictor of PREDICTORS that the question has, in that order.

    names and signals: of the small models; categories: [n]; probability, same [n]: of the large model's own
    answer, None where the small model's own answers are predicted.
    """
    stability = np.concatenate([one.stability for one in signals], axis=1)
    agreement = mean_of([one.agreement for one in signals])
    odds = [log_odds(one.probability) for one in signals]
    found = [
        Recipe("stability", "stability", features=stability),
        Recipe("agreement", "stability", number=agreement),
    ]
    without = [name for name, one in zip(names, signals, strict=True) if np.isnan(one.probability).all()]
    no_probability = f"no answer probability in {', '.join(without)}" if without else ""
    own = Recipe("probability", "control", missing=no_probability)
    if not without:
        both = np.column_stack([stability, *odds])
        found.append(Recipe("stability_and_probability", "combined", features=both))
        if len(signals) == 1:
            own = Recipe("probability", "control", number=signals[0].probability)
        else:
            own = Recipe("probability", "control", features=np.column_stack(odds))
    found.append(own)
    if same is not None and probability is not None:
        if np.isnan(probability).all():
            missing = "the large model's table has no answer probability"
            found.append(Recipe("large_probability", "control", missing=missing))
        else:
            found.append(Recipe("large_probability", "control", number=probability))
        found.append(Recipe("same_answer", "control", number=same))
    found.append(_self_consistency(names, signals))
    if len(set(categories)) > 1:
        found.append(Recipe("category", "control", by_category=True))
    else:
        found.append(Recipe("category", "control", missing="the items are of one category"))
    controls = list(_control_columns(found, odds, probability, categories))
    if controls:
        found.append(Recipe("controls", "combined", features=np.column_stack(controls)))
        everything = np.column_stack([*controls, agreement, stability])
        found.append(Recipe("everything", "combined", features=everything))
    return found


def _self_consistency(names: Sequence[str], signals: Sequence[Signals]) -> Recipe:
    columns = [one.consistency for one in signals if one.consistency is not None]
    if len(columns) == len(signals):
        return Recipe("self_consistency", "control", number=mean_of(columns))
    wanted = [
        f"{name} has {one.samples}: make them with `perturb --samples {one.calls}`"
        for name, one in zip(names, signals, strict=True)
        if one.consistency is None
    ]
    return Recipe(
        "self_consistency", "control", missing="needs as many samples as variants; " + "; ".join(wanted)
    )


def _control_columns(
    found: Sequence[Recipe], odds: Sequence[Floats], probability: Floats | None, categories: Sequence[str]
) -> Iterator[Floats]:
    """The controls as features: probabilities as log odds, the category as indicators."""
    ready: Mapping[str, Recipe] = {one.name: one for one in found if not one.missing}
    if "probability" in ready:
        yield from odds
    if "large_probability" in ready and probability is not None:
        yield log_odds(probability)
    for name in ("same_answer", "self_consistency"):
        number = ready[name].number if name in ready else None
        if number is not None:
            yield number
    if "category" in ready:
        yield one_hot(categories)
