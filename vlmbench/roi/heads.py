"""Which attention heads point at what is asked about: ranked on a few calibration items, without boxes.

An item is one image with three response maps per head: under a question, under the same question in other
words, and under ANOTHER question on that image. A grounding head's map is compact, stays where only the words
change, and moves when the question does:

    score = concentration x max(0, change + agreement - 1)

with `concentration`, `agreement` and `change` as below, each a mean over the items after sinks were taken
out. `change` alone would choose noise, which moves with everything; what counts is how much more a head moves
with the question than with the wording. Heads that hardly look at the image have no say in a mean of maps
that are not renormalised and are left out: those with less than half of the average head's attention on it.

The other question should be of the same kind, about another place: heads that only tell kinds of questions
apart also move between different kinds.

`HeadSums` takes the items one after another and keeps sums, and per item two numbers per head for the
published rule that this is held against, `entropy_heads` (arXiv 2503.06287).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.errors import ItemError, UsageError
from vlmbench.items import Box
from vlmbench.prune.greedy import TIE, check_finite, first_max
from vlmbench.prune.ties import descending
from vlmbench.roi.labels import cleaned, surrounding
from vlmbench.roi.sinks import SinkRule, find_sinks, normalised, steady
from vlmbench.roi.spatial import spatial_entropy

Head = tuple[int, int]
"""Layer (0-based, of the language model) and head."""

LOOKS = 0.5
"""Share of the average head's attention to the image that a grounding head has at least."""
GIVES_AWAY = 0.5
"""Overlap with the steady tokens from which on a head is a sink head."""
_EXTENT = 0.2  # of the largest value, as in the labels


def concentration(map: Tensor) -> Tensor:
    """[.., H, W] -> [..] in [0, 1]: share of the grid outside the box around all that exceeds a fifth of the
    largest value; 0 for a map of zeros. That box is what labels are made of, so one far spot counts as much
    there as here."""
    planes = map.reshape(-1, *map.shape[-2:])
    peak = planes.amax((1, 2), keepdim=True)
    _, inside = surrounding(planes > _EXTENT * peak)
    outside = 1 - inside.float().mean((1, 2))
    return torch.where(peak[:, 0, 0] > 0, outside, 0.0).view(map.shape[:-2])


def change(p: Tensor, q: Tensor) -> Tensor:
    """[.., H, W] maps of sum 1 -> [..] in [0, 1]: share of the attention that lies elsewhere, half of
    sum |p - q|."""
    return (p - q).abs().sum((-2, -1)) / 2


def agreement(p: Tensor, q: Tensor) -> Tensor:
    """[.., H, W] maps of sum 1 -> [..] in [0, 1]: share of the attention that lies in the same place."""
    return 1 - change(p, q)


def pointing(map: Tensor, inside: Tensor) -> Tensor:
    """[.., H, W] -> [..] bool: whether the largest value is at a token of `inside` [H, W] bool."""
    flat = map.flatten(-2)
    return inside.flatten()[first_max(flat, TIE * flat.amax(-1, keepdim=True))]


def inside_boxes(cells: Tensor, boxes: Sequence[Box], grid: tuple[int, int]) -> Tensor:
    """[H, W] bool: tokens whose cell's centre lies in one of the boxes; cells [N, 4] and boxes are left, top,
    right, bottom in source pixels. Tokens whose cell has no area see padding and are in none."""
    middle = (cells[:, :2] + cells[:, 2:]) / 2
    found = torch.zeros(len(cells), dtype=torch.bool, device=cells.device)
    for left, top, right, bottom in boxes:
        corner, far = middle.new_tensor([left, top]), middle.new_tensor([right, bottom])
        found |= ((middle >= corner) & (middle < far)).all(1)
    return (found & (cells[:, 2:] > cells[:, :2]).all(1)).view(grid)


def mean_map(maps: Tensor, layers: Sequence[int], heads: Sequence[Head]) -> Tensor:
    """[.., L, A, H, W] maps of these L layers -> [.., H, W]: mean over the heads, not renormalised."""
    rows = torch.tensor([layers.index(layer) for layer, _ in heads], device=maps.device)
    columns = torch.tensor([head for _, head in heads], device=maps.device)
    return maps[..., rows, columns, :, :].float().mean(-3)


@dataclass(frozen=True, eq=False)
class HeadScores:
    """What the calibration items say of each head; all tensors [L, A] on the CPU, float64."""

    layers: tuple[int, ...]
    """Of the language model, those of the L rows."""
    items: int
    attention: Tensor
    """Mean attention to the image, sinks left out."""
    concentration: Tensor
    agreement: Tensor
    change: Tensor
    sinks: Tensor
    """Overlap (intersection over union, over all items) of what the head's own map takes for sinks with the
    tokens that are steady under two questions; 0 where there are none."""
    steady: float
    """Share of the tokens that are steady sinks, mean over the items."""
    pointing: Tensor | None
    """Share of the items with boxes whose largest value, sinks left out, lies in one; None without boxes.
    A yardstick: nothing is chosen by it unless asked for."""

    @property
    def score(self) -> Tensor:
        """[L, A]: see the module; -1 for heads that hardly look at the image."""
        follows = (self.change + self.agreement - 1).clamp(min=0)
        looks = self.attention >= LOOKS * self.attention.mean()
        return torch.where(looks, self.concentration * follows, -1.0)

    def grounding_heads(self, count: int = 3, by_boxes: bool = False) -> tuple[Head, ...]:
        """The `count` heads of the largest score, or of the largest pointing accuracy; best first, the lowest
        layer and head of equal ones. Heads below half of the best one are left out.

        Raises UsageError where no head follows the question, or where boxes are asked for and none were.
        """
        if by_boxes and self.pointing is None:
            raise UsageError("grounding heads by boxes: no calibration item has any; use a task with boxes")
        value = self.pointing if by_boxes and self.pointing is not None else self.score
        best = float(value.max())
        if best <= 0:
            raise UsageError(
                f"no attention head of layers {self.layers[0]} to {self.layers[-1]} follows the question on "
                f"the {self.items} calibration items: choose other layers, or questions about places"
            )
        return tuple(head for head in self._best(value, count) if self._of(value, head) >= best / 2)

    def sink_heads(self, count: int = 2) -> tuple[Head, ...]:
        """The `count` heads that give the steady tokens away best, if their overlap is at least a half; may
        be none, and then no token is zeroed."""
        chosen = self._best(self.sinks, count)
        return tuple(head for head in chosen if self._of(self.sinks, head) >= GIVES_AWAY)

    def _best(self, value: Tensor, count: int) -> list[Head]:
        order = descending(value.flatten())[:count].tolist()
        width = value.shape[1]
        return [(self.layers[i // width], i % width) for i in order]

    def _of(self, value: Tensor, head: Head) -> float:
        return float(value[self.layers.index(head[0]), head[1]])


class HeadSums:
    """Sums over calibration items, taken one after another."""

    def __init__(self, layers: Sequence[int], rule: SinkRule | None = None) -> None:
        self.layers = tuple(layers)
        self._rule = rule or SinkRule()
        self._items = self._boxed = 0
        self._steady = 0.0
        self._sums: dict[str, Tensor] = {}
        self._entropies: list[Tensor] = []

    def add(
        self,
        asked: Tensor,
        reworded: Tensor,
        other: Tensor,
        shown: Tensor | None = None,
        inside: Tensor | None = None,
    ) -> None:
        """One item: its response maps [L, A, H, W], not renormalised; `shown` [H, W] bool, the tokens that
        see some of the picture, None for all; `inside` [H, W] bool, what `inside_boxes` gives, where boxes
        are known. Raises ItemError for maps that are not finite or not of one shape.
        """
        if asked.shape != reworded.shape or asked.shape != other.shape or len(asked) != len(self.layers):
            raise ItemError(
                f"attention maps of {len(self.layers)} layers under 3 questions must be of one shape: got "
                f"{', '.join(str(tuple(m.shape)) for m in (asked, reworded, other))}"
            )
        for maps in (asked, reworded, other):
            check_finite(maps, "attention maps")
        sinks = steady(asked, other, self._rule, shown)
        seen = torch.ones_like(sinks) if shown is None else shown
        guess = find_sinks(asked, self._rule, shown)
        kept = seen & ~sinks
        rest = cleaned(asked, sinks, shown)
        p, r, q = (normalised(maps, kept) for maps in (asked, reworded, other))
        self._sum("attention", rest.sum((-2, -1)))
        self._sum("concentration", concentration(rest))
        self._sum("agreement", agreement(p, r))
        self._sum("change", change(p, q))
        self._sum("both", (guess & sinks).sum((-2, -1)))
        self._sum("either", (guess | sinks).sum((-2, -1)))
        self._sum("image", asked.float().sum((-2, -1)))
        self._steady += float(sinks.sum() / seen.sum().clamp(min=1))
        self._items += 1
        self._entropies.append(_entropy(asked))
        if inside is not None and bool(inside.any()):
            self._boxed += 1
            self._sum("pointing", pointing(rest, inside))

    def scores(self) -> HeadScores:
        """Raises UsageError where no item was added."""
        self._check()
        mean = {name: total / self._items for name, total in self._sums.items()}
        return HeadScores(
            layers=self.layers,
            items=self._items,
            attention=mean["attention"],
            concentration=mean["concentration"],
            agreement=mean["agreement"],
            change=mean["change"],
            sinks=self._sums["both"] / self._sums["either"].clamp(min=1),
            steady=self._steady / self._items,
            pointing=self._sums["pointing"] / self._boxed if self._boxed else None,
        )

    def entropy_heads(self, count: int = 3, per_item: int = 10) -> tuple[Head, ...]:
        """The heads of arXiv 2503.06287, best first, from the maps under the first question as they are.

        Of the heads whose mean attention to the image is at or above the elbow of all heads' (`elbow`), the
        `per_item` of lowest `spatial_entropy` on each item; then the `count` that are among them most often,
        of equally frequent ones those of lower mean entropy. A map whose bottom row lies above its mean as a
        whole is not counted, nor is one without a cell above it.

        The authors' code compares heads' NUMBERS with the number of the head at the elbow and not their
        attention, keeps no count over items, and only notes the bottom row; the paper's text is followed.
        Raises UsageError where no item was added.
        """
        self._check()
        image = (self._sums["image"] / self._items).flatten()
        entropy = torch.stack(self._entropies)
        entropy[:, image < elbow(image)] = torch.inf
        order = descending(-entropy)[:, :per_item]
        counted = torch.zeros_like(entropy).scatter_(1, order, 1.0) * entropy.isfinite()
        frequency = counted.sum(0)
        mean = torch.where(counted > 0, entropy, 0.0).sum(0) / frequency.clamp(min=1)
        by_entropy = descending(-mean).tolist()
        ranked = sorted(by_entropy, key=lambda i: -float(frequency[i]))
        width = self._sums["image"].shape[1]
        return tuple((self.layers[i // width], i % width) for i in ranked[:count] if frequency[i] > 0)

    def _sum(self, name: str, values: Tensor) -> None:
        values = values.double().cpu()
        self._sums[name] = self._sums[name] + values if name in self._sums else values

    def _check(self) -> None:
        if not self._items:
            raise UsageError("no calibration item was left to choose attention heads on: give more samples")


def elbow(values: Tensor) -> float:
    """[n] -> the value at the elbow of the ascending curve (i, value_i): where it is farthest from the chord
    between its ends; the lowest of equally far ones, and of a straight line the smallest value."""
    y = values.double().sort().values
    if len(y) < 3:
        return float(y[0])
    x = torch.arange(len(y), dtype=torch.float64) / (len(y) - 1)
    below = y[0] + x * (y[-1] - y[0]) - y  # distance to the chord but for a factor that all share
    return float(y[first_max(below.abs(), 1e-9 * float(y.abs().max()))])


def _entropy(maps: Tensor) -> Tensor:
    """[L, A, H, W] -> [L A]: spatial entropy, infinite where the whole bottom row is above the mean."""
    entropy = spatial_entropy(maps)
    bottom = (maps[..., -1, :].double() > maps.double().mean((-2, -1))[..., None]).all(-1).cpu()
    return torch.where(bottom, torch.inf, entropy).flatten()
