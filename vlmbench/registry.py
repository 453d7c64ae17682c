"""Names -> "module:Class" strings with what errors, listing and help need, and no heavy import."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vlmbench.conditions import Part, Value, label_for, parse_spec, show_value
from vlmbench.errors import UsageError, did_you_mean, unknown

Grid = tuple[Mapping[str, Value], ...]


@dataclass(frozen=True)
class Param:
    """One parameter: its type is the type of its default; bounds are inclusive unless `open_high`."""

    name: str
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    open_high: bool = False
    choices: tuple[str, ...] = ()
    strength: bool = False
    """Strength parameters never enter a seed, so that two strengths of one family share their draw."""

    @property
    def type_name(self) -> str:
        return type(self.default).__name__

    @property
    def range(self) -> str:
        """`[0, 1)`, `one of a, b`, or empty."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None and self.high is None:
            return ""
        low = "(-inf" if self.low is None else f"[{show_value(self.low)}"
        high = "inf)" if self.high is None else f"{show_value(self.high)}{')' if self.open_high else ']'}"
        return f"{low}, {high}"

    def read(self, value: Any, owner: str) -> Value:
        """`value` as this parameter's type, checked. Raises UsageError with the range and what was got."""
        typed = self._typed(value, owner)
        if self.choices and typed not in self.choices:
            raise UsageError(
                f"{owner}: {self.name}={typed!r} is unknown{did_you_mean(str(typed), self.choices)}"
            )
        if isinstance(typed, (int, float)) and not isinstance(typed, bool):
            too_low = self.low is not None and typed < self.low
            too_high = self.high is not None and (typed >= self.high if self.open_high else typed > self.high)
            if too_low or too_high or not math.isfinite(typed):
                raise UsageError(
                    f"{owner}: {self.name} must be in {self.range or 'the finite numbers'}: got {value}"
                )
        return typed

    def _typed(self, value: Any, owner: str) -> Value:
        wanted = f"{owner}: {self.name} must be {self.type_name}: got {value!r}"
        if isinstance(self.default, bool):
            text = str(value).lower()
            if text not in {"true", "false", "1", "0"}:
                raise UsageError(wanted)
            return text in {"true", "1"}
        if isinstance(self.default, str):
            return str(value)
        try:
            if isinstance(self.default, int):
                if float(value) != int(float(value)):
                    raise UsageError(wanted)
                return int(float(value))
            return float(value) + 0.0  # -0.0 becomes 0.0: one condition, one description
        except (TypeError, ValueError, OverflowError):
            raise UsageError(wanted) from None


@dataclass(frozen=True)
class Entry:
    """One registered thing. `suites` maps a suite's name to the grid of parameters that it stands for."""

    name: str
    target: str | type
    summary: str
    params: tuple[Param, ...] = ()
    suites: Mapping[str, Grid] = field(default_factory=dict)
    identity: Mapping[str, Value] | None = None
    """Parameters that change nothing; the full way must prove it. None where the family has none."""
    breaks: str = ""
    """What it may break, for people; the class's `risks` decides per question."""
    version: int = 1
    source: str = ""
    derived: bool = False
    """Whether an experiment tells its scores from those of other conditions: it is never run itself."""

    def load(self) -> Any:
        """The class behind the name; this is where heavy imports happen."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """All parameters, typed and checked, defaults filled in."""
        by_name = {param.name: param for param in self.params}
        for key in given:
            if key not in by_name:
                hint = did_you_mean(key, by_name) if by_name else "; it takes none"
                raise UsageError(f"{self.name} has no parameter {key!r}{hint}")
        return {
            p.name: p.read(given[p.name], self.name) if p.name in given else p.default for p in self.params
        }

    def part(self, **given: Any) -> Part:
        """The condition part for these parameters."""
        resolved = self.resolve(given)
        shown = {p.name: resolved[p.name] for p in self.params if resolved[p.name] != p.default}
        params = tuple(sorted(resolved.items()))
        return Part(self.name, params, label_for(self.name, shown), self.version)

    def build(self, part: Part) -> Any:
        """The object that does the work, a frozen dataclass of the part's parameters."""
        return self.load()(**part.parameters)

    def draw_key(self, part: Part) -> tuple[Any, ...]:
        """What names this part's seed: everything but strength."""
        strengths = {param.name for param in self.params if param.strength}
        return (self.name, *((key, value) for key, value in part.params if key not in strengths))


class Registry:
    """Entries of one kind by name; third parties add to it by entry point or `--include`."""

    def __init__(self, kind: str, group: str, entries: tuple[Entry, ...] = ()) -> None:
        self.kind = kind
        self.group = group
        self._entries = {entry.name: entry for entry in entries}
        self._discovered = False

    def _all(self) -> dict[str, Entry]:
        if not self._discovered:
            self._discovered = True
            for point in entry_points(group=self.group):
                entry = point.load()
                self._entries.setdefault(entry.name, entry)
        return self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._all().values())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    @property
    def names(self) -> list[str]:
        return list(self._all())

    def get(self, name: str) -> Entry:
        """Raises UsageError with the nearest known name."""
        entries = self._all()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        return entries[name]

    def add(self, entry: Entry) -> None:
        """Adds an entry of a third party; a taken name is an error, never an override."""
        if entry.name in self._all():
            raise UsageError(f"{self.kind} {entry.name!r} is already registered")
        self._entries[entry.name] = entry

    def expand(self, spec: str, suites: tuple[str, ...] = ("benign",)) -> list[Part]:
        """A bare name stands for its grid in `suites`; with parameters it is that one part.

        An entry without any of the suites was still asked for by name: it gives its benign grid, else its
        first suite, never all of them (stress is run only where it is asked for).
        """
        name, given = parse_spec(spec)
        entry = self.get(name)
        if given:
            return [entry.part(**given)]
        grid = [params for suite in suites for params in entry.suites.get(suite, ())]
        if not grid:
            grid = list(entry.suites.get("benign") or next(iter(entry.suites.values()), ()) or ({},))
        return [entry.part(**params) for params in grid]

    def suite(self, *suites: str) -> list[Part]:
        """The parts of the named suites over all entries, in order of registration."""
        return [
            entry.part(**params)
            for entry in self
            for suite in suites
            for params in entry.suites.get(suite, ())
        ]


def include_file(path: Path) -> None:
    """Runs a user's Python file, which adds its own entries: `IMAGES.add(Entry("mine", Mine, "a line"))`.

    Raises UsageError, one line with the file and what it says.
    """
    spec = importlib.util.spec_from_file_location(f"vlmbench_included_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"--include {path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that "module:Class" strings of its own find it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"--include {path}: {type(error).__name__}: {error}") from error
