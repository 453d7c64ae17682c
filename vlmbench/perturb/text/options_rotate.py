"""The options of a multiple-choice question in another order."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import require_options

# `Both A and B`, `all of the above`: the text means something else in another order.
# `above` alone is a place in the image.
_REFERS = re.compile(
    r"\bof the (?:above|below|following)\b|\bthe above\b|\(?\b[A-Z]\b\)? (?:and|or|nor|&) \(?[A-Z]\b"
)


@dataclass(frozen=True)
class OptionsRotate:
    """Rotated options.

    Idea: the letter of an option is not its content. The option at place i moves to place i - r;
    `option_order` follows, so that answers are told as original indices.
    Source: CircularEval of MMBench (arXiv 2307.06281).

    Parameters
        r: places; 0 changes nothing. From the number of options on rotations repeat: not applicable.
    """

    r: int = 1

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_options(item)
        n = len(item.options)
        if self.r >= n:
            raise NotApplicableError(f"{n} options have {n - 1} rotations")
        if any(_REFERS.search(option) for option in item.options):
            raise NotApplicableError("an option refers to others by place or letter")
        order = item.option_order or tuple(range(n))
        places = [(i + self.r) % n for i in range(n)]
        return item.changed(
            options=tuple(item.options[place] for place in places),
            option_order=tuple(order[place] for place in places),
        )
