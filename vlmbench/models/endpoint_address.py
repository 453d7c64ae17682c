"""Where a served model is and how it is asked. The key is read here, from the environment alone. No heavy
import."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vlmbench.errors import UsageError
from vlmbench.models.aliases import SERVED

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"
"""What a server on this machine is given that wants no key."""

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_LEAST = 8
"""Shorter keys (`EMPTY`, `none`) are what servers take that want no key, and may be words of an answer."""


@dataclass(frozen=True)
class Server:
    """How a served model is asked. None of it changes an answer, none of it is secret."""

    base_url: str | None = None
    """None stands for OPENAI_BASE_URL, else for OpenAI's own."""
    key_variable: str = KEY_VARIABLE
    """Name of the environment variable that holds the key."""
    concurrency: int = 8
    """Calls in flight at a time."""
    max_calls: int | None = None
    """A run that needs more is refused before its first call."""
    timeout: float = 120.0
    """Seconds without a word from the server after which a call has failed."""
    retries: int = 5
    """How often a failed call is tried again."""
    patience: float = 0.5
    """Seconds before the first of these, doubled with each further one."""
    fresh: bool = False
    """Whether answers that runs beside this one hold are asked for anew."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--concurrency", self.concurrency, 1),
            ("--max-calls", 0 if self.max_calls is None else self.max_calls, 0),
            ("--retries", self.retries, 0),
        ):
            if value < least:
                raise UsageError(f"{name} must be at least {least}: got {value}")
        if not 0 < self.timeout < 1e6:
            raise UsageError(f"--timeout must be a number of seconds above 0: got {self.timeout:g}")


OPTIONS = {
    "base_url": "--base-url",
    "key_variable": "--api-key-env",
    "concurrency": "--concurrency",
    "max_calls": "--max-calls",
    "timeout": "--timeout",
    "retries": "--retries",
    "fresh": "--fresh",
}
"""Options by field of Server."""


def refuse_server(server: Server, option: str, model: str) -> None:
    """Raises UsageError where an option of served models was given beside a model that runs here.

    option, model: how the model was given, `--model demo`.
    """
    for one in fields(Server):
        if one.name in OPTIONS and getattr(server, one.name) != one.default:
            raise UsageError(f"{OPTIONS[one.name]} goes with {option} openai:NAME: got {option} {model}")


@dataclass(frozen=True)
class Address:
    """A server and the key for it."""

    url: str
    """Without user name, password, query; no slash at the end."""
    host: str
    """Host and port."""
    key: str = field(repr=False)
    local: bool
    """Whether it runs on this machine."""

    @property
    def place(self) -> str:
        """Host, port and path: what a record may say."""
        return self.scrub(self.url.partition("://")[2])

    def scrub(self, text: str) -> str:
        """A message without the key, also as it stands in JSON."""
        if self.key == NO_KEY:
            return text
        for form in (self.key, json.dumps(self.key)[1:-1], self.key.replace("/", "\\/")):
            text = text.replace(form, "***")
        return text

    def scrub_all(self, texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(map(self.scrub, texts))

    def scrub_reply(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a server said, without the key in any of its strings. A key of fewer than 8 characters is
        taken for a placeholder, which may be a word of the answer, and stays."""
        if len(self.key) < _LEAST:
            return fields
        return {
            name: self.scrub(value) if isinstance(value, str) else value for name, value in fields.items()
        }


def served_name(model: str) -> str:
    """What the server calls the model: NAME of `openai:NAME`. Raises UsageError where it is empty."""
    name = model[len(SERVED) :].strip()
    if not name:
        raise UsageError(f"--model {SERVED} names no model: {SERVED}NAME, as the server calls it")
    return name


def find_address(server: Server) -> Address:
    """The address with its key. Raises UsageError; no message repeats what may be secret."""
    given = server.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    parts = _split(given.strip())
    host = str(parts.hostname)
    local = host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127.")
    shown = f"[{host}]" if ":" in host else host
    shown += f":{parts.port}" if parts.port else ""
    url = f"{parts.scheme}://{shown}{parts.path.rstrip('/')}"
    return Address(url, shown, _key(server.key_variable, shown, local), local)


def _split(url: str) -> SplitResult:
    what = "--base-url must look like http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"{what}: this is no address") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError("--base-url holds a user name or password: give the key in the environment alone")
    if parts.query or parts.fragment:
        raise UsageError(f"{what}, without `?` or `#`: give the key in the environment alone")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise UsageError(f"{what}: got {url!r}")
    return parts


def _key(variable: str, host: str, local: bool) -> str:
    if not _VARIABLE.fullmatch(variable):  # perhaps the key itself: it is not repeated
        raise UsageError(
            "--api-key-env takes the NAME of an environment variable in capitals, such as OPENAI_API_KEY, "
            "never the key itself"
        )
    key = os.environ.get(variable, "").strip()
    if not key and not local:
        other = "" if variable != KEY_VARIABLE else ", or name another variable with --api-key-env"
        raise UsageError(f"no key for {host}: put it into the environment variable {variable}{other}")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the value of {variable} is no key: it has characters that no key has")
    return key or NO_KEY
