"""Published figures: the file is whole, protocols never mix, own figures stand where tokens agree."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError
from test_table import small_table

from vlmbench.models.aliases import MODELS
from vlmbench.prune.published import Published, read_published
from vlmbench.report.figures import Section
from vlmbench.report.published import published_sections
from vlmbench.schema import Cell, Estimate, Table, Tokens


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published()


def test_every_figure_has_model_protocol_and_source(published: Published) -> None:
    assert set(published.models) <= set(MODELS)
    for alias, ids in published.models.items():
        assert MODELS[alias].hub in ids
        assert all(published.model_of(name) == alias for name in (alias, *ids, f"/models/{ids[0]}/"))
    assert published.model_of("demo") is None
    figures = [figure for protocol in published.protocols for figure in protocol.figures]
    assert all(figure.source and figure.unit and figure.value > 0 for figure in figures)
    places = Counter((f.protocol, f.task, f.method, f.keep) for f in figures)
    assert set(places.values()) == {1}
    assert all(f.value < 100 for f in figures if f.unit.startswith("%"))
    for task in published.tasks:
        assert published.task_of(task.lower()) == task


def test_figures_are_those_of_their_sources(published: Published) -> None:
    known = {
        (f.protocol, f.task, f.method, f.keep): f.value
        for protocol in published.protocols
        for f in protocol.figures
    }
    assert known["full-model", "GQA", "full", 576] == 61.9
    assert known["cen-sets", "POPE", "zoo", 64] == 85.7
    assert known["cen-average", "average of 11", "mmtok", 128] == 97.5
    # one method, one budget, one task, two tables: never one figure
    assert known["sparsevlm-v1.5", "POPE", "fastv", 64] == 48.0
    assert known["fastv-pope-other", "POPE", "fastv", 64] == 59.6
    assert known["zoo-page", "average", "zoo", 64] == 95.5
    assert known["zoo-paper", "average of 9", "zoo", 64] == 95.20


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": [1.0]}, "has 1 values for 2 tasks"),
        ({"keep": 0}, "greater than 0"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_a_spoilt_file_is_told(change: dict[str, object], says: str) -> None:
    row = {"method": "zoo", "keep": 64, "values": [1.0, 2.0], **change}
    protocol = {"id": "p", "source": "s", "model": "llava", "unit": "%", "tasks": ["a", "b"], "rows": [row]}
    with pytest.raises(ValidationError, match=says):
        Published.model_validate({"models": {"llava": []}, "tasks": {}, "protocols": [protocol]})


def own_run(model: str, task: str) -> Table:
    """zoo, its variants and cdpruner at 64 tokens, divprune at 128, fastv without an answer, clean."""
    base = small_table()
    figure = Estimate(value=0.8, low=0.7, high=0.9, n=9)

    def cell(name: str, family: str, tokens: float, accuracy: Estimate | None = figure) -> Cell:
        return base.cells[0].model_copy(
            update={
                "task": task,
                "condition": family,
                "axis": "prune",
                "family": family,
                "parts": {"prune": {"name": name, "params": {"clip": "a/b" * (name == "cdpruner")}}},
                "metrics": {} if accuracy is None else {"accuracy": accuracy},
                "tokens": Tokens(before=576, entered=tokens, average=tokens, last=tokens),
            }
        )

    cells = [
        base.cells[0].model_copy(update={"task": task, "metrics": {"accuracy": figure}}),
        cell("zoo", "zoo", 64.2),
        cell("zoo", "zoo(estimator=sampled)", 64, Estimate(value=0.5)),
        cell("zoo", "zoo(cen=true)", 64),
        cell("cdpruner", "cdpruner(clip=a/b)", 64),
        cell("divprune", "divprune", 128),
        cell("fastv", "fastv", 64, None),
    ]
    block = base.tasks[0].model_copy(update={"task": task})
    return base.model_copy(update={"identity": {"model": model}, "tasks": [block], "cells": cells})


def by_protocol(found: list[Section]) -> dict[str, Section]:
    return {section.title.removeprefix("published · protocol "): section for section in found[1:]}


def test_own_figures_stand_beside_those_of_the_same_method_and_tokens(published: Published) -> None:
    found = published_sections(own_run("llava-hf/llava-1.5-7b-hf", "pope"), published)
    tables = by_protocol(found)
    assert len(tables) == len(published.protocols)
    sets = tables["cen-sets"]
    assert sets.columns == ("method", "tokens", "POPE", "here", "POPE %")
    assert sets.rows == (
        ("visionzip", "64", "77.1", "-", "-"),
        ("divprune", "64", "85.6", "-", "-"),  # ran at 128
        ("zoo", "64", "85.7", "zoo", "80.0 [70.0, 90.0]"),  # and no variant of it
        ("cdpruner", "64", "87.0", "cdpruner(clip=a/b)", "80.0 [70.0, 90.0]"),
    )
    assert tables["full-model"].rows == (("full", "576", "85.9", "full model", "80.0 [70.0, 90.0]"),)
    assert tables["fastv-pope-other"].rows == (("fastv", "64", "59.6", "-", "-"),)
    assert tables["zoo-paper"].columns == ("method", "tokens", "average of 9")
    for name, section in tables.items():
        (protocol,) = [p for p in published.protocols if p.id == name]
        assert len([row for row in section.rows if row[0]]) == len(protocol.rows)
        assert protocol.source in section.lines[0]


def test_one_line_where_nothing_is_printed(published: Published) -> None:
    (model,) = published_sections(own_run("demo", "pope"), published)
    assert model.lines == ("none for model demo; there are some for llava (llava-hf/llava-1.5-7b-hf)",)
    head, *rest = published_sections(own_run("llava", "my-own"), published)
    assert head.lines[1].startswith("none for task my-own; there are some for GQA, MMBench")
    assert not any("here" in section.columns for section in rest)
