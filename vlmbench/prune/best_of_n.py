"""Best of n: the ceiling of luck, told from the answers of n random draws."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.prune.random import Random


@dataclass(frozen=True, kw_only=True)
class BestOfN(Random):
    """The best of `n` random subsets of each item.

    Every item is answered under n draws of `random`, and the one with the highest score counts: what a
    chooser that knows the right answer could make of as many subsets. An experiment computes it; as a method
    on its own it is a single draw.

    Ceiling; this project's control.

    Parameters: ratio, keep, positions (see Pruner); draw, the first of the draws; n, how many.
    """

    n: int = 32
