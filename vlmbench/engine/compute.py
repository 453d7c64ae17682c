"""One batch through the model: encode each distinct picture once, answer all rows, keep the figures."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from vlmbench.engine.choice import choose, overlap
from vlmbench.engine.looking import Looked, Looker
from vlmbench.engine.origins import Origins, Shown
from vlmbench.engine.plan import Batch, Request, draw_of, pictures_of, pruner_of, roi_of
from vlmbench.engine.prepare import Prepared, Settled
from vlmbench.engine.regions import seen_region
from vlmbench.engine.sight import Evidence, Sight, recall
from vlmbench.errors import ItemError, NotApplicableError, VlmbenchError
from vlmbench.models.decoding import Generation
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.schema import Record, State
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.inputs import RowInputs
    from vlmbench.prune.base import Pruner
    from vlmbench.tasks.scorers.base import Scorer


@dataclass
class Backoff:
    """The most rows that fitted into memory so far; later batches start from there."""

    rows: int = 1 << 30


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model said, and what it was left to see."""

    generation: Generation
    evidence: tuple[float, ...]
    """Share of each box asked about that kept tokens see; empty where there is none or it means nothing."""
    overlap: float | None
    """Share of the kept tokens that see the place of one kept of the unperturbed request."""
    looked: Looked | None = None
    """Where a RoI method looked again, and what the model was shown then."""


@dataclass(frozen=True)
class Answerer:
    """What turns prepared rows into records: a model, the scorer of each task, the tie tolerance."""

    sight: Sight
    scorers: Mapping[str, Scorer]
    max_new_tokens: Mapping[str, int]
    identity: str
    """Hash of everything common to the run; part of every record's key."""
    tie_tolerance: float
    seed: int = 0
    newline: str = "counted"
    """What becomes of newline tokens; see `prune.NEWLINES`."""
    needs: frozenset[str] | None = None
    """What the pruners of the run want captured; None where none prunes."""
    encodings: OrderedDict[tuple[tuple[str, ...], int], EncoderOutput] = field(
        default_factory=OrderedDict, repr=False
    )
    """Of the last few batches; methods and ratios on the same pictures share one."""
    backoff: Backoff = field(default_factory=lambda: Backoff())
    with_origins: bool = False
    """Whether the choice of tokens under a perturbation is compared with that on the unperturbed request."""
    origins: Origins = field(default_factory=lambda: Origins(), repr=False)
    looker: Looker | None = None
    """None where no request has a RoI method."""

    @property
    def adapter(self) -> Adapter:
        return self.sight.adapter

    def batch(self, batch: Batch, prepared: Sequence[Prepared | Settled], prepare_ms: float) -> list[Record]:
        """A record per request of the batch, in its order."""
        ready = [(i, p) for i, p in enumerate(prepared) if isinstance(p, Prepared)]
        answers: dict[int, Answer | Exception] = {}
        times = {"prepare": prepare_ms, "encode": 0.0, "generate": 0.0}
        if ready:
            pictures = pictures_of(batch.requests, self.with_origins)
            outcome = self._answer([p for _, p in ready], batch.rows, pictures, times)
            failures = [a for a in outcome if isinstance(a, Exception) and not isinstance(a, VlmbenchError)]
            if len(failures) == len(outcome) > 1 and not any(map(is_out_of_memory, failures)):
                raise failures[0]  # not one bad item but a model or a program that cannot work
            answers = {i: answer for (i, _), answer in zip(ready, outcome, strict=True)}
        times = {stage: round(total / len(batch.requests), 3) for stage, total in times.items()}
        records = []
        for i, (request, item) in enumerate(zip(batch.requests, prepared, strict=True)):
            if isinstance(item, Settled):
                records.append(settled_record(request, item, self.identity, batch.id))
            else:
                records.append(self._record(item, answers[i], times, batch.id))
        return records

    def _answer(
        self, ready: Sequence[Prepared], rows: int, pictures: int, times: dict[str, float]
    ) -> list[Answer | Exception]:
        """Generations; halves on failure until the rows that cannot be computed stand alone."""
        if rows <= self.backoff.rows:
            try:
                return self.forward(ready, rows, pictures, times)
            except (RuntimeError, ValueError, IndexError, TypeError, ItemError) as error:
                if rows == 1 or (isinstance(error, VlmbenchError) and not isinstance(error, ItemError)):
                    return [error]
                if is_out_of_memory(error):
                    self.backoff.rows = rows // 2
                    self.encodings.clear()
                    self.origins.memo.clear()
        _free_memory()
        half = (rows + 1) // 2
        parts = [ready[start : start + half] for start in range(0, len(ready), half)]
        return [
            answer
            for part in parts
            for answer in self._answer(
                part, half, pictures_of([p.request for p in part], self.with_origins), times
            )
        ]

    def forward(
        self, ready: Sequence[Prepared], rows: int, pictures: int, times: dict[str, float]
    ) -> list[Answer | Exception]:
        """`rows` rows and `pictures` encodings whatever the number of requests: equal shapes, equal bits."""
        start = time.perf_counter()
        encoded, by_group = self._encode(ready, pictures)
        self.adapter.synchronize()
        encoding = time.perf_counter()
        looked, blind = self._look(ready, encoded, by_group, rows)
        ready = [looked[i].prepared if i in looked else p for i, p in enumerate(ready)]
        by_group = {**by_group, **{each.prepared.group: each.features for each in looked.values()}}
        looking = time.perf_counter()
        pruner = pruner_of(ready[0].request.condition)
        shown = Shown(by_group, encoded, rows, self.seed, self.newline)
        choice = choose(self.sight, pruner, ready, shown, self.origins)
        if pruner is not None:
            self.adapter.synchronize()
        pruning = time.perf_counter()
        applied = choice.applied.refusing(blind)
        going = [i for i in range(len(ready)) if i not in applied.refused]
        answers: dict[int, Answer] = {}
        if going:
            filled = [*going, *[going[-1]] * (rows - len(going))]
            longest = max(self.max_new_tokens[ready[i].request.task] for i in going)
            draws = [draw_of(ready[i].request, self.seed) for i in filled]
            # a pruner takes from the beginning of the prompt too
            taken_up = looked if pruner is None else {}
            begun = [taken_up[i].begun if i in taken_up else None for i in filled]
            generations = self.adapter.answer(
                [ready[i].row for i in filled], encoded, applied.take(filled), longest, draws, begun
            )
            for i, generation in zip(going, generations, strict=False):
                features = by_group.get(ready[i].group)
                same = overlap(self.sight, choice.before[i], ready[i], features, generation.kept)
                look = looked.get(i)
                # boxes are of the first picture: what a region shows of them again would not count
                twice = look is not None and look.region is not None
                kept = () if twice else _recall(pruner, generation, choice.evidence[i])
                # what was read of the prompt is large, and of no use once the answer is there
                answers[i] = Answer(generation, kept, same, look and replace(look, begun=None))
        end = time.perf_counter()
        times["encode"] += (encoding - start) * 1e3
        if looked or blind:
            times["look"] = times.get("look", 0.0) + (looking - encoding) * 1e3
        times["prune"] = times.get("prune", 0.0) + (pruning - looking) * 1e3
        times["generate"] += (end - pruning) * 1e3
        return [applied.refused.get(i) or answers[i] for i in range(len(ready))]

    def _look(
        self,
        ready: Sequence[Prepared],
        encoded: EncoderOutput | None,
        by_group: Mapping[str, ImageFeatures],
        rows: int,
    ) -> tuple[dict[int, Looked], dict[int, NotApplicableError]]:
        """What a RoI method found, by row, and the reasons where it cannot serve one; two empty ones where
        none is asked for."""
        method = roi_of(ready[0].request.condition)
        if method is None or method.enlarges or self.looker is None:
            return {}, {}
        assert encoded is not None  # a request without an image is settled before
        found = self.looker.look(method, ready, encoded, by_group, rows)
        self.adapter.synchronize()
        looked = {i: each for i, each in enumerate(found) if isinstance(each, Looked)}
        return looked, {i: each for i, each in enumerate(found) if not isinstance(each, Looked)}

    def _encode(
        self, ready: Sequence[Prepared], pictures: int
    ) -> tuple[EncoderOutput | None, dict[str, ImageFeatures]]:
        """The distinct pictures of a batch, by pixel group; taken over from the batch before if they are
        the same, which changes no bit: the shape of the encoding follows from the groups alone."""
        shown = [*ready, *(p.origin for p in ready if p.origin is not None)]
        distinct = {p.group: p.row for p in shown if p.row.visual_tokens}
        if not distinct:
            return None, {}
        key = (tuple(distinct), pictures)
        if key not in self.encodings:
            units = [*distinct.values()]
            units += [units[-1]] * (pictures - len(units))
            self.encodings[key] = self.adapter.encode(units, self.needs)
            while len(self.encodings) > 2:
                self.encodings.popitem(last=False)
        encoded = self.encodings[key]
        return encoded, dict(zip(distinct, encoded.features, strict=False))

    def _record(
        self, prepared: Prepared, found: Answer | Exception, times: dict[str, float], batch: str
    ) -> Record:
        looked = found.looked if isinstance(found, Answer) else None
        asked, prepared = prepared, looked.prepared if looked else prepared
        request, pixels = prepared.request, prepared.pixels
        answer = found.generation if isinstance(found, Answer) else found
        common: dict[str, Any] = {
            "task": request.task,
            "item": request.item.id,
            "condition": request.condition.id,
            "key": digest(self.identity, *request.key, prepared.prompt_hash, pixels.pixels_hash),
            "prompt_tokens": prepared.row.length,
            "visual_tokens": prepared.row.visual_tokens,
            "layer_tokens": _layer_tokens(prepared.row, answer),
            "kept_hash": answer.kept_hash if isinstance(answer, Generation) else None,
            **(_evidence(found.evidence) if isinstance(found, Answer) else {}),
            "kept_overlap": found.overlap if isinstance(found, Answer) else None,
            "image_size": [image.size for image in pixels.images],
            "input_size": list(prepared.row.input_size),
            "displacement": prepared.displacement,
            "roi": None if looked is None else seen_region(asked, looked),
            # another item's picture says nothing of this item's
            "source_hash": None if request.images else pixels.source_hash,
            "pixels_hash": pixels.pixels_hash,
            "stamp": request.item.stamp,
            "prompt_hash": prepared.prompt_hash,
            "milliseconds": dict(times),
            "batch": batch,
        }
        if isinstance(answer, NotApplicableError):
            return Record(**common, state=State.NOT_APPLICABLE, detail=str(answer))
        if isinstance(answer, Exception):
            return Record(**common, state=State.ERROR, detail=_explain(answer))
        scorer = self.scorers[request.task]
        try:
            reading = scorer.read(answer.text, prepared.item)
            score = scorer.score(reading, prepared.item) if prepared.item.answers else None
        except ItemError as error:
            return Record(**common, state=State.ERROR, detail=str(error), raw=answer.text)
        return Record(
            **common,
            state=reading.state,
            raw=answer.text,
            answer=reading.answer,
            score=score,
            prob=answer.prob,
            prob_margin=answer.prob_margin,
            min_margin=answer.min_margin,
            tie=answer.min_margin <= self.tie_tolerance,
            new_tokens=answer.new_tokens,
        )


def _recall(pruner: Pruner | None, generation: Generation, evidence: Evidence) -> tuple[float, ...]:
    """How much of each box was kept; nothing of methods that neither keep nor drop a token."""
    if pruner is None or pruner.averages or evidence is None or generation.share is None:
        return ()
    return recall(generation.share, evidence)


def _evidence(shares: Sequence[float]) -> dict[str, float]:
    """The fields of a record that tell of them."""
    if not shares:
        return {}
    return {"evidence": sum(shares) / len(shares), "evidence_least": min(shares)}


def settled_record(request: Request, settled: Settled, identity: str, batch: str = "") -> Record:
    """The record of a request that the model never saw."""
    task, item, condition = request.key
    key = digest(identity, *request.key)
    return Record(
        task=task,
        item=item,
        condition=condition,
        key=key,
        state=settled.state,
        detail=settled.detail,
        batch=batch,
    )


def _layer_tokens(row: RowInputs, answer: Generation | Exception) -> list[int] | None:
    """Visual tokens per layer where they are not simply the row's."""
    if not isinstance(answer, Generation) or set(answer.visual_tokens) <= {row.visual_tokens}:
        return None
    return list(answer.visual_tokens)


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _explain(error: Exception) -> str:
    if isinstance(error, ItemError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory at batch size 1"
    return f"the model failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
