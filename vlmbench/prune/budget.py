"""Splitting an image's budget over its tiles."""

from __future__ import annotations

from collections.abc import Sequence


def split_budget(k: int, sizes: Sequence[int]) -> list[int]:
    """How many of k tokens each tile keeps, as equally as possible; sizes: the tokens that each tile has.

    A remainder goes to the first tiles. What a tile is too small for is shared by the others.
    """
    if not 0 <= k <= sum(sizes):
        raise ValueError(f"split_budget: k must be in [0, {sum(sizes)}]: got {k}")
    shares = [0] * len(sizes)
    unfilled = list(range(len(sizes)))
    while unfilled:
        base, extra = divmod(k, len(unfilled))
        small = [tile for tile in unfilled if sizes[tile] <= base]
        if not small:
            for place, tile in enumerate(unfilled):
                shares[tile] = base + (place < extra)
            break
        for tile in small:
            shares[tile] = sizes[tile]
            k -= sizes[tile]
        unfilled = [tile for tile in unfilled if sizes[tile] > base]
    return shares
