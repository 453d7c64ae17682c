"""A model behind a server of OpenAI's chat completions: vLLM, SGLang, transformers' own, hosted ones.

It declares what it lacks: no weights, no visual tokens, no sizes at its input, and log-probabilities only
where the server gives them. Missing values are None, never 0.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.endpoint_address import Address, Server
from vlmbench.models.endpoint_reply import MalformedReplyError, Reply, read_reply, whole_characters
from vlmbench.models.endpoint_retry import (
    HOPELESS,
    MOST_ASKED,
    PATIENCE,
    SPENT,
    TRANSIENT,
    CallFailedError,
    HopelessError,
    Pace,
    Trouble,
    backoff,
    retry_after,
)

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.models.geometry import NativeResolution

NOBODY = frozenset({"ConnectError", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"})
"""Errors of the client under which nobody was reached at all."""

EXTRA = 'pip install "vlmbench[openai]"'

OPTIONAL = {
    "logprobs": ("logprobs", "top_logprobs"),
    "seed": ("seed",),
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens",),
}
"""What some servers do not take, with the parameters that go with it; max_tokens has a newer name."""


@dataclass(frozen=True)
class Question:
    """One call: pictures in order, then the text."""

    text: str
    images: tuple[Image.Image, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


class NotTakenError(Exception):
    """A server refused a request as it was put: a parameter, or the item itself."""

    def __init__(self, what: str, said: str, parameter: str) -> None:
        super().__init__(what)
        self.said = said
        self.parameter = parameter


class Endpoint:
    """A served model. Safe to ask from several threads."""

    def __init__(self, name: str, address: Address, server: Server) -> None:
        self.name = name
        self.address = address
        self.pace = Pace()
        self.answered = False
        """Whether it has answered in this session: then it takes the parameters as they are."""
        self.there = False
        """Whether it has said anything in this session that only a server of chat completions says."""
        self._server = server
        self._client = _client(address, server)
        self._declined: tuple[str, ...] = ()

    def ask(self, question: Question) -> Reply:
        """The answer, after as many tries as it takes and the settings allow.

        Raises CallFailedError where this one has none, HopelessError where none will have one.
        """
        attempt = nobody = 0
        while True:
            self.pace.wait()
            try:
                return self._settled(question)
            except Trouble as trouble:
                attempt += 1
                nobody += trouble.there is False
                self.there = self.there or bool(trouble.there)
                gone = not self.there and nobody > min(PATIENCE, self._server.retries)
                after = trouble.after or 0.0
                if gone or attempt > self._server.retries or after > MOST_ASKED:
                    said = f"{trouble} (tried {attempt} time{'s' * (attempt > 1)})"
                    raise (
                        HopelessError(said) if gone else CallFailedError(said, trouble.of_server)
                    ) from None
                if after:
                    self.pace.hold(after)
                self.pace.wait(max(after, backoff(attempt - 1, self._server.patience)))

    def close(self) -> None:
        """No call begins after this."""
        self.pace.stopping.set()

    def resize_like_processor(self, image: Image.Image) -> Image.Image:
        raise UsageError("--space model: a served model does not tell the size of its input")

    def native_resolution(self, source: tuple[int, int]) -> NativeResolution:
        raise NotApplicableError("a served model does not tell how it sees pictures")

    def source_pixels_per_patch(self, source: tuple[int, int]) -> int | None:
        raise NotApplicableError("a served model does not tell the size of its patches")

    def _settled(self, question: Question) -> Reply:
        """One answer, with as many parameters as the server takes: which, the first answer settles."""
        declined = self._declined
        while True:
            try:
                reply = self._call(question, declined)
                break
            except NotTakenError as refusal:
                unwanted = None if self.answered else _unwanted(refusal, declined)
                if unwanted is None:
                    raise CallFailedError(str(refusal)) from None
                declined = (*declined, unwanted)
        self._declined = declined
        self.answered = self.there = True
        return replace(reply, without=tuple(name for name in declined if name != "max_tokens"))

    def _call(self, question: Question, declined: tuple[str, ...]) -> Reply:
        import openai

        arguments = {"model": self.name, **_arguments(question, declined)}
        start = time.perf_counter()
        try:
            answered = self._client.chat.completions.with_raw_response.create(**arguments).http_response
            body, status = answered.content.decode("utf-8-sig", "replace"), answered.status_code
        except openai.APITimeoutError:
            raise Trouble(self._tried(f"there was no answer within {self._server.timeout:g} s")) from None
        except openai.APIConnectionError as error:
            nobody = any(type(link).__name__ in NOBODY for link in _causes(error))
            raise Trouble(self._tried(self._cause(error)), there=False if nobody else None) from None
        except openai.APIStatusError as error:
            raise self._judged(error.status_code, error.response.text, error.response.headers) from None
        took = (time.perf_counter() - start) * 1e3
        try:
            reply = read_reply(body)
        except MalformedReplyError as fault:
            kind = str(answered.headers.get("content-type", "")).partition(";")[0]
            came = f"{status} {kind}".strip()
            what = self._tried(f"{came} came back; {fault}: {self._short(body)}")
            raise Trouble(what, there=fault.plausible, of_server=not fault.plausible) from None
        scrubbed = Reply(**self.address.scrub_reply(asdict(reply)))  # here alone: all that a server says
        return replace(scrubbed, milliseconds=round(took, 3))

    def _judged(self, status: int, body: str, headers: Mapping[str, str]) -> Exception:
        """What a status means for the item and the run."""
        error = _error(body)
        said = str(error.get("message") or body)
        hint = "" if status != 404 or self.address.url.endswith("/v1") else " (most addresses end in /v1)"
        what = self._tried(f"{status} came back: {self._short(said)}{hint}")
        if status in HOPELESS or error.get("code") in SPENT or error.get("type") in SPENT:
            return HopelessError(what)
        if status in TRANSIENT or status >= 500:
            return Trouble(what, retry_after(headers), there=True if error else None)
        return NotTakenError(what, said, str(error.get("param") or ""))

    def _tried(self, outcome: str) -> str:
        told = f"{self.name}: POST {self.address.url}/chat/completions: {outcome}"
        return self.address.scrub(whole_characters(told))

    def _short(self, text: str) -> str:
        """The first 200 characters of what a server said, in one line, without the key."""
        return self._one_line(text, 200) or "(nothing)"

    def _one_line(self, text: str, most: int) -> str:
        return " ".join(self.address.scrub(text).split())[:most]  # a cut key could not be told from a word

    def _cause(self, error: Exception) -> str:
        """Why a connection failed, in a few words."""
        *_, link = _causes(error)
        said = self._one_line(str(link), 120)
        return f"no answer ({type(link).__name__}{': ' if said else ''}{said})"


def _client(address: Address, server: Server) -> Any:
    try:
        import openai
    except ImportError:
        raise UsageError(f"served models need the openai client: {EXTRA}") from None
    options: dict[str, Any] = {}
    if address.local:  # a proxy knows nothing of this machine
        options["http_client"] = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(
        api_key=address.key, base_url=address.url, timeout=server.timeout, max_retries=0, **options
    )


def _arguments(question: Question, declined: tuple[str, ...]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in question.images
    ]
    parts.append({"type": "text", "text": question.text})
    arguments: dict[str, Any] = {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "seed": question.seed,
        "logprobs": True,
        "top_logprobs": 2,
    }
    for name in declined:
        for parameter in OPTIONAL[name]:
            del arguments[parameter]
    if "max_tokens" in declined:
        arguments["max_completion_tokens"] = question.max_tokens
    return arguments


def _data_url(image: Image.Image) -> str:
    """PNG keeps every pixel: what a perturbation did is what the server gets."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _unwanted(refusal: NotTakenError, declined: tuple[str, ...]) -> str | None:
    """Which optional parameter a refusal is about. One that names none may still be about log-probabilities:
    they are what most servers lack."""
    for name, parameters in OPTIONAL.items():
        if name in declined:
            continue
        named = any(refusal.parameter == parameter for parameter in parameters)
        # the text may repeat the question, which has these words without quotes
        quoted = any(re.search(rf"['\"`]{parameter}['\"`]", refusal.said) for parameter in parameters)
        if named or quoted:
            return name
    return None if "logprobs" in declined else "logprobs"


def _error(body: str) -> dict[str, Any]:
    """The error object of a reply, in the ways in which servers write it; empty where there is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    error = content.get("error", content)
    if isinstance(error, dict):
        return {"message": error.get("detail"), **error}
    return {"message": error}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it comes from, the first cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
