"""The loop of a run: plan, prepare ahead, compute, append. Resuming is the same loop with less to do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeVar

from vlmbench.conditions import Condition
from vlmbench.engine.compute import settled_record
from vlmbench.engine.plan import Batch, Request, in_order, make_plan, other_images, shard
from vlmbench.engine.prepare import Settled, settle_early
from vlmbench.engine.progress import Progress
from vlmbench.engine.ranks import Ranks
from vlmbench.engine.store import RecordStore
from vlmbench.schema import Record, State

if TYPE_CHECKING:
    from vlmbench.items import Item

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
P_contra = TypeVar("P_contra", contravariant=True)


class Prepares(Protocol[P_co]):
    """Makes of a request what the model is given; see `prepare.Preparer` and `served.ServedPreparer`."""

    def prepare(self, request: Request) -> P_co:
        """Raises nothing that concerns one item only."""
        ...


class Answers(Protocol[P_contra]):
    """Makes records of what is prepared; see `compute.Answerer` and `served.ServedAnswerer`."""

    @property
    def identity(self) -> str:
        """Hash of everything common to the run."""
        ...

    def batch(self, batch: Batch, prepared: Sequence[P_contra], prepare_ms: float) -> list[Record]:
        """A record per request of the batch, in its order."""
        ...


@dataclass(frozen=True)
class Work:
    """Items of one task and the conditions that they are asked under."""

    task: str
    items: Sequence[Item]
    conditions: Sequence[Condition]
    pool: Sequence[Item] = ()
    """Items out of which a control takes another item's image; empty where none does."""
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Requests that are not tried, by item and condition: why."""

    def settled(self, request: Request) -> Settled | None:
        reason = self.left_out.get(request.key[1:])
        return None if reason is None else Settled(State.SKIPPED, reason)


@dataclass(frozen=True)
class Settings:
    """How to run; none of it changes an answer beyond what the reproducibility rules allow."""

    batch_size: int
    seed: int = 0
    show_progress: bool = True
    ahead: int = 2
    """Batches prepared while one is computed."""


def run_work(
    work: Sequence[Work],
    folder: Path,
    answerer: Answers[P],
    preparer: Prepares[P],
    settings: Settings,
    ranks: Ranks,
    is_current: Callable[[Record], bool],
    unserved: Mapping[str, str] = MappingProxyType({}),
    begin: Callable[[bool], None] = lambda computes: None,
    expect: Callable[[Sequence[Batch]], None] = lambda batches: None,
) -> None:
    """Computes what the run folder does not hold yet. Killed at any point, it goes on where it was.

    unserved: reasons by the label of each pruner that the model refuses; their requests are not tried.
    begin: told, before the first batch, whether there is one for this process.
    expect: told the batches to come before that; may refuse them.
    """
    store = RecordStore(folder, ranks.rank)
    known = store.known(is_current)
    finished = {key for key, record in known.items() if record.state is not State.ERROR}
    todo: list[list[Request]] = []
    settled: list[Record] = []
    for part in work:
        mine = shard(part.items, ranks.rank, ranks.world)
        others = other_images(mine, part.pool, settings.seed)
        for same_input in in_order(part.task, mine, part.conditions, others):
            left = []
            for request in same_input:
                early = settle_early(request, settings.seed, unserved) or part.settled(request)
                if early is None:
                    left.append(request)
                else:
                    record = settled_record(request, early, answerer.identity)
                    if known.get(request.key) != record:
                        settled.append(record)
            if left:
                todo.append(left)
    if settled:
        store.append(settled)
    prefix = f"{ranks.rank}of{ranks.world}"
    plan = make_plan(todo, settings.batch_size, prefix, settings.seed)
    total = sum(map(len, todo))
    # a batch with a missing row is computed again whole: its shape, and so its bits, stay what they were
    open_batches = [batch for batch in plan if any(r.key not in finished for r in batch.requests)]
    expect(open_batches)
    begin(bool(open_batches))
    with Progress(total, settings.show_progress and ranks.main) as progress:
        progress.advance(total - sum(len(batch.requests) for batch in open_batches))
        for batch, rows, milliseconds in ahead(open_batches, preparer.prepare, settings.ahead):
            store.append(answerer.batch(batch, rows, milliseconds))
            progress.advance(len(batch.requests))


def ahead(
    batches: Iterable[Batch], prepare: Callable[[Request], P], depth: int = 2
) -> Iterator[tuple[Batch, list[P], float]]:
    """Prepares the next batches in one other thread while the model is busy; order is kept."""

    def work(batch: Batch) -> tuple[Batch, list[P], float]:
        start = time.perf_counter()
        rows = [prepare(request) for request in batch.requests]
        return batch, rows, (time.perf_counter() - start) * 1e3

    waiting: deque[Future[tuple[Batch, list[P], float]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(work, batch))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
