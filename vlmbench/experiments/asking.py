"""Prompts -> answers of a text model or a server; an answer is on the disk before anyone reads it, so that an
interrupted session asks nothing again whose answer has arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from vlmbench.engine.callers import Asks, Callers
from vlmbench.engine.calls import NAME, CallStore
from vlmbench.errors import UsageError
from vlmbench.models.endpoint import Question
from vlmbench.models.endpoint_reply import Reply
from vlmbench.models.endpoint_retry import CallFailedError
from vlmbench.seeds import digest

Told = Callable[[int], None]
"""Is told how many more answers there are."""


ROLES = ("generator", "verifier")


def clear(work: Path) -> None:
    """Takes away the answers kept under this folder, and nothing that anyone else has put there."""
    for role in ROLES:
        (work / role / NAME).unlink(missing_ok=True)
    for folder in (*(work / role for role in ROLES), work):
        with suppress(OSError):  # absent, or it holds something else
            folder.rmdir()


class Asker(Protocol):
    """What answers prompts."""

    def about(self) -> dict[str, Any]:
        """What the answers depend on beside the prompt: for the header of the file."""
        ...

    def answers(self, prompts: Sequence[str], told: Told) -> list[str | None]:
        """An answer to each prompt; None where there is none for now."""
        ...

    def stored(self, prompt: str) -> str | None:
        """The answer that an earlier session has brought, if there is one."""
        ...

    def close(self) -> None: ...


class Writes(Protocol):
    """A model that is loaded; see `models.texts.TextModel`."""

    def about(self) -> dict[str, Any]: ...

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]: ...


class _Kept:
    """Answers by the hash of model, settings and prompt."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder}: answers cannot be kept there ({error.strerror}); choose another --out"
            ) from None
        self._store = CallStore(folder)
        self._about = about

    def about(self) -> dict[str, Any]:
        return self._about

    def stored(self, prompt: str) -> str | None:
        reply = self._store.get(self._key(prompt))
        return None if reply is None else reply.text

    def close(self) -> None:
        self._store.close()

    def _key(self, prompt: str) -> str:
        return digest(self._about, prompt, length=32)


class LocalAsker(_Kept):
    """A model that runs here. Batches are cut from all prompts, answered ones among them, so that a session
    that goes on computes the same batches."""

    def __init__(self, model: Writes, folder: Path, max_new_tokens: int, rows: int) -> None:
        decoding = {"greedy": True, "max_new_tokens": max_new_tokens, "batch_size": rows}
        super().__init__(folder, {**model.about(), "decoding": decoding})
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._rows = rows

    def answers(self, prompts: Sequence[str], told: Told) -> list[str | None]:
        distinct = list(dict.fromkeys(prompts))
        for start in range(0, len(distinct), self._rows):
            batch = distinct[start : start + self._rows]
            if any(self.stored(prompt) is None for prompt in batch):
                texts = self._model.generate(batch, self._max_new_tokens)
                for prompt, text in zip(batch, texts, strict=True):
                    if self.stored(prompt) is None:
                        self._store.add(self._key(prompt), Reply(text))
            told(len(batch))
        return [self.stored(prompt) for prompt in prompts]


class ServedAsker(_Kept):
    """A model behind a server. `failures` are the calls that have no answer, by what was said of them."""

    def __init__(
        self, endpoint: Asks, about: dict[str, Any], folder: Path, max_new_tokens: int, concurrency: int
    ) -> None:
        decoding = {"greedy": True, "max_new_tokens": max_new_tokens, "seed": 0}
        super().__init__(folder, {**about, "decoding": decoding})
        self._callers = Callers(endpoint, self._store, concurrency)
        self._max_new_tokens = max_new_tokens
        self.failures: list[str] = []
        self._reported: set[tuple[str, str]] = set()

    def about(self) -> dict[str, Any]:
        """Also what the server said of itself: (model, fingerprint) of its answers."""
        return {**super().about(), "reported": [list(one) for one in sorted(self._reported)]}

    def answers(self, prompts: Sequence[str], told: Told) -> list[str | None]:
        distinct = dict.fromkeys(prompts)
        asked = {
            p: self._callers.submit(self._key(p), Question(p, (), self._max_new_tokens)) for p in distinct
        }
        found: dict[str, str | None] = {}
        for prompt, reply in asked.items():
            try:
                said = reply.result()
                found[prompt] = said.text
                self._reported.add((said.model, said.fingerprint))
            except CallFailedError as failure:
                found[prompt] = None
                self.failures.append(str(failure))
            told(1)
        return [found[prompt] for prompt in prompts]

    def close(self) -> None:
        self._callers.close()
        super().close()
