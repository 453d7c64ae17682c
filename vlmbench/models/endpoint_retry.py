"""When a call is tried again, and after how long: what failed for now, for this item, and for good."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from vlmbench.errors import ItemError, UsageError

LONGEST = 30.0
"""Seconds: no wait of our own choice is longer."""

MOST_ASKED = 600.0
"""Seconds: a server that asks to wait longer counts as failed."""

TRANSIENT = frozenset({408, 409, 425, 429})
"""Statuses, beside 5xx, that may be another one next time."""

PATIENCE = 2
"""Further tries where nothing shows that there is a server at all."""

HOPELESS = frozenset({401, 402, 403, 404, 405})
"""Statuses that no other item would change: key, money, address."""

SPENT = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes under which a 429 will not go away by waiting."""


class CallFailedError(ItemError):
    """A call has failed for good; its item is in error and the run goes on."""

    def __init__(self, message: str, of_server: bool = False) -> None:
        super().__init__(message)
        self.of_server = of_server
        """Whether the server is at fault and not what it was asked."""


class HopelessError(UsageError):
    """No call can be answered: the run ends, and what is answered is kept."""


class Trouble(Exception):  # noqa: N818
    """A call failed in a way that may pass."""

    def __init__(
        self, what: str, after: float | None = None, there: bool | None = None, of_server: bool = True
    ) -> None:
        super().__init__(what)
        self.after = after
        """Seconds that the server asked to wait."""
        self.there = there
        """Whether it shows that a server of chat completions is there, or that none is; None: neither."""
        self.of_server = of_server
        """As of CallFailedError."""


class Pace:
    """Waits that all threads share: a server that asks for a pause gets it from all of them."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._until = 0.0

    def hold(self, seconds: float) -> None:
        """Nobody calls within the next `seconds`."""
        self._until = max(self._until, time.monotonic() + seconds)

    def wait(self, seconds: float = 0.0) -> None:
        """Returns after `seconds`, and when nobody asks for a pause. Raises CallFailedError once closed."""
        end = time.monotonic() + seconds
        while (left := max(end, self._until) - time.monotonic()) > 0 and not self.stopping.wait(left):
            pass
        if self.stopping.is_set():
            raise CallFailedError("interrupted")


def backoff(attempt: int, first: float) -> float:
    """Seconds before try `attempt` + 1 (from 0): doubled each time, half of it drawn, so that calls that
    failed together do not come back together."""
    return min(LONGEST, first * float(2**attempt)) * (0.5 + 0.5 * random.random())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait: `Retry-After` in seconds or as a date; None where it does not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
