"""Calls of a served model from several threads: one answer per input, one call at a time until one is
answered, and an end to asking once the server is gone."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Protocol

from vlmbench.engine.calls import CallStore
from vlmbench.models.endpoint import Question
from vlmbench.models.endpoint_reply import Reply
from vlmbench.models.endpoint_retry import CallFailedError, HopelessError

IN_A_ROW = 3
"""Calls that fail one after the other, with all their retries: then the server is taken to be gone."""

GRACE = 10.0
"""Seconds that the end of a run waits for calls under way: they are paid for."""


class Asks(Protocol):
    """A served model; see `models.endpoint.Endpoint`."""

    def ask(self, question: Question) -> Reply: ...

    def close(self) -> None: ...


class Callers:
    """`count` threads that end with the process, whatever they wait for."""

    def __init__(self, endpoint: Asks, store: CallStore, count: int) -> None:
        self._endpoint = endpoint
        self._store = store
        self._lock = threading.Lock()
        self._first = threading.Lock()
        self._answered = False
        self._failed = 0
        self._gone = ""
        self._hopeless: HopelessError | None = None
        self._busy = 0
        self._closed = False
        self._asked: dict[str, Future[Reply]] = {}
        self._jobs: queue.SimpleQueue[tuple[str, Question, Future[Reply]]] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, key: str, question: Question) -> Future[Reply]:
        """The answer to come: of the call with this key, whoever asked first, in this session or before."""
        with self._lock:
            if key in self._asked:
                return self._asked[key]
            future: Future[Reply] = Future()
            known = self._store.get(key)
            if known is not None:
                future.set_result(known)
                return future
            self._asked[key] = future
        self._jobs.put((key, question, future))
        return future

    def close(self) -> None:
        """Ends all asking; calls under way get a little time, for what they bring is kept."""
        self._closed = True
        self._endpoint.close()
        end = time.monotonic() + GRACE
        while self._busy and time.monotonic() < end:
            time.sleep(0.02)

    def _work(self) -> None:
        while True:
            key, question, future = self._jobs.get()
            with self._lock:
                self._busy += 1
            try:
                future.set_result(self._answer(key, question))
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self._lock:
                    self._busy -= 1
                    # a failed call may be asked again; an answered one is in the store
                    self._asked.pop(key, None)

    def _answer(self, key: str, question: Question) -> Reply:
        if not self._answered:
            with self._first:
                if not self._answered:
                    return self._ask(key, question)
        return self._ask(key, question)

    def _ask(self, key: str, question: Question) -> Reply:
        if self._hopeless is not None:
            raise self._hopeless
        if self._gone or self._closed:
            raise CallFailedError(self._gone or "interrupted")
        try:
            reply = self._endpoint.ask(question)
        except HopelessError as error:
            self._hopeless = error
            raise
        except CallFailedError as error:
            self._count(error)
            raise
        self._store.add(key, reply)
        self._answered = True
        self._failed = 0
        return reply

    def _count(self, error: CallFailedError) -> None:
        """A server that answers nothing at all is no server; one that has answered may come back later."""
        if self._closed or (self._answered and not error.of_server):
            return
        with self._lock:
            self._failed += 1
            if self._failed < IN_A_ROW:
                return
        if self._answered:
            self._gone = f"not asked: the server is gone: {error}"
        else:
            self._hopeless = HopelessError(f"no call of the first {IN_A_ROW} was answered: {error}")
