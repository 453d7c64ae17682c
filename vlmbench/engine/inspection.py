"""What happens inside the model under a perturbation: forecast margins, moved features, drifted states.

A pass of its own once the unperturbed requests are answered. Nothing of it enters a record; each item is a
line of `inspection.jsonl` in the run folder, and an interrupted pass goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from vlmbench.conditions import CLEAN, Condition
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.engine.progress import Progress
from vlmbench.engine.store import drop_half_line
from vlmbench.models.energy import dirichlet_energy
from vlmbench.models.gradient import MarginGradient, last_states, margin_gradients
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.items import Item
    from vlmbench.models.features import EncoderOutput, ImageFeatures

FILE = "inspection.jsonl"


class Look(BaseModel):
    """One item; the dictionaries are by condition."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="of the run, the item and what was looked at")
    item: str
    cluster: str
    margin: float | None = Field(None, description="smallest logit margin of the clean answer")
    forecast: dict[str, float] = Field({}, description="that margin as its gradient foretells it")
    feature_drift: dict[str, float] = Field(
        {}, description="|Z' - Z| / |Z| of the visual tokens; none where their number changed"
    )
    energy: dict[str, float] = Field({}, description="Dirichlet energy of the visual tokens, `clean` too")
    state_drift: dict[str, float] = Field({}, description="1 - cosine of the last prompt token's states")
    unrelated: float | None = Field(None, description="the same to the items of other images in its batch")
    milliseconds: dict[str, float] = Field(
        {},
        description="of the batch, divided by its rows: encode, backward, state of the clean request; "
        "variant: to encode one variant",
    )


@dataclass(frozen=True)
class Wanted:
    """An item that has an image and whose clean request was answered, and what to compare that with."""

    item: Item
    conditions: Sequence[Condition]
    """Image perturbations, and for drift question perturbations."""
    clean: str = ""
    """Key of the clean request's record: with other pixels it is another look."""


@dataclass(frozen=True)
class Inspection:
    """What to look at."""

    forecast: bool
    drift: bool
    rows: int
    """Rows of a batch."""
    identity: str
    """Hash of what is common to the run."""
    show_progress: bool = True

    def key(self, task: str, wanted: Wanted) -> str:
        names = [condition.id for condition in wanted.conditions]
        return digest(self.identity, task, wanted.item.id, wanted.clean, self.forecast, self.drift, names)


def inspect(
    preparer: Preparer,
    task: str,
    wanted: Sequence[Wanted],
    folder: Path,
    settings: Inspection,
) -> list[Look]:
    """A look at each item under its conditions. Items whose images cannot be prepared are left out."""
    path = folder / FILE
    drop_half_line(path)
    known = {look.key: look for look in _read(path)}
    keys = [settings.key(task, each) for each in wanted]
    inspector = _Inspector(preparer, task, settings)
    with Progress(len(wanted), settings.show_progress) as progress, path.open("a") as file:
        # cut from all that is wanted: what stands in a batch does not depend on what is there already
        for start in range(0, len(wanted), settings.rows):
            batch = slice(start, start + settings.rows)
            some = list(zip(wanted[batch], keys[batch], strict=True))
            if any(key not in known for _, key in some):
                for look in inspector.look(some):
                    if look.key not in known:
                        known[look.key] = look
                        file.write(look.model_dump_json() + "\n")
                file.flush()
            progress.advance(len(some))
    return [known[key] for key in keys if key in known]


def known_looks(task: str, wanted: Sequence[Wanted], folder: Path, settings: Inspection) -> list[Look]:
    """What `inspect` has written of these, perhaps in another process."""
    known = {look.key: look for look in _read(folder / FILE)}
    return [known[key] for each in wanted if (key := settings.key(task, each)) in known]


def _read(path: Path) -> Iterator[Look]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield Look.model_validate_json(line)
        except ValidationError:  # the write was cut off: the item is looked at again
            continue


@dataclass(frozen=True, eq=False)
class _Row:
    """An item with what was found on its clean request."""

    item: Item
    conditions: Sequence[Condition]
    features: ImageFeatures
    found: MarginGradient | None
    state: Tensor | None


class _Inspector:
    def __init__(self, preparer: Preparer, task: str, settings: Inspection) -> None:
        self.preparer, self.task, self.settings = preparer, task, settings
        self.adapter = preparer.adapter

    def look(self, some: Sequence[tuple[Wanted, str]]) -> list[Look]:
        ready = [(each, key, p) for each, key in some if (p := self._prepare(each.item, CLEAN)) is not None]
        if not ready:
            return []
        milliseconds: dict[str, float] = {}
        rows = self._clean([(each, p) for each, _, p in ready], milliseconds)
        pairs = [
            (row, self._start(row, rows, key, milliseconds))
            for row, (_, key, _) in zip(rows, ready, strict=True)
        ]
        spent = [
            self._vary(condition, [pair for pair in pairs if condition in pair[0].conditions])
            for condition in dict.fromkeys(c for row in rows for c in row.conditions)
        ]
        variants = sum(count for _, count in spent)
        for _, look in pairs if variants else ():
            look.milliseconds["variant"] = round(sum(each for each, _ in spent) / variants, 3)
        return [look for _, look in pairs]

    def _prepare(self, item: Item, condition: Condition) -> Prepared | None:
        prepared = self.preparer.prepare(Request(self.task, item, condition))
        return prepared if isinstance(prepared, Prepared) and prepared.row.visual_tokens else None

    def _encode(self, ready: Sequence[Prepared]) -> tuple[EncoderOutput, list[ImageFeatures]]:
        """Distinct pictures once; features per row."""
        distinct = {p.request.pixels_group: p.row for p in ready}
        encoded = self.adapter.encode([*distinct.values()], frozenset() if self.settings.drift else None)
        by_group = dict(zip(distinct, encoded.features, strict=True))
        return encoded, [by_group[p.request.pixels_group] for p in ready]

    def _clean(self, ready: Sequence[tuple[Wanted, Prepared]], milliseconds: dict[str, float]) -> list[_Row]:
        prepared = [p for _, p in ready]
        start = time.perf_counter()
        encoded, features = self._encode(prepared)
        self.adapter.synchronize()
        milliseconds["encode"] = _since(start) / len(prepared)
        inputs = [p.row for p in prepared]
        found: Sequence[MarginGradient | None] = [None] * len(prepared)
        states: Sequence[Tensor | None] = [None] * len(prepared)
        if self.settings.forecast:
            start = time.perf_counter()
            most = self.preparer.max_new_tokens[self.task]
            found = margin_gradients(self.adapter, inputs, encoded, features, most)
            self.adapter.synchronize()
            milliseconds["backward"] = _since(start) / len(inputs)
        if self.settings.drift:
            start = time.perf_counter()
            states = [*last_states(self.adapter, inputs, encoded, features)]
            milliseconds["state"] = _since(start) / len(inputs)
        return [
            _Row(wanted.item, wanted.conditions, *each)
            for (wanted, _), each in zip(ready, zip(features, found, states, strict=True), strict=True)
        ]

    def _start(self, row: _Row, rows: Sequence[_Row], key: str, milliseconds: Mapping[str, float]) -> Look:
        look = Look(key=key, item=row.item.id, cluster=row.item.cluster)
        look.milliseconds = {name: round(value, 3) for name, value in milliseconds.items()}
        if row.found is not None and math.isfinite(row.found.margin):
            look.margin = row.found.margin
        if row.state is not None:
            _note(look.energy, CLEAN, _energy(row.features))
            others = [other for other in rows if other.item.cluster != row.item.cluster]
            apart = [_distance(row.state, other.state) for other in others if other.state is not None]
            look.unrelated = sum(apart) / len(apart) if apart else None
        return look

    def _vary(self, condition: Condition, pairs: Sequence[tuple[_Row, Look]]) -> tuple[float, int]:
        """Notes what is found; (milliseconds to encode them, how many) of image variants."""
        both = [(*pair, p) for pair in pairs if (p := self._prepare(pair[0].item, condition)) is not None]
        if not both:
            return 0.0, 0
        start = time.perf_counter()
        encoded, features = self._encode([p for _, _, p in both])
        self.adapter.synchronize()
        spent = _since(start)
        states: Sequence[Tensor | None] = [None] * len(both)
        if self.settings.drift:
            states = [*last_states(self.adapter, [p.row for _, _, p in both], encoded, features)]
        for (row, look, _), after, state in zip(both, features, states, strict=True):
            if condition.image is not None:
                if row.found is not None:
                    _note(look.forecast, condition, row.found.forecast(row.features, after))
                _note(look.feature_drift, condition, _moved(row.features, after))
            if state is not None and row.state is not None:
                _note(look.state_drift, condition, _distance(row.state, state))
                if condition.image is not None:
                    _note(look.energy, condition, _energy(after))
        return (spent, len(both)) if condition.image is not None else (0.0, 0)


def _note(values: dict[str, float], condition: Condition, value: float | None) -> None:
    if value is not None and math.isfinite(value):  # half precision may overflow, and JSON has no such number
        values[condition.id] = float(f"{value:.6g}")


def _moved(before: ImageFeatures, after: ImageFeatures) -> float | None:
    if before.rows.shape != after.rows.shape:
        return None
    size = float(before.rows.float().norm())
    return float((after.rows - before.rows).float().norm()) / size if size else None


def _energy(features: ImageFeatures) -> float | None:
    """Mean over the images of a request."""
    found = [
        energy
        for image in features.images
        if (energy := dirichlet_energy(features.rows[image.start : image.stop], image.grid)) is not None
    ]
    return sum(found) / len(found) if found else None


def _distance(a: Tensor, b: Tensor) -> float:
    return 1 - float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
