"""Row-end tokens follow one rule for all methods: the same lengths enter the language model, and are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import write_task
from test_engine_pruning import pruned_run
from test_pruning import bench_of, method, told

import vlmbench
from vlmbench.engine import checks_select
from vlmbench.engine.checks import MASKING, RESTORE, SELECTION, check
from vlmbench.engine.checks_run import Bench
from vlmbench.models.features import ImageFeatures
from vlmbench.models.inputs import bucket
from vlmbench.prune import NEWLINES, PRUNERS

Tiny = Callable[[str], Path]
Load = Callable[[str], Bench]

FAMILIES = ("llava_next", "llava_onevision")
INSIDE = tuple(entry.name for entry in PRUNERS if entry.load().stage == "llm")


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: bench_of(tiny_model(family)))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"), images=2, per_image=1)


def lines_of(features: ImageFeatures) -> int:
    return sum(int((image.grid[:, 1] < 0).sum()) for image in features.images)


@contextmanager
def widths(model: Any) -> Iterator[list[int]]:
    """Columns that each layer is given while the prompt is read."""
    layers, seen = model.base_model.get_decoder().layers, []

    def see(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] > 1:
            seen.append(int(hidden.shape[1]))

    handles = [layer.register_forward_hook(see, with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def test_the_methods_inside_are_these() -> None:
    assert set(INSIDE) == {"fastv", "dart", "pyramiddrop", "sparsevlm"}


@pytest.mark.parametrize("rule", NEWLINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_removed_all_methods_report_the_same(
    family: str, rule: str, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    """identity is the full model, with its newlines under every rule."""
    methods = ("zoo", "random", *INSIDE)
    options = {"methods": ",".join(methods), "ratios": "0", "newline": rule}
    table = pruned_run(tiny_model(family), task, tmp_path / "run", **options).table
    cells = {cell.condition.split("(")[0]: cell for cell in table.cells}
    whole, zoo = cells["identity"], cells["zoo"]
    assert whole.tokens.entered == whole.tokens.before
    assert whole.cost == cells["clean"].cost
    for name in methods:
        assert cells[name].tokens == zoo.tokens, name
        assert cells[name].cost == zoo.cost, name
    assert (zoo.tokens == whole.tokens) == (zoo.cost == whole.cost) == (rule != "dropped")
    if rule == "dropped":
        assert zoo.tokens.entered < whole.tokens.entered == zoo.tokens.before


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("rule", NEWLINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_record_tells_what_the_layers_are_given(family: str, rule: str, name: str, load: Load) -> None:
    """Columns, and not what the hooks say of themselves, are counted."""
    bench = replace(load(family), newline=rule, runs={})
    asked = method(f"{name}@0.5")
    (pruner,) = asked.budgets(())
    for single in bench.singles:
        with widths(bench.adapter.model) as seen:
            run = single.run(asked, pruner)
        (whole,), ((part,), (row,)) = run.encoded.features, (run.visual, run.rows)
        n, lines = whole.count, lines_of(whole)
        first = n - lines * (rule == "dropped")
        assert lines
        assert len(part.rows) == first
        text = row.length - n
        padding = bucket(text + first) - text - first
        (answer,) = run.answers.generations
        assert seen == [text + padding + left for left in answer.visual_tokens]
        assert answer.visual_tokens[0] == first
        # the budget is of all tokens where newlines are counted, else of the others
        beside = lines * (rule == "kept")
        sizes = [i.stop - i.start - (rule != "counted") * int((i.grid[:, 1] < 0).sum()) for i in whole.images]
        cuts = [pruner.schedule(size, bench.adapter.layers) for size in sizes]
        assert answer.visual_tokens[-1] == beside + sum(each[-1].keep for each in cuts)
        at = torch.cat([image.grid[:, 1] < 0 for image in whole.images]).nonzero()[:, 0]
        assert answer.kept is not None
        assert answer.share is not None
        assert len(answer.kept) == answer.visual_tokens[-1]
        if rule != "counted":
            assert set(answer.kept.tolist()) & set(at.tolist()) == (set(at.tolist()) if beside else set())
            assert answer.share[at].eq(rule == "kept").all()
    for each in (MASKING, SELECTION, RESTORE):
        found = check(each, bench, asked)
        assert found.state == "pass", told(found)


def test_the_check_notices_newlines_that_nobody_counts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = replace(load("llava_next"), newline="kept", runs={})
    run = bench.run(method("fastv@0.5"), method("fastv@0.5").budgets(())[0])
    assert not list(checks_select.selection_faults(bench.adapter, run))
    told_short = [
        replace(g, visual_tokens=tuple(n - lines_of(f) for n in g.visual_tokens))
        for g, f in zip(run.answers.generations, run.encoded.features, strict=True)
    ]
    short = replace(run, answers=replace(run.answers, generations=told_short))
    assert any(
        "the record tells of" in fault for fault in checks_select.selection_faults(bench.adapter, short)
    )


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("rule", NEWLINES)
def test_the_library_gives_what_the_adapter_gives(rule: str, name: str, load: Load) -> None:
    bench = replace(load("llava_next"), newline=rule, runs={}).singles[2]
    asked = method(f"{name}@0.5")
    (pruner,) = asked.budgets(())
    run = bench.run(asked, pruner)
    adapter, (sample,) = bench.adapter, bench.samples
    inputs = {**sample.row.sequence, **sample.row.vision}
    with vlmbench.pruning(adapter.model, pruner, newline=rule) as pruned:
        output = adapter.model.generate(**inputs, max_new_tokens=bench.max_new_tokens, do_sample=False)
    new = output[0, sample.row.sequence["input_ids"].shape[1] :].tolist()
    (answer,) = run.answers.generations
    assert adapter.tokenizer.decode(new, skip_special_tokens=True).strip() == answer.text.strip()
    (whole,) = run.encoded.features
    (kept,) = pruned.last.kept
    flat = torch.cat([own + image.start for own, image in zip(kept, whole.images, strict=True)])
    assert torch.equal(flat, answer.kept)
    assert pruned.last.after == (answer.visual_tokens[-1],)
