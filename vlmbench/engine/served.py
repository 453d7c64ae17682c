"""Requests to a served model: the same plan and the same records, only what answers is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmbench.engine.compute import settled_record
from vlmbench.engine.pictures import Pictures, Pixels, is_identity
from vlmbench.engine.plan import Batch, Request
from vlmbench.engine.prepare import Settled, given_donor, settled_by
from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.models.endpoint import Question
from vlmbench.models.endpoint_retry import CallFailedError
from vlmbench.perturb.text import QUESTIONS
from vlmbench.schema import Record, State
from vlmbench.seeds import digest, seed_for

if TYPE_CHECKING:
    from vlmbench.engine.callers import Callers
    from vlmbench.items import Item
    from vlmbench.models.endpoint import Endpoint
    from vlmbench.models.endpoint_reply import Reply
    from vlmbench.tasks.scorers.base import Scorer


@dataclass(frozen=True)
class Call:
    """A request as the server will see it."""

    request: Request
    item: Item
    """After the question perturbation."""
    pixels: Pixels
    prompt_hash: str
    question: Question
    key: str
    """Of everything on which the answer depends, the repeat among it: a noise floor is paid for. Conditions
    that show the same pixels and words share one call."""


@dataclass(frozen=True)
class Asked:
    """A call on its way."""

    call: Call
    reply: Future[Reply]


class ServedPreparer(Pictures):
    """Writes requests in plan order, and sends each call as soon as it is written."""

    def __init__(
        self, endpoint: Endpoint, seed: int, max_new_tokens: Mapping[str, int], callers: Callers
    ) -> None:
        super().__init__(endpoint, seed)
        self.max_new_tokens = max_new_tokens
        self._endpoint = endpoint
        self._callers = callers

    def prepare(self, request: Request) -> Asked | Settled:
        """Raises nothing that concerns one item only."""
        call = self.write(request)
        if isinstance(call, Settled):
            return call
        return Asked(call, self._callers.submit(call.key, call.question))

    def write(self, request: Request) -> Call | Settled:
        """The call, not sent."""
        given = given_donor(self, request)
        if isinstance(given, Settled):
            return given
        request = given
        try:
            item, pixels = self.shown(request)
            text = item.text()
            if not text.strip():
                raise ItemError("empty question")
            part = request.condition.question
            if part and not is_identity(part, QUESTIONS) and text == request.item.text():
                raise NotApplicableError("unchanged: the question reads as it was")
        except (NotApplicableError, ItemError) as reason:
            return settled_by(request, reason)
        question = self._question(request, text, pixels)
        where = self._endpoint.address.url
        key = digest(
            [where, self._endpoint.name, text, pixels.pixels_hash, request.condition.repeat],
            [question.max_tokens, question.temperature, question.seed],
            length=32,
        )
        return Call(request, item, pixels, digest(text), question, key)

    def _question(self, request: Request, text: str, pixels: Pixels) -> Question:
        """Greedy with a fixed seed; a drawn answer has a seed of its item and draw."""
        most, sample = self.max_new_tokens[request.task], request.condition.sample
        if sample is None:
            return Question(text, pixels.images, most)
        given = sample.parameters
        drawn = seed_for(self.seed, "sample", request.task, request.item.id, given["index"])
        return Question(text, pixels.images, most, float(given["t"]), drawn % 2**31)


def new_calls(batches: Iterable[Batch], preparer: ServedPreparer, is_known: Callable[[str], bool]) -> int:
    """How many calls these batches still need: inputs that differ and have no answer yet."""
    calls = (preparer.write(request) for batch in batches for request in batch.requests)
    return len({call.key for call in calls if isinstance(call, Call) and not is_known(call.key)})


@dataclass(frozen=True)
class ServedAnswerer:
    """What turns answers of a server into records."""

    scorers: Mapping[str, Scorer]
    identity: str
    """Hash of everything common to the run; part of every record's key."""
    tie_tolerance: float

    def batch(self, batch: Batch, prepared: Sequence[Asked | Settled], prepare_ms: float) -> list[Record]:
        """A record per request of the batch, in its order; waits for the answers. Raises HopelessError."""
        prepare = round(prepare_ms / len(batch.requests), 3)
        return [
            settled_record(request, one, self.identity, batch.id)
            if isinstance(one, Settled)
            else self._record(one, prepare, batch.id)
            for request, one in zip(batch.requests, prepared, strict=True)
        ]

    def _record(self, asked: Asked, prepare_ms: float, batch: str) -> Record:
        call = asked.call
        request, pixels = call.request, call.pixels
        common: dict[str, Any] = {
            "task": request.task,
            "item": request.item.id,
            "condition": request.condition.id,
            "key": digest(self.identity, *request.key, call.prompt_hash, pixels.pixels_hash),
            "image_size": [image.size for image in pixels.images],
            "source_hash": None if request.images else pixels.source_hash,
            "pixels_hash": pixels.pixels_hash,
            "stamp": request.item.stamp,
            "prompt_hash": call.prompt_hash,
            "batch": batch,
        }
        try:
            reply = asked.reply.result()
        except CallFailedError as failure:
            return Record(**common, state=State.ERROR, detail=str(failure))
        common |= {
            "raw": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "milliseconds": {"prepare": prepare_ms, "call": reply.milliseconds},
            "server": {
                "model": reply.model,
                "fingerprint": reply.fingerprint,
                "without": list(reply.without),
                **({"taken_from": reply.taken_from} if reply.taken_from else {}),
            },
        }
        scorer = self.scorers[request.task]
        try:
            reading = scorer.read(reply.text, call.item)
            score = scorer.score(reading, call.item) if call.item.answers else None
        except ItemError as error:
            return Record(**common, state=State.ERROR, detail=str(error))
        usual = reply.finish in {"", "stop"} or reading.state is State.PARSED
        return Record(
            **common,
            state=reading.state,
            detail="" if usual else f"the server ended it: {reply.finish}",
            answer=reading.answer,
            score=score,
            prob=reply.prob,
            prob_margin=reply.prob_margin,
            min_margin=reply.min_margin,
            tie=reply.min_margin is not None and reply.min_margin <= self.tie_tolerance,
            new_tokens=reply.new_tokens,
        )


def told(records: Iterable[Record], taken: Mapping[str, int] = MappingProxyType({})) -> list[str]:
    """Notes on who answered and what it did not tell; `taken`: how many answers are from which other run."""
    answered = [record for record in records if record.server is not None]
    if not answered:
        return []
    notes = [_taken_over(name, count, answered) for name, count in taken.items()]
    for field, name in (("model", "model id"), ("fingerprint", "system fingerprint")):
        found = sorted({str((record.server or {}).get(field) or "") for record in answered} - {""})
        if found:
            shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            notes.append(f"{name} reported by the server: {shown}")
            if len(found) > 1:
                notes.append(f"{len(found)} {name}s answered: differences between answers may come from that")
    bare = sum(record.prob is None for record in answered)
    if bare:
        notes.append(
            f"{bare} of {len(answered)} answers came without log-probabilities: they have no probability, no "
            "margin, and no ties are told"
        )
    for name in ("logprobs", "seed", "temperature"):
        count = sum(name in (record.server or {}).get("without", ()) for record in answered)
        if count:
            notes.append(f"the server would not take {name}: {count} answers are without it")
    notes.append("a served model: no visual tokens, input sizes or shifts at its input are known")
    return notes


def _taken_over(run: str, count: int, answered: Sequence[Record]) -> str:
    """What was taken over, and whether what answers here tells that it is the same model still."""
    here, there = set[str](), set[str]()
    for record in answered:
        server = record.server or {}
        origin, fingerprint = server.get("taken_from", ""), str(server.get("fingerprint") or "")
        if origin in ("", run):
            (there if origin else here).add(fingerprint)
    told = f"{count} answer{'s' * (count > 1)} taken over from {run}"
    if not here or (here == there and "" not in here):
        return told
    if "" in here | there:
        return f"{told}; no fingerprint tells whether the server is the same still (--fresh asks all anew)"
    return f"{told}, of another fingerprint than those asked for here (--fresh asks all anew)"
