"""Figures that papers print about pruned models, each with the protocol it was measured under."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

FILE = Path(__file__).with_name("published.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Strict):
    """One printed number."""

    model: str = Field(description="alias as in `list models`")
    task: str
    method: str = Field(description="name as in `list pruners`; full is the unpruned model")
    keep: int = Field(description="visual tokens left, averaged over the layers, as the source names it")
    value: float
    unit: str
    protocol: str = Field(description="figures compare within one protocol only")
    source: str


class _Row(_Strict):
    method: str
    keep: int = Field(gt=0)
    values: tuple[float, ...]


class Protocol(_Strict):
    """One table of one source: what was measured alike."""

    id: str
    source: str
    note: str = ""
    model: str
    unit: str
    tasks: tuple[str, ...] = Field(min_length=1)
    rows: tuple[_Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Protocol:
        for row in self.rows:
            if len(row.values) != len(self.tasks):
                raise ValueError(
                    f"{self.id}: {row.method} at {row.keep} has {len(row.values)} values for "
                    f"{len(self.tasks)} tasks"
                )
        if len({(row.method, row.keep) for row in self.rows}) < len(self.rows):
            raise ValueError(f"{self.id}: a method stands twice at one budget")
        return self

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Every cell of the table, row by row."""
        return tuple(
            Figure(
                model=self.model,
                task=task,
                method=row.method,
                keep=row.keep,
                value=value,
                unit=self.unit,
                protocol=self.id,
                source=self.source,
            )
            for row in self.rows
            for task, value in zip(self.tasks, row.values, strict=True)
        )


class Published(_Strict):
    """All of it, with the other names under which models and tasks go."""

    models: dict[str, tuple[str, ...]]
    tasks: dict[str, tuple[str, ...]]
    protocols: tuple[Protocol, ...]

    @model_validator(mode="after")
    def _names_known(self) -> Published:
        if len({protocol.id for protocol in self.protocols}) < len(self.protocols):
            raise ValueError("a protocol id stands twice")
        for protocol in self.protocols:
            if protocol.model not in self.models:
                raise ValueError(f"{protocol.id}: model {protocol.model!r} is not among `models`")
        return self

    def model_of(self, name: str) -> str | None:
        """The alias for an alias, a hub id or a folder that ends like one; None where nothing is printed."""
        wanted = _last(name)
        for alias, ids in self.models.items():
            if wanted in {_plain(alias), *map(_last, ids)}:
                return alias
        return None

    def task_of(self, name: str) -> str | None:
        """The name here of a user's task; None where nothing is printed about it."""
        for task, others in self.tasks.items():
            if _plain(name) in {_plain(task), *map(_plain, others)}:
                return task
        return None

    def is_task(self, name: str) -> bool:
        """Whether figures under this name are of one data set, and not an average or a cost."""
        return name in self.tasks


def read_published(path: Path = FILE) -> Published:
    """Reads the file. Raises ValueError naming what does not fit."""
    return Published.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def _last(name: str) -> str:
    return _plain(name.rstrip("/").rsplit("/", 1)[-1])


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())
