"""How the letter before an option is written: `A. `, `(A) `, `A) `, `A: `."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import require_options


@dataclass(frozen=True)
class OptionLabels:
    """Label style of the options.

    Idea: the same letters in another typography.
    Source: tier 0 of the question suite.

    Parameters
        style: a key of `vlmbench.items.LABEL_STYLES`: `dot`, `bracket`, `paren`, `colon`.
    """

    style: str = "bracket"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_options(item)
        if item.label_style == self.style:
            raise NotApplicableError(f"the options already have the style {self.style!r}")
        return item.changed(label_style=self.style)
