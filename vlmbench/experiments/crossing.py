"""Which image perturbations are crossed with which question perturbations."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from vlmbench.conditions import Condition, Part
from vlmbench.engine.plan import Request
from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.items import Item
from vlmbench.seeds import seed_for

Pair = tuple[Part, Part]
"""An image perturbation and a question perturbation."""


def crossed(images: Sequence[Part], questions: Sequence[Part], size: int, seed: int) -> list[Pair]:
    """A seeded sample of `size` different pairs, all of them where there are no more.

    Families take turns: each pair of families is met before one is met twice, and of those still to come the
    next is one whose two families were met least. The same seed gives nested samples.
    """
    by_families: dict[tuple[str, str], list[Pair]] = {}
    for image in images:
        for question in questions:
            by_families.setdefault((image.name, question.name), []).append((image, question))
    rng = random.Random(seed_for(seed, "crossing"))
    turns = [by_families[key] for key in sorted(by_families)]
    for pairs in turns:
        rng.shuffle(pairs)
    rng.shuffle(turns)
    left = {(pairs[0][0].name, pairs[0][1].name): pairs for pairs in turns}
    met: Counter[object] = Counter()
    found: list[Pair] = []
    while left and len(found) < size:
        # the first of equals, in the order that the seed drew
        families = min(left, key=lambda each: (met[each], sum(met[axis] for axis in enumerate(each))))
        met.update([families, *enumerate(families)])
        found.append(left[families].pop(0))
        if not left[families]:
            del left[families]
    return found


def reaches(
    question: Part, items: Sequence[Item], seed: int, tells_apart: Callable[[str, str], bool]
) -> bool:
    """Whether a question perturbation changes what the model reads of any of the items: options to rotate,
    or case to a tokenizer that knows it. `tells_apart` is the model's part: (before, after) -> bool."""
    from vlmbench.engine.pictures import rewrite

    for item in items:
        try:
            after = rewrite(Request("", item, Condition(question=question)), seed)
        except (NotApplicableError, ItemError):
            continue
        if tells_apart(item.text(), after.text()):
            return True
    return False
