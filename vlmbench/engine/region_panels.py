"""What the pictures of a region run show: items, each looked at again by several methods, with the recorded
answers before and after.

The methods look again at single items, the way the engine has them look; answers are those of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.engine.panels import spread
from vlmbench.engine.plan import Request, roi_of
from vlmbench.engine.prepare import Prepared
from vlmbench.engine.regions import seen_region
from vlmbench.engine.unstable import thumbnail
from vlmbench.errors import VlmbenchError
from vlmbench.roi.base import REPLACE
from vlmbench.roi.labels import LABEL_RULES, LabelRule, pseudo_labels
from vlmbench.roi.raw_attn import RawAttn
from vlmbench.roi.sd_rpn import SdRpn
from vlmbench.roi.settled import settled
from vlmbench.roi.wrapped import Wrapped
from vlmbench.schema import Record, RegionRecord, State

if TYPE_CHECKING:
    from vlmbench.engine.looking import Looker
    from vlmbench.engine.prepare import Preparer
    from vlmbench.items import Box, Item
    from vlmbench.metrics.tabulate import Variation
    from vlmbench.models.features import EncoderOutput
    from vlmbench.roi.base import RoiMethod, Signals
    from vlmbench.roi.rpn_file import RpnConfig

Records = Mapping[tuple[str, str, str], Record]
"""By task, item and condition."""

SIDE = 320
"""Pixels along the longer side of what is kept of a picture."""

MOST = 24
"""Methods of an item that are shown."""

_SAME = 1.0
"""Source pixels by which a side of a box may differ from the recorded one."""


@dataclass(frozen=True)
class Answered:
    """What the model said to one request."""

    answer: str | None
    """Its text; None where it gave none."""
    score: float | None
    state: str


@dataclass(frozen=True, eq=False)
class Sighted:
    """A picture as the model was shown it, without a region."""

    picture: Image.Image
    boxes: tuple[Box, ...]
    """What the question is about, in shares of the picture's sides; empty where it is not known."""


@dataclass(frozen=True, eq=False)
class TokenMap:
    """A method's map over the grid of visual tokens, H x W."""

    values: NDArray[np.float32]
    """[H, W], larger is more to the point; NaN where a token sees padding alone."""
    rows: NDArray[np.float64]
    """[H, 2]: upper and lower edge of what each row sees, in shares of the picture; NaN for padding."""
    columns: NDArray[np.float64]
    """[W, 2]: left and right edge, likewise."""
    labels: NDArray[np.int8] | None = None
    """[H, W]: 1 foreground, 0 background, -1 ignored, of what a network is taught with; None for others."""
    unlabelled: str = ""
    """Why there are no labels, where there could be some."""


@dataclass(frozen=True, eq=False)
class RegionPanel:
    """One item under one method."""

    name: str
    at: int
    """Place of its picture among those of the item."""
    before: Answered | None = None
    """Without the method; None where that was never computed, as is `after`."""
    after: Answered | None = None
    map: TokenMap | None = None
    box: Box | None = None
    """Where it looked again, in shares of the picture's sides."""
    mask: NDArray[np.bool_] | None = None
    """[H, W] of the map's grid: which tokens are the region, where that is not all of the box."""
    crop: Image.Image | None = None
    """What the model was shown of it."""
    replaces: bool = False
    """The crop was shown in place of the picture, not beside it."""
    enlarges: bool = False
    """The whole picture was shown larger; there is no region."""
    told: RegionRecord | None = None
    """As recorded."""
    tokens: int | None = None
    """Visual tokens that enter the language model: of a region given back token by token, its own alone."""
    tokens_before: int | None = None
    detail: str = ""
    """Why there is no answer, or no picture."""
    failed: bool = False
    """An error, not a method that does not apply."""
    as_recorded: bool = True
    """False where this look found another region than the run did: rounding, in another batch size."""


@dataclass(frozen=True, eq=False)
class ItemRegions:
    """What a picture shows of an item."""

    task: str
    item: str
    category: str
    question: str
    expected: tuple[str, ...]
    """Right answers, the most frequent first; none where the task has none."""
    sights: tuple[Sighted, ...]
    """The pictures that methods looked at, each once; at least one."""
    panels: tuple[RegionPanel, ...]
    images: int = 1
    """Of the item; methods look at the first one."""
    left_out: int = 0
    """Methods beyond MOST."""


def region_panels(
    preparer: Preparer,
    looker: Looker,
    task: str,
    items: Sequence[Item],
    variations: Sequence[Variation],
    records: Records,
    count: int,
) -> Iterator[ItemRegions]:
    """Panels of `count` items with images, as far as there are any; see `disagreeing` for which.

    Conditions without a RoI method are left out. `records` are the run's.
    """
    shown = [v for v in variations if v.condition.roi is not None]
    with_images = [item for item in items if item.images and not item.meta.get("error")]
    found = 0
    for item in disagreeing(with_images, task, shown, records) if shown else ():
        if found == count:
            return
        drawn = _Item(preparer, looker, task, item, records).drawn(shown)
        if drawn is not None:
            found += 1
            yield drawn


def disagreeing(
    items: Sequence[Item], task: str, variations: Sequence[Variation], records: Records
) -> list[Item]:
    """The items in another order: those that some methods get right and some wrong, the plain model among
    them, then those with different answers, then the others; `spread` over images within each."""
    kinds: tuple[list[Item], list[Item], list[Item]] = [], [], []
    for item in items:
        names = {c.id for v in variations for c in (v.condition, replace(v.condition, roi=None))}
        found = [r for name in sorted(names) if (r := records.get((task, item.id, name))) is not None]
        counted = [record for record in found if record.state.counts]
        right = {record.score > 0.5 for record in counted if record.score is not None}
        answers = {(record.state, record.answer) for record in counted}
        kinds[0 if len(right) > 1 else 1 if len(answers) > 1 else 2].append(item)
    return [item for kind in kinds for item in spread(kind)]


class _Item:
    """One item, whose pictures are encoded once for all methods."""

    def __init__(self, preparer: Preparer, looker: Looker, task: str, item: Item, records: Records) -> None:
        self.preparer, self.looker, self.task, self.item, self.records = preparer, looker, task, item, records
        self.sights: dict[str, tuple[int, Sighted]] = {}
        self.encoded: dict[str, EncoderOutput] = {}

    def drawn(self, variations: Sequence[Variation]) -> ItemRegions | None:
        """None where no method could be shown a picture."""
        panels = [self._panel(variation) for variation in variations[:MOST]]
        if not self.sights:
            return None
        return ItemRegions(
            self.task,
            self.item.id,
            self.item.category,
            self.item.changed(instruction="").text(),
            tuple(answer for answer, _ in Counter(self.item.answers).most_common()),
            tuple(sight for _, sight in self.sights.values()),
            tuple(panels),
            len(self.item.images),
            max(0, len(variations) - MOST),
        )

    def _panel(self, variation: Variation) -> RegionPanel:
        condition = variation.condition
        plain = self._record(replace(condition, roi=None).id)
        record = self._record(condition.id)
        method = roi_of(condition)
        assert method is not None
        method = settled(method, self.looker.config)
        panel = RegionPanel(
            condition.id,
            0,
            _answered(plain),
            _answered(record),
            enlarges=method.enlarges,
            replaces=method.given == REPLACE,
            told=None if record is None else record.roi,
            tokens=_entering(record),
            tokens_before=_entering(plain),
            detail="never computed" if record is None else record.detail,
            failed=record is None or record.state is State.ERROR,
        )
        prepared = self.preparer.prepare(Request(self.task, self.item, condition))
        if not isinstance(prepared, Prepared):
            return panel
        panel = replace(panel, at=self._sight(prepared))
        if record is None or not record.state.counts:
            return panel
        try:
            return self._looked(panel, method, prepared)
        except (VlmbenchError, RuntimeError) as error:
            # it went well in the batch of the run: one picture less is no reason to lose the others
            return replace(panel, failed=True, detail=f"not drawn: {' '.join(str(error).split())[:200]}")

    def _record(self, condition: str) -> Record | None:
        return self.records.get((self.task, self.item.id, condition))

    def _sight(self, prepared: Prepared) -> int:
        """Its place; a picture that another method looked at has one already."""
        # a method that enlarges is shown the same picture, not another one
        group = prepared.pixels.pixels_hash or prepared.group
        if group not in self.sights:
            image = prepared.pixels.images[0]
            small = thumbnail([image], SIDE)
            assert small is not None
            boxes = tuple(_shares(box, image.size) for box in prepared.boxes)
            self.sights[group] = len(self.sights), Sighted(small, boxes)
        return self.sights[group][0]

    def _looked(self, panel: RegionPanel, method: RoiMethod, prepared: Prepared) -> RegionPanel:
        if prepared.group not in self.encoded:
            self.encoded[prepared.group] = self.preparer.adapter.encode([prepared.row], frozenset())
        encoded = self.encoded[prepared.group]
        by_group = {prepared.group: encoded.features[0]}
        (looked,) = self.looker.look(method, [prepared], encoded, by_group, 1)
        if isinstance(looked, VlmbenchError):
            raise looked
        region = looked.region
        found = seen_region(prepared, looked)
        panel = replace(panel, map=_map(method, looked.signals, self.looker.config))
        if region is not None:
            crop = looked.prepared.pixels.images[0 if panel.replaces else -1]
            size = prepared.pixels.images[0].size
            panel = replace(
                panel,
                box=_shares(region.box, size),
                mask=None if region.mask is None or bool(region.mask.all()) else region.mask.cpu().numpy(),
                crop=thumbnail([crop], SIDE),
            )
        return replace(panel, told=panel.told or found, as_recorded=_same(panel.told, found))


def _answered(record: Record | None) -> Answered | None:
    return None if record is None else Answered(record.raw, record.score, str(record.state))


def _shares(box: Box, size: tuple[int, int]) -> Box:
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def _same(recorded: RegionRecord | None, found: RegionRecord) -> bool:
    if recorded is None:
        return True
    if recorded.box is None or found.box is None:
        return recorded.box is found.box
    return all(abs(a - b) <= _SAME for a, b in zip(recorded.box, found.box, strict=True))


def _map(method: RoiMethod, signals: Signals, config: RpnConfig | None) -> TokenMap | None:
    """None of methods that look at no map."""
    map = method.map(signals)
    if map is None:
        return None
    shown = signals.shown.view(signals.grid).numpy()
    values = np.where(shown, map.detach().float().cpu().numpy(), np.nan).astype(np.float32)
    cells = signals.cells.view(*signals.grid, 4).numpy() / np.array([*signals.size, *signals.size])
    rows, columns = _span(cells[..., 1::2], shown), _span(cells[..., ::2].swapaxes(0, 1), shown.T)
    found = TokenMap(values, rows, columns)
    taught = method.inner if isinstance(method, Wrapped) else method
    if not isinstance(taught, RawAttn | SdRpn):
        return found
    known = signals.shown.view(1, *signals.grid)
    labels = pseudo_labels(map.detach().float().cpu()[None], label_rule(config), shown=known)
    if labels.reasons[0]:
        return replace(found, unlabelled=labels.reasons[0])
    return replace(found, labels=labels.labels[0].numpy())


def _span(edges: NDArray[np.float64], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n, m, 2] edges of the tokens of n lines -> [n, 2] of the lines; NaN where none sees the picture."""
    low = np.where(shown, edges[..., 0], np.inf).min(1)
    high = np.where(shown, edges[..., 1], -np.inf).max(1)
    return np.where(np.isfinite(low)[:, None], np.stack([low, high], 1), np.nan)


def label_rule(config: RpnConfig | None) -> LabelRule:
    """That of the network's file as far as it says, else this project's."""
    told: Mapping[str, Any] = {} if config is None else config.labels
    preset = LABEL_RULES.get(str(told.get("rule", "")), LABEL_RULES["default"])
    known = {field.name for field in fields(LabelRule)}
    return replace(preset, **{name: value for name, value in told.items() if name in known})


def _entering(record: Record | None) -> int | None:
    if record is None:
        return None
    return record.layer_tokens[0] if record.layer_tokens else record.visual_tokens
