"""What a server said: the body of a chat completion -> text, and the figures that it gives with it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MOST_TOKENS = 2**53
_DIGITS = 20
"""Longer whole numbers are no counts, and Python would not read the longest."""


class MalformedReplyError(Exception):
    """The body is no chat completion."""

    def __init__(self, what: str, plausible: bool = False) -> None:
        super().__init__(what)
        self.plausible = plausible
        """Whether it looks like one that went wrong, and not like what another kind of server says."""


@dataclass(frozen=True)
class Reply:
    """One answer. What the server did not tell is None, never 0."""

    text: str
    finish: str = ""
    """Why it ended: stop, length, content_filter.."""
    model: str = ""
    """As the server reports it, and so its `fingerprint`."""
    fingerprint: str = ""
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    prob: float | None = None
    """Probability of the first answer token."""
    prob_margin: float | None = None
    """That probability minus the runner-up's."""
    min_margin: float | None = None
    """Smallest gap between the two largest log-probabilities, which is that of the logits, over all tokens
    that the server lists; some leave the end token out."""
    without: tuple[str, ...] = ()
    """Parameters that the server would not take."""
    taken_from: str = ""
    """The run whose answer this is, where it was not asked for here."""
    milliseconds: float = 0.0
    """From sending to the last byte, of the try that was answered."""


def read_reply(body: str) -> Reply:
    """A reply, or MalformedReplyError, whatever the body is. Bad figures are None; half a surrogate pair, as
    where an answer ends within a character, becomes U+FFFD."""
    try:
        content = json.loads(body, parse_int=_whole)
    except (ValueError, RecursionError):
        raise MalformedReplyError("it is no JSON") from None
    if not isinstance(content, dict) or "choices" not in content:
        raise MalformedReplyError("it is JSON, but no chat completion")
    try:
        choice = content["choices"][0]
        text = _text(choice["message"])
    except (KeyError, IndexError, TypeError):
        raise MalformedReplyError("it is a chat completion without a message", plausible=True) from None
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prob, prob_margin, min_margin = _figures(choice.get("logprobs"))
    return Reply(
        text=text.strip(),
        finish=_word(choice.get("finish_reason")),
        model=_word(content.get("model")),
        fingerprint=_word(content.get("system_fingerprint")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        new_tokens=_count(usage.get("completion_tokens")),
        prob=prob,
        prob_margin=prob_margin,
        min_margin=min_margin,
    )


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: else no file and no terminal takes it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _text(message: Any) -> str:
    """The answer; some servers write it in parts, and a refusal stands beside it. Raises TypeError."""
    if not isinstance(message, dict):
        raise TypeError
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(map(_part, content))
    if content is not None and not isinstance(content, str):
        raise TypeError
    return whole_characters(content) if content else _word(message.get("refusal"))


def _part(part: Any) -> str:
    """The text of a part; other kinds, such as thoughts, have none."""
    if not isinstance(part, dict):
        raise TypeError
    if part.get("type") != "text":
        return ""
    if not isinstance(part.get("text"), str):
        raise TypeError
    return str(part["text"])


def _word(value: Any) -> str:
    return whole_characters(value) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def _figures(logprobs: Any) -> tuple[float | None, float | None, float | None]:
    """(probability, its margin, smallest margin), as far as the server lists log-probabilities."""
    try:
        steps = [_step(step) for step in logprobs["content"]]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None, None, None
    if not steps:
        return None, None, None
    chosen, others = steps[0]
    prob = _probability(chosen)
    margin = prob - _probability(others[0]) if others else None
    gaps = [_gap([chosen, *others]) for chosen, others in steps if others]
    return prob, margin, min(gaps) if len(gaps) == len(steps) else None


def _step(step: dict[str, Any]) -> tuple[float, list[float]]:
    """(log-probability of the token, those of the others from the largest down)."""
    tops = step.get("top_logprobs") or ()
    others = [_finite(top["logprob"]) for top in tops if top["token"] != step["token"]]
    return _finite(step["logprob"]), sorted(others, reverse=True)


def _finite(value: Any) -> float:
    """Servers write minus infinity in several ways, and 0 as a rounding error above it."""
    number = float(value)
    if isinstance(value, bool) or not number < 1e-2:  # NaN is not either
        raise ValueError
    return min(max(number, -1e4), 0.0)


def _probability(logprob: float) -> float:
    return math.exp(logprob)


def _gap(logprobs: Sequence[float]) -> float:
    first, second = sorted(logprobs, reverse=True)[:2]
    return first - second
