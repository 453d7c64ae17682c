"""The three questions on one picture that tell grounding heads from others: asked, reworded, another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.case import Case
from vlmbench.perturb.text.frame import Frame
from vlmbench.perturb.text.phrasing import Phrasing
from vlmbench.perturb.text.polite import Polite
from vlmbench.perturb.text.punctuation import Punctuation
from vlmbench.seeds import seed_for


@dataclass(frozen=True)
class Triple:
    """On the same picture."""

    asked: Item
    reworded: Item
    other: Item


def triples(items: Sequence[Item], seed: int) -> Iterator[Triple]:
    """Of each item that can be reworded, in their order; none of items that are alone.

    The other question is one of the same category on the same picture where there is one, else any on that
    picture, else one of another picture, best of the same category: drawn among those whose words differ.
    """
    by_picture: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        by_picture.setdefault(_picture(item), []).append(item)
    for item in items:
        new = reworded(item)
        near = _differing(item, by_picture[_picture(item)])
        other = _drawn(item, near or _differing(item, items), seed)
        if new is not None and other is not None:
            yield Triple(item, new, other.changed(images=item.images, boxes=()))


def reworded(item: Item) -> Item | None:
    """In one of its own phrasings in its language, else under the first harmless rule that applies."""
    own: list[Callable[[Item], Item]] = [Phrasing(name) for name in item.phrasings]
    rules: list[Callable[[Item], Item]] = [Frame(), Polite(), Punctuation(), Case()]
    for rule in own + rules:
        try:
            changed = rule(item)
        except NotApplicableError:
            continue
        if changed.language == item.language and changed.text() != item.text():
            return changed
    return None


def _picture(item: Item) -> tuple[str, ...]:
    return tuple(source.key for source in item.images)


def _differing(item: Item, others: Sequence[Item]) -> list[Item]:
    """With as many pictures, so that the prompt can hold the item's own in their place."""
    return [o for o in others if o.text() != item.text() and len(o.images) == len(item.images)]


def _drawn(item: Item, others: Sequence[Item], seed: int) -> Item | None:
    alike = [other for other in others if other.category == item.category]
    return min(alike or others, key=lambda o: seed_for(seed, "other", item.id, o.id), default=None)
