"""The frozen file of rewrites: a header that says where they come from, then a line for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from vlmbench.errors import UsageError
from vlmbench.items import Item
from vlmbench.perturb.rewriting.languages import KINDS, MOST
from vlmbench.schema import Schema
from vlmbench.seeds import digest

M = TypeVar("M", bound=Schema)

FORMAT = "vlmbench-rewrites"
VERSION = 1


class Source(Schema):
    """The task whose questions were rewritten."""

    name: str
    version: int
    data: str = Field(description="hash of the data, as in a result table")


class Count(Schema):
    """What became of the questions that were given to the generator for one kind."""

    asked: int
    accepted: int
    rejected: int
    rejection_rate: float
    reasons: dict[str, int] = Field({}, description="rejected ones by the first check that they fail")


class Header(Schema):
    """The first line."""

    format: Literal["vlmbench-rewrites"] = "vlmbench-rewrites"
    schema_version: int = VERSION
    task: Source
    kinds: list[str]
    per_item: int = 1
    limit: int | None = None
    seed: int = 0
    generator: dict[str, Any] = Field(
        {}, description="model, revision, hash of the prompt, decoding, versions of packages"
    )
    verifier: dict[str, Any] | None = Field(None, description="the same of the verifier, and its threshold")
    created: str = ""
    counts: dict[str, Count] = Field({}, description="by kind")


class Rewritten(Schema):
    """An accepted rewrite: a line of the file."""

    item: str
    kind: Literal["paraphrase", "en", "de", "fr", "es", "zh", "ja", "ar", "hi", "ru"]
    language: str
    index: int = Field(1, ge=1, le=MOST, description="from 1, of the rewrites of one item and kind")
    question: str = Field(min_length=1)
    source: str = Field(description="hash of the question that it was made from")
    checks: list[str] = Field([], description="what was checked and held")
    score: float | None = Field(None, description="similarity by the verifier, in [0, 1]")


@dataclass(frozen=True)
class Rewrites:
    """A file that was read."""

    path: Path
    sha256: str
    header: Header
    rows: tuple[Rewritten, ...]

    @property
    def variants(self) -> list[tuple[str, int]]:
        """(kind, index) in the order of the header."""
        found = {(row.kind, row.index) for row in self.rows}
        order = {kind: place for place, kind in enumerate(KINDS)}
        order |= {kind: place for place, kind in enumerate(self.header.kinds)}
        return sorted(found, key=lambda variant: (order[variant[0]], variant[1]))

    def of_items(self) -> dict[str, dict[str, str]]:
        """By item: its rewrites as `Item.rewrites` holds them."""
        found: dict[str, dict[str, str]] = {}
        for row in self.rows:
            found.setdefault(row.item, {})[rewrite_name(row.kind, row.index)] = row.question
        return found


def rewrite_name(kind: str, index: int) -> str:
    """The key of a rewrite in `Item.rewrites`: `de-1`."""
    return f"{kind}-{index}"


def source_hash(item: Item) -> str:
    """Of the question that a rewrite was made from."""
    return digest(item.question)


def dump(header: Header, rows: Sequence[Schema]) -> str:
    """The text of a file."""
    lines = [header, *rows]
    return "".join(json.dumps(line.model_dump(mode="json"), ensure_ascii=False) + "\n" for line in lines)


def is_rewrites(path: Path) -> bool:
    """Whether a file begins as one of accepted or of rejected rewrites does."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("format") == FORMAT


def read_header(path: Path, option: str) -> Header:
    """The first line alone. Raises UsageError as `read_rewrites` does."""
    return _header(path, _content(path, option)[1])


def read_rewrites(path: Path) -> Rewrites:
    """The file of `--rewrite`. Raises UsageError naming the option, or the file and the line."""
    content, lines = _content(path, "--rewrite")
    header = _header(path, lines)
    rows: dict[tuple[str, str, int], Rewritten] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        row = _read(Rewritten, _object(path, number, line), f"{path}:{number}")
        key = (row.item, row.kind, row.index)
        if key in rows:
            raise UsageError(f"{path}:{number}: item {row.item!r} has a second {row.kind} {row.index}")
        rows[key] = row
    if not rows:
        raise UsageError(f"{path}: holds no rewrite")
    return Rewrites(path, hashlib.sha256(content).hexdigest(), header, tuple(rows.values()))


def _content(path: Path, option: str) -> tuple[bytes, list[str]]:
    try:
        content = path.read_bytes()
        # not splitlines, which also cuts where a string holds U+2028 or U+0085
        return content, content.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UsageError(f"{option} {path}: no such file; `vlmbench rewrite` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {path}: cannot be read: {error}") from None


def _header(path: Path, lines: Sequence[str]) -> Header:
    first = _object(path, 1, lines[0]) if lines[0].strip() else {}
    if first.get("format") != FORMAT:
        raise UsageError(f"{path}:1: is no file of rewrites: the first line has no format {FORMAT!r}")
    version = first.get("schema_version", VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(f"{path}:1: schema_version: must be a whole number above 0: got {version!r}")
    if version > VERSION:
        raise UsageError(
            f"{path}: schema_version {version} is newer than {VERSION}, the newest that this vlmbench reads: "
            "upgrade vlmbench"
        )
    return _read(Header, first, f"{path}:1")


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path}:{number}: is no JSON object")
    return found


def _read(kind: type[M], found: Mapping[str, Any], where: str) -> M:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "line"
        raise UsageError(f"{where}: {name}: {first['msg']}") from None
