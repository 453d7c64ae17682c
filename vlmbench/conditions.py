"""What is done to an item before it is answered: names and parameters, nothing else.

The grammar of the command line is NAME[@RATIO][(key=value,..)], parts joined by `+`, lists by `,`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vlmbench.errors import UsageError

Value = int | float | str | bool
Parameters = tuple[tuple[str, Value], ...]

_SPEC = re.compile(
    r"^\s*(?P<name>[A-Za-z][\w+-]*?)\s*(?:@\s*(?P<ratio>[^(\s]+))?\s*(?:\((?P<args>.*)\))?\s*$"
)


def show_value(value: Value) -> str:
    """The shortest text that reads back as the same value: 1.0 -> 1, 0.90 -> 0.9, True -> true."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


@dataclass(frozen=True)
class Part:
    """One method or perturbation with ALL its parameters; `label` shows only those that are not defaults."""

    name: str
    params: Parameters = ()
    label: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name)

    @property
    def parameters(self) -> dict[str, Value]:
        return dict(self.params)

    def describe(self) -> dict[str, Any]:
        """The part as it stands in a table: name, version, every parameter."""
        return {"name": self.name, "version": self.version, "params": dict(self.params)}


@dataclass(frozen=True)
class Condition:
    """At most one question perturbation, image perturbation, RoI method and pruner, a draw where the answer
    is sampled, and a repeat index.

    The fields stand in the order in which they are applied.
    """

    question: Part | None = None
    image: Part | None = None
    roi: Part | None = None
    prune: Part | None = None
    sample: Part | None = None
    """See `sampled`; None decodes greedily."""
    repeat: int = 0

    @property
    def parts(self) -> Iterator[tuple[str, Part]]:
        """(role, part) of what is set, in order of application."""
        for role in ("question", "image", "roi", "prune", "sample"):
            part = getattr(self, role)
            if part is not None:
                yield role, part

    @property
    def id(self) -> str:
        """`clean`, `shift(dx=2)`, `rotate(deg=1)+zoo(ratio=0.9)`, `repeat(index=1)`."""
        labels = [part.label for _, part in self.parts]
        if self.repeat:
            labels.append(f"repeat(index={self.repeat})")
        return "+".join(labels) or "clean"

    def describe(self) -> dict[str, Any]:
        """All parameters and versions, for the table and for matching cells of two tables."""
        described: dict[str, Any] = {role: part.describe() for role, part in self.parts}
        if self.repeat:
            described["repeat"] = self.repeat
        return described


CLEAN = Condition()


def sampled(index: int, temperature: float) -> Part:
    """The index-th answer drawn at a temperature, in place of the greedy one."""
    params: Parameters = (("index", index), ("t", temperature))
    return Part("sample", params, label_for("sample", dict(params)))


def split_list(text: str) -> list[str]:
    """Splits at commas outside parentheses: `a(x=1,y=2),b` -> [`a(x=1,y=2)`, `b`]."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            break
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth != 0:
        raise UsageError(f"unbalanced parenthesis in {text!r}")
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """`zoo@0.9(m=16)` -> (`zoo`, {ratio: `0.9`, m: `16`}). Values stay text until a registry types them."""
    match = _SPEC.match(text)
    if match is None:
        raise UsageError(
            f"cannot read {text!r}: expected NAME, NAME@RATIO, NAME(key=value,..) or NAME@RATIO(key=value,..)"
        )
    given: dict[str, str] = {}
    if match["ratio"] is not None:
        given["ratio"] = match["ratio"]
    for pair in split_list(match["args"] or ""):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"cannot read {pair!r} in {text!r}: expected key=value")
        if key.strip() in given:
            raise UsageError(f"{key.strip()!r} is given twice in {text!r}")
        given[key.strip()] = value.strip()
    return match["name"], given


def label_for(name: str, shown: Mapping[str, Value]) -> str:
    """`shift` and {dx: 2} -> `shift(dx=2)`; parameters sorted by name."""
    if not shown:
        return name
    return f"{name}({','.join(f'{key}={show_value(shown[key])}' for key in sorted(shown))})"
