"""Runs that answered only the image variants that a forecast chose (`perturb --riskiest`).

Their flip rates are of the variants most likely to flip: beside those of all variants, or as a measure of how
stable an item is, they would mislead.
"""

from __future__ import annotations

from collections.abc import Iterable

from vlmbench.errors import NotComparableError
from vlmbench.schema import Table


def refuse_other_choice(base: Table, candidate: Table) -> list[str]:
    """A warning where both sides answered such a share. Raises NotComparableError where the shares differ."""
    one, two = (table.identity.get("riskiest") for table in (base, candidate))
    if one != two:
        raise NotComparableError(
            f"image variants: base answered {_told(one)}, candidate {_told(two)}; run both with the same "
            "--riskiest, or both without"
        )
    return [] if one is None else [f"image variants: those that both runs answered, of {_told(one)} of each"]


def refuse_chosen(tables: Iterable[tuple[str, Table]], what: str) -> None:
    """`what` needs all variants. Raises NotComparableError naming the first run that answered fewer."""
    for name, table in tables:
        share = table.identity.get("riskiest")
        if share is not None:
            raise NotComparableError(
                f"{name}: {what} needs all image variants, and only {_told(share)} were answered; run it "
                "without --riskiest"
            )


def _told(share: object) -> str:
    return "all" if share is None else f"those of --riskiest {share}"
