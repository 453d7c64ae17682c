"""Pruning through the engine: one encoding serves all methods, and every rule of a run holds under them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from runs import run, write_rows, write_task
from torch import Tensor

from vlmbench.conditions import Condition
from vlmbench.engine.plan import in_order, make_plan, other_images
from vlmbench.engine.store import RecordStore, read_records
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions, TimingPlan
from vlmbench.experiments.prune import FIXED, PruneOptions, part_of, variations
from vlmbench.experiments.prune import run as prune
from vlmbench.items import Item
from vlmbench.models.adapter import Adapter
from vlmbench.perturb.image import IMAGES
from vlmbench.prune import PRUNERS
from vlmbench.prune.base import Context, Pruner
from vlmbench.registry import Entry
from vlmbench.schema import State, Table

Tiny = Callable[[str], Path]
METHODS = "zoo,divprune,visionzip,fastv(K=1),random"


def pruned_run(model: Path, task: Path, out: Path, batch_size: int = 4, **options: Any) -> Any:
    given = {"methods": METHODS, "ratios": "0.5,0.75", "timing": TimingPlan(0), **options}
    plain = RunOptions(str(model), str(task), out=out, batch_size=batch_size, show_progress=False)
    return prune(plain, PruneOptions(**given))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def whole(tiny_model: Tiny, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pruned_run(tiny_model("llava"), task, tmp_path_factory.mktemp("runs") / "whole")


def test_one_encoding_serves_all_methods_and_ratios(
    tiny_model: Tiny, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    real = Adapter.encode

    def encode(self: Adapter, rows: Sequence[Any], needs: frozenset[str] | None = None) -> Any:
        encoded.append(len(rows))
        return real(self, rows, needs)

    monkeypatch.setattr(Adapter, "encode", encode)
    probes = len(
        {part.name for v in variations(PruneOptions(methods=METHODS)) if (part := v.condition.prune)}
    )
    pruned_run(tiny_model("llava"), task, tmp_path / "run", batch_size=6)
    own = encoded[probes - 1 :]  # downsample is refused before it encodes
    assert sum(own) == 3 + 3, "three pictures once, and three once as another item's"


def test_the_table_holds_methods_controls_and_what_they_cost(whole: Any) -> None:
    table: Table = whole.table
    cells = {cell.condition: cell for cell in table.cells}
    assert table.status == "complete"
    clean, zoo, fastv = cells["clean"], cells["zoo(ratio=0.75)"], cells["fastv(K=1,ratio=0.5)"]
    n = cells["identity"].tokens
    assert n is not None
    assert n.before == n.average
    assert zoo.tokens is not None
    assert zoo.tokens.entered == zoo.tokens.last == pytest.approx(0.25 * n.before, abs=0.5)
    assert fastv.tokens is not None
    assert fastv.tokens.entered == n.before
    assert fastv.tokens.average == pytest.approx(0.5 * n.before, abs=0.5)
    assert fastv.tokens.last == fastv.tokens.layers[-1] < fastv.tokens.average
    assert cells["blind"].tokens is not None
    assert cells["blind"].tokens.entered == 0
    assert zoo.cost["prefill_macs"] < fastv.cost["prefill_macs"] < clean.cost["prefill_macs"]  # type: ignore[operator]
    assert cells["identity"].metrics["loyalty"].value == 1.0
    assert cells["downsample(ratio=0.5)"].states == {State.NOT_APPLICABLE: 6}
    assert any("fixed resolution" in note for note in table.notes)
    assert all(cell.reference == "clean" for cell in table.cells if cell is not clean)


def test_identity_and_ratio_0_give_the_clean_answer(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    options = {"methods": "zoo,divprune,random,fastv", "ratios": "0"}
    result = pruned_run(tiny_model("llava"), task, tmp_path / "run", **options)
    records = read_records(result.folder)
    for (_, item, condition), record in records.items():
        if condition.split("(")[0] in {"zoo", "divprune", "random", "uniform", "fastv", "identity"}:
            clean = records["own", item, "clean"]
            assert (record.raw, record.visual_tokens) == (clean.raw, clean.visual_tokens), condition
            assert record.prob == pytest.approx(clean.prob, abs=1e-5)


class Killed(BaseException):
    pass


def test_resumed_equals_uninterrupted(
    tiny_model: Tiny, task: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 7
    real = RecordStore.append

    def append(self: RecordStore, records: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        real(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "append", append)
        with pytest.raises(Killed):
            pruned_run(tiny_model("llava"), task, tmp_path / "run")
    again = pruned_run(tiny_model("llava"), task, tmp_path / "run")
    assert again.table.without_times() == whole.table.without_times()


@pytest.mark.parametrize("size", [1, 5])
def test_batch_size_changes_no_kept_token(
    size: int, tiny_model: Tiny, task: Path, whole: Any, tmp_path: Path
) -> None:
    other = read_records(pruned_run(tiny_model("llava"), task, tmp_path / "run", size).folder)
    for key, record in read_records(whole.folder).items():
        assert (record.kept_hash, record.layer_tokens) == (other[key].kept_hash, other[key].layer_tokens), key
        if not (record.tie or other[key].tie):
            assert (record.raw, record.state) == (other[key].raw, other[key].state), key


def test_perturb_counts_flips_against_the_pruned_model(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    result = run(
        tiny_model("llava"),
        task,
        tmp_path / "run",
        "shift(dx=2),polite(k=0)",
        prune="none,zoo@0.75",
    )
    cells = {cell.condition: cell for cell in result.table.cells}
    assert cells["zoo(ratio=0.75)"].reference == "clean"
    assert "loyalty" in cells["zoo(ratio=0.75)"].metrics
    assert cells["shift(dx=2)+zoo(ratio=0.75)"].reference == "zoo(ratio=0.75)"
    assert cells["polite+zoo(ratio=0.75)"].reference == "zoo(ratio=0.75)"
    assert cells["shift(dx=2)"].reference == "clean"
    groups = [s.group for s in result.table.summaries]
    assert {"axis": "image", "prune": "zoo(ratio=0.75)"} in groups
    assert {"axis": "image"} in groups


def test_a_pruner_draws_the_same_under_every_perturbation(
    tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    result = run(tiny_model("llava"), task, tmp_path / "run", "shift(dx=2)", prune="random@0.75", repeats=3)
    records = read_records(result.folder)
    kept: dict[str, set[str | None]] = {}
    for (_, item, condition), record in records.items():
        if "random" in condition:
            kept.setdefault(item, set()).add(record.kept_hash)
    assert all(len(hashes) == 1 for hashes in kept.values())
    assert len(set.union(*kept.values())) == 3, "three pictures, three draws"


def item(name: str, cluster: str) -> Item:
    class Source:
        key = cluster

    return Item(name, "what ?", (Source(),), ("a",), cluster)  # type: ignore[arg-type]


def test_plan_puts_methods_behind_one_another_on_the_same_pictures() -> None:
    items = [item(f"{i}-{j}", str(i)) for i in range(5) for j in range(2)]
    conditions = [v.condition for v in variations(PruneOptions(methods="zoo,random", ratios="0.5,0.9"))]
    plan = make_plan(in_order("t", items, conditions, other_images(items, items, 0)), 4, "p", 0)
    requests = [request for batch in plan for request in batch.requests]
    assert len(requests) == len({r.key for r in requests}) == len(items) * len(conditions)
    pictures: list[tuple[str, ...]] = []
    for batch in plan:
        assert len({r.condition.prune for r in batch.requests}) == 1, "a batch is one program"
        if (
            all(r.images is None for r in batch.requests)
            and "downsample" not in batch.requests[0].condition.id
        ):
            pictures.append(tuple(dict.fromkeys(r.pixels_group for r in batch.requests)))
    changes = sum(one != other for one, other in pairwise(pictures))
    assert changes == 2, "ten items in blocks of four: pictures change twice"


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(2, 13), per_image=st.integers(1, 3), rows=st.integers(2, 9), extra=st.integers(0, 3)
)
def test_the_second_repeat_stands_in_another_row(images: int, per_image: int, rows: int, extra: int) -> None:
    """Whatever else fills the batches; only a batch of one request has no other row."""
    items = [item(f"{i}-{j}", str(i)) for i in range(images) for j in range(per_image)]
    shifts = [Condition(image=IMAGES.get("shift").part(dx=dx + 1)) for dx in range(extra)]
    conditions = [Condition(), Condition(repeat=2), *shifts]
    plan = make_plan(in_order("t", items, conditions), rows, "p", 0)
    home = {r.item.id: row for b in plan for row, r in enumerate(b.requests) if r.condition.id == "clean"}
    repeats = [b for b in plan if b.requests[0].condition.repeat]
    assert sorted(r.item.id for b in repeats for r in b.requests) == sorted(home)
    for batch in repeats:
        same = [r.item.id for row, r in enumerate(batch.requests) if home[r.item.id] == row]
        assert not same or len({home[r.item.id] for r in batch.requests}) == 1


def test_other_images_are_of_another_cluster_and_do_not_depend_on_the_shard() -> None:
    items = [item(f"{i}-{j}", str(i)) for i in range(4) for j in range(3)]
    others = other_images(items, items, 0)
    donors = {x.id: [source.key for (source,) in others[x.id]] for x in items}
    assert all(
        sorted(donors[x.id]) == sorted(y.cluster for y in items if y.cluster != x.cluster) for x in items
    )
    assert other_images(items[3:5], items, 0) == {x.id: others[x.id] for x in items[3:5]}
    assert other_images(items[:3], items[:3], 0) == {}


def test_one_broken_item_is_broken_in_every_row_and_costs_no_other(tiny_model: Tiny, tmp_path: Path) -> None:
    """An unreadable picture or a wrong box: ERROR under every condition, another donor for the others, and a
    box off the picture is told to the one method that needs it."""
    write_task(tmp_path, images=5, per_image=1)
    good = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    boxes = ([0, 0, 20, 20], None, None, [30, 0, 20, 20], [500, 0, 600, 40])
    for broken in ([0, 1], [0, 1, 2]):
        rows = [row | {"box": box} for row, box in zip(good, boxes, strict=True)]
        task = write_rows(tmp_path, rows)
        for i in broken:
            (tmp_path / "images" / f"{i}.png").write_bytes(b"no picture")
        out = tmp_path / f"run{len(broken)}"
        result = pruned_run(tiny_model("llava"), task, out, methods="random,oracle", ratios="0.5")
        assert result.table.status == "partial"
        records = read_records(out)
        conditions = {condition for _, _, condition in records}
        assert "swapped" in conditions
        bad = {f"{i}-0" for i in broken} | {"3-0"}
        for (_, item, condition), record in records.items():
            assert (record.state is State.ERROR) == (item in bad), (item, condition)
        left = [records["own", f"{i}-0", "swapped"] for i in range(5) if f"{i}-0" not in bad]
        if len(left) == 2:  # the only donors of one another: what is broken is passed over
            whole = [records["own", f"{i}-0", "clean"].pixels_hash for i in (4, 2)]
            assert [record.pixels_hash for record in left] == whole
        else:
            (only,) = left
            assert only.state is State.NOT_APPLICABLE
            assert only.detail.startswith("no other item's image can be read: ")
        off = records["own", "4-0", "oracle(ratio=0.5)"]
        assert off.state is State.NOT_APPLICABLE
        assert off.detail == ("the box 500, 0, 600, 40 lies outside of the picture, which is 88 x 48 pixels")
        assert any(
            "failed: 'box' must be" in note and "30, 0, 20, 20" in note and "3-0" in note
            for note in result.table.notes
        )


@dataclass(frozen=True, kw_only=True)
class NotANumber(Pruner):
    """Fails on every image, as NaN features make a method fail."""

    def score(self, ctx: Context) -> Tensor:
        from vlmbench.prune.greedy import check_finite

        score = torch.full((ctx.n,), float("nan"))
        check_finite(score, "token scores")
        return score


@pytest.fixture
def broken() -> Any:
    entry = Entry("broken", NotANumber, "a test's", PRUNERS.get("norm").params)
    PRUNERS.add(entry)
    yield entry
    PRUNERS._entries.pop("broken")


def test_what_is_not_finite_becomes_error_records(
    broken: Entry, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    result = pruned_run(tiny_model("llava"), task, tmp_path / "run", methods="broken,zoo", ratios="0.5")
    cells = {cell.condition: cell for cell in result.table.cells}
    assert result.table.status == "partial"
    assert cells["broken(ratio=0.5)"].states == {State.ERROR: 6}
    assert cells["zoo(ratio=0.5)"].n == 6
    assert any("not finite" in note for note in result.table.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": "1"}, r"ratio must be in \[0, 1\): got 1"),
        ({"ratios": "-0.1"}, r"ratio must be in \[0, 1\)"),
        ({"ratios": "half"}, "ratio must be float"),
        ({"keeps": "0", "ratios": None}, "--keep must be whole numbers above 0"),
        ({"keeps": "9", "ratios": "0.5"}, "give one of them"),
        ({"methods": "zo"}, "unknown pruner 'zo': did you mean 'zoo'"),
        ({"methods": "zoo(steps=3)"}, "zoo has no parameter 'steps'"),
        ({"methods": "zoo(estimator=exakt)"}, "estimator='exakt' is unknown: did you mean 'exact'"),
        ({"methods": ","}, "--method names nothing"),
        ({"newline": "gone"}, "--newline must be one of"),
        ({"positions": "middle"}, "positions='middle' is unknown"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PruneOptions(**options)


def test_too_few_repeats_of_the_timing_pass_are_told() -> None:
    with pytest.raises(UsageError, match="at least 5"):
        TimingPlan(2)


def test_more_tokens_than_there_are_is_a_usage_error(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"keep=600 exceeds the \d+ visual tokens"):
        pruned_run(tiny_model("llava"), task, tmp_path / "run", ratios=None, keeps="600")


def test_a_method_that_the_model_cannot_serve_is_a_usage_error_if_it_is_the_only_one(
    tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    folder = tiny_model("qwen3_vl")
    with pytest.raises(UsageError, match="layer"):
        pruned_run(folder, task, tmp_path / "alone", methods="fastv(K=1)", ratios="0.5")
    table = pruned_run(folder, task, tmp_path / "beside", methods="fastv(K=1),zoo", ratios="0.5").table
    cells = {cell.condition: cell for cell in table.cells}
    assert cells["fastv(K=1,ratio=0.5)"].states == {State.NOT_APPLICABLE: 6}
    assert cells["zoo(ratio=0.5)"].n == 6


def test_all_stands_in_a_list_beside_others() -> None:
    """What is named twice runs once; a checkpoint for cdpruner replaces the one that can never run."""

    def ids(methods: str) -> list[str]:
        chosen = variations(PruneOptions(methods=methods, ratios="0.9"))
        return [v.condition.id for v in chosen if v.axis == "prune"]

    field = ids("all")
    clips = ["cdpruner(clip=a/b,ratio=0.9)", "cdpruner(cen=true,clip=a/b,ratio=0.9)"]
    assert "cdpruner(ratio=0.9)" in field
    assert ids("all,zoo,zoo(m=8)") == [*field, "zoo(m=8,ratio=0.9)"]
    without = [name for name in field if name != "cdpruner(ratio=0.9)"]
    assert (
        ids("cdpruner(clip=a/b),all")
        == ids("all,cdpruner(cen=true,clip=a/b),cdpruner(clip=a/b)")[: len(without)] + clips
    )
    assert ids("cdpruner(clip=a/b)") == clips[:1]


def test_a_spec_keeps_its_own_budget_and_positions() -> None:
    assert part_of("zoo@0.9", {"ratio": "0.5"}).label == "zoo(ratio=0.9)"
    assert part_of("zoo", {"ratio": "0.5"}, "original").label == "zoo(positions=original,ratio=0.5)"
    assert part_of("fastv", {"keep": "9"}).label == "fastv(keep=9)"
    assert part_of("blind", {"ratio": "0.5"}).label == "blind"
    ids = [v.condition.id for v in variations(PruneOptions(methods="zoo@0.9,zoo", ratios="0.9"))]
    assert ids.count("zoo(ratio=0.9)") == 1
    assert {Condition(prune=PRUNERS.get(name).part()).id for name in FIXED} <= set(ids)


INCLUDED = """
from dataclasses import dataclass
import torch
from vlmbench.prune import BUDGET, PRUNERS
from vlmbench.prune.base import Pruner
from vlmbench.registry import Entry

@dataclass(frozen=True, kw_only=True)
class First(Pruner):
    def score(self, ctx):
        return -torch.arange(float(ctx.n))

@dataclass(frozen=True, kw_only=True)
class Empty(Pruner):
    pass

PRUNERS.add(Entry("first-{tag}", __name__ + ":First", "the first tokens", BUDGET))
PRUNERS.add(Entry("empty-{tag}", Empty, "defines nothing", BUDGET))
"""


@pytest.mark.parametrize("command", ["prune", "perturb"])
def test_an_included_pruner_serves_both_commands(
    command: str, tiny_model: Tiny, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name as "module:Class"; the file is read before any name is looked up."""
    from vlmbench.cli.app import run as vlmbench

    mine = tmp_path / f"mine_{command}.py"
    mine.write_text(INCLUDED.replace("{tag}", command))
    common = [command, "--model", str(tiny_model("llava")), "--task", str(task), "--include", str(mine)]
    own = {
        "prune": ["--method", "first-prune@0.5", "--timing-repeats", "0"],
        "perturb": ["--prune", "first-perturb@0.5", "--perturb", "shift(dx=2)", "--newline", "dropped"],
    }
    try:
        assert vlmbench([*common, *own[command], "--out", str(tmp_path / "run")]) == 0
        cells = {cell.condition: cell for cell in Table.read(tmp_path / "run").cells}
        assert cells[f"first-{command}(ratio=0.5)"].n == 6
        bad = [word.replace("first-", "empty-") for word in own[command]]
        assert vlmbench([*common[:-2], *bad, "--out", str(tmp_path / "bad")]) == 2
        assert "pruner Empty does not define score or select" in capsys.readouterr().err
    finally:
        for name in ("first", "empty"):
            PRUNERS._entries.pop(f"{name}-{command}")
