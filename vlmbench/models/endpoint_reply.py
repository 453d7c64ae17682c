"""What a server said: the body of a chat completion -> text, and the figures that it gives with it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class MalformedReplyError(Exception):
    """The body is no chat completion."""


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
    milliseconds: float = 0.0
    """From sending to the last byte, of the try that was answered."""


def read_reply(body: str) -> Reply:
    """Raises MalformedReplyError."""
    try:
        content = json.loads(body)
    except ValueError:
        raise MalformedReplyError("it is no JSON") from None
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text = _text(message)
    except (KeyError, IndexError, TypeError):
        raise MalformedReplyError("it is JSON, but no chat completion") from None
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


def _text(message: dict[str, Any]) -> str:
    """The answer; some servers write it in parts, and a refusal stands beside it."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part["text"]) for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or _word(message.get("refusal"))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _figures(logprobs: Any) -> tuple[float | None, float | None, float | None]:
    """(probability, its margin, smallest margin), as far as the server lists log-probabilities."""
    try:
        steps = [_step(step) for step in logprobs["content"]]
    except (KeyError, TypeError, ValueError):
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
    """Servers write minus infinity in several ways."""
    number = float(value)
    if math.isnan(number):
        raise ValueError
    return max(number, -1e4)


def _probability(logprob: float) -> float:
    return math.exp(min(0.0, logprob))


def _gap(logprobs: Sequence[float]) -> float:
    first, second = sorted(logprobs, reverse=True)[:2]
    return first - second
