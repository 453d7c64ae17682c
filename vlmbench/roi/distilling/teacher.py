"""Where the frozen model looks while it answers: which heads tell it, and the labels made of them.

Heads are ranked without boxes (`roi.heads`); labels are those of `roi.labels`. Where boxes are known, how
well the maps point at them is told beside, and nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.metrics.regions import map_auroc, pointing
from vlmbench.models.responses import responses
from vlmbench.roi.distilling.questions import Triple, triples
from vlmbench.roi.distilling.showing import shown_cells
from vlmbench.roi.heads import HeadSums, inside_boxes, mean_map
from vlmbench.roi.labels import LabelRule, cleaned, count_reasons, pseudo_labels
from vlmbench.roi.sinks import SinkRule, find_sinks

if TYPE_CHECKING:
    from vlmbench.items import Box, Item
    from vlmbench.roi.distilling.showing import Shower, Shown
    from vlmbench.roi.heads import Head
    from vlmbench.roi.reading import View

Progress = Callable[[int], None]
"""Told how many questions are done since it was last called."""

UNASKED = "cannot be asked"


class NothingToCompareError(UsageError):
    """No question from which heads could be chosen; named ones need none."""


@dataclass(frozen=True)
class Teacher:
    """How the model's own attention becomes labels."""

    rows: str
    """Of `models.responses.ROWS`."""
    grounding_heads: tuple[Head, ...]
    sink_heads: tuple[Head, ...]
    label_rule: LabelRule
    sink_rule: SinkRule
    entropy_heads: tuple[Head, ...] = ()
    """Those of arXiv 2503.06287, held against the grounding heads and used for nothing else."""

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(
            sorted({layer for layer, _ in self.grounding_heads + self.sink_heads + self.entropy_heads})
        )


@dataclass(frozen=True)
class Pointing:
    """How well a map tells where the boxes are; None where there are none."""

    pointing: bool | None = None
    auroc: float | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a question has taught."""

    id: str
    labels: Tensor
    """[H, W] int8: 1, 0, -1; all -1 where there is a reason, [0, 0] where nothing could be asked."""
    reason: str = ""
    sinks: float = 0.0
    """Share of the shown tokens that were zeroed."""
    teacher: Pointing = Pointing()
    entropy: Pointing = Pointing()
    """Of the map of the entropy heads."""


def calibration_layers(depth: int, start: int, layers: int) -> tuple[int, ...]:
    """Layers whose heads may teach a network of layers `start` to `start + layers` - 1: from a third of the
    depth on to the network's last one, and to five sixths of the depth at least. What the paper chose by hand
    lies in there, for all four of its models."""
    last = max(start + layers, math.ceil(depth * 5 / 6))
    return tuple(range(depth // 3, min(depth, last)))


def choose_heads(
    shower: Shower,
    items: Sequence[Item],
    layers: Sequence[int],
    rows: str,
    rule: SinkRule,
    seed: int,
    batch: int,
    progress: Progress,
) -> HeadSums:
    """Sums over the questions of what each head does under three questions on each picture.

    Raises NothingToCompareError where no question has a rewording and another question beside it.
    """
    sums = HeadSums(layers, rule)
    found = list(triples(items, seed))
    if not found:
        raise NothingToCompareError(
            "no question to choose attention heads on: each needs another wording and another question "
            "beside it; name the heads with --heads"
        )
    taken, refused = 0, dict[str, str]()
    for i in range(0, len(found), batch):
        part = found[i : i + batch]
        taken += _add(sums, shower, part, layers, rows, refused)
        progress(len(part))
    if not taken:
        told = _told([f"{UNASKED}: {reason}" for reason in refused.values()])
        raise NothingToCompareError(f"no question to choose attention heads on: {told}")
    return sums


def _add(
    sums: HeadSums,
    shower: Shower,
    part: Sequence[Triple],
    layers: Sequence[int],
    rows: str,
    refused: dict[str, str],
) -> int:
    asked, reworded, other = (
        {shown.item.id: (shown, maps) for shown, maps in _maps(shower, items, layers, rows, refused)}
        for items in (
            [each.asked for each in part],
            # of one id, so that the three are found again
            [each.reworded.changed(id=each.asked.id) for each in part],
            [each.other.changed(id=each.asked.id) for each in part],
        )
    )
    both = [name for name in asked if name in reworded and name in other]
    for name in both:
        shown, maps = asked[name]
        inside = inside_boxes(shown.view.cells, shown.item.boxes, shown.view.grid)
        sums.add(maps, reworded[name][1], other[name][1], shown_cells(shown.view), inside)
    return len(both)


def label(shower: Shower, teacher: Teacher, items: Sequence[Item], told: bool) -> list[Labelled]:
    """One per question of a batch, in order. told: whether maps are held against boxes."""
    refused: dict[str, str] = {}
    maps = {
        shown.item.id: (shown, m) for shown, m in _maps(shower, items, teacher.layers, teacher.rows, refused)
    }
    found = []
    for item in items:
        if item.id not in maps:
            reason = f"{UNASKED}: {refused[item.id]}"
            found.append(Labelled(item.id, torch.empty(0, 0, dtype=torch.int8), reason))
            continue
        found.append(_labelled(teacher, *maps[item.id], told))
    return found


def _labelled(teacher: Teacher, shown: Shown, maps: Tensor, told: bool) -> Labelled:
    layers, seen = teacher.layers, shown_cells(shown.view)
    map = mean_map(maps, layers, teacher.grounding_heads)
    sinks = torch.zeros_like(seen)
    if teacher.sink_heads:
        sinks = find_sinks(mean_map(maps, layers, teacher.sink_heads), teacher.sink_rule, seen)
    made = pseudo_labels(map[None], teacher.label_rule, sinks[None], seen)
    own = other = Pointing()
    if told:
        own = points(cleaned(map, sinks, seen), shown.item.boxes, shown.view)
        if teacher.entropy_heads:
            published = mean_map(maps, layers, teacher.entropy_heads)
            other = points(cleaned(published, None, seen), shown.item.boxes, shown.view)
    return Labelled(shown.item.id, made.labels[0], made.reasons[0], float(made.sinks[0]), own, other)


def points(map: Tensor, boxes: Sequence[Box], view: View) -> Pointing:
    """A map [H, W] held against the boxes of the question."""
    if not boxes:
        return Pointing()
    values, cells = map.detach().float().cpu().numpy().ravel(), view.cells.numpy()
    hit, auroc = pointing(values, cells, boxes), map_auroc(values, cells, boxes)
    return Pointing(hit, None if math.isnan(auroc) else auroc)


def _maps(
    shower: Shower, items: Sequence[Item], layers: Sequence[int], rows: str, refused: dict[str, str]
) -> Iterator[tuple[Shown, Tensor]]:
    """[L, A, H, W] of each that can be asked; the reasons of the others go to `refused`, by id."""
    batch = shower.show(items)
    refused |= batch.refused
    if batch.encoded is None:
        return
    said = responses(
        shower.adapter, batch.rows, batch.encoded, batch.features, shower.max_new_tokens, layers, rows
    )
    for shown, response in zip(batch.shown, said, strict=True):
        maps = torch.stack([response.attention[layer] for layer in layers])
        yield shown, maps[:, :, shown.view.index].view(*maps.shape[:2], *shown.view.grid)


def check_labels(labelled: Sequence[Labelled], least: int, what: str) -> None:
    """Raises UsageError, saying why others were dropped, where fewer than `least` questions have labels."""
    usable = sum(not each.reason for each in labelled)
    if usable < least:
        raise UsageError(
            f"too few usable labels {what}: {usable} of {len(labelled)} questions, at least {least} are "
            f"needed; dropped: {_told([each.reason for each in labelled])}. Give more --samples, questions "
            "about places in the picture, or other --heads"
        )


def _told(reasons: Sequence[str]) -> str:
    """Each kind with its count, and of questions that could not be asked why the first one could not."""
    counted = count_reasons(reasons)
    why = next((reason.partition(": ")[2] for reason in reasons if ": " in reason), "")
    parts = [f"{n} {kind}" + f" ({why})" * (kind == UNASKED and bool(why)) for kind, n in counted.items()]
    return ", ".join(parts) or "none"
