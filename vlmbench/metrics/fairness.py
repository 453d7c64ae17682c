"""What a pruned model's accuracy hides: a shift towards yes, and items that never needed their tokens.

METRICS says what each name means.
"""

from __future__ import annotations

import numpy as np

from vlmbench.metrics.estimate import Ints, not_certain, paired_difference, ratio_estimate
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.schema import Estimate

METRICS = {
    "yes_shift": "share of yes among the parsed yes/no answers minus that of the full model, same items",
    "accuracy_needy": "mean score where the full model is right and the down-sampled one wrong (VTC-Bench)",
    "accuracy_easy": "mean score where the full and the down-sampled model are both right (VTC-Bench)",
}

DOWNSAMPLED = ("downsample", "pool")
"""Controls that say which items need their tokens: the first that this model can serve."""


def yes_shift(outcomes: Outcomes, column: int, yes: Ints) -> dict[str, Estimate]:
    """`yes_shift` of a column against its reference; yes [n, m]: 1 for yes, 0 for no, -1 for all else.

    Empty where no item has a parsed yes or no on both sides. A model that loses its evidence often turns to
    one of the two answers, which accuracy on balanced questions shows late (POPE's yes-ratio).
    """
    reference = int(outcomes.base[column])
    told = outcomes.parsed_pairs[:, column] & (yes[:, column] >= 0) & (yes[:, reference] >= 0)
    if not told.any():
        return {}
    after, before = (np.where(told, yes[:, place], 0) for place in (column, reference))
    shift = paired_difference(after, told, before, told, outcomes.cluster)
    return {"yes_shift": not_certain(shift, outcomes.cluster, told)}


def needy_accuracy(outcomes: Outcomes, column: int, control: int) -> dict[str, Estimate]:
    """Accuracy of a column on the items that need their tokens, and on those that do not.

    Only items that the full model (the column's reference) has right count: `needy` ones are wrong under
    `control`, a down-sampled image or feature grid of the same budget, `easy` ones right (score > 0.5). Each
    estimate's n is the size of its group. Empty for the control itself, which defines the groups.
    """
    if column == control or not outcomes.is_variant[column]:
        return {}
    used = outcomes.scored_pairs[:, column] & outcomes.scored[:, control]
    used = used & outcomes.correct[:, outcomes.base[column]]
    score = np.where(used, outcomes.score[:, column], 0.0)
    groups = {
        "accuracy_needy": used & ~outcomes.correct[:, control],
        "accuracy_easy": used & outcomes.correct[:, control],
    }
    return {name: ratio_estimate(score * group, group, outcomes.cluster) for name, group in groups.items()}
