"""A run is what its plan says: killed and resumed, batched otherwise, split over processes or starved of
memory, it ends with the same table; one bad item never costs another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from runs import picture, run, write_rows, write_task

from vlmbench.engine.store import RecordStore, read_records
from vlmbench.errors import UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.schema import Record, State, Table
from vlmbench.table_io import read_manifest

FAMILIES = "shift(dx=2),pad(n=4),noise(sigma=3),shift(dx=0),polite(k=0),template(k=1)"
Tiny = Callable[[str], Path]


def answers(folder: Path) -> dict[tuple[str, str, str], Record]:
    return read_records(folder)


def assert_same_but_ties(one: Path, other: Path) -> None:
    """The design's "same" for another batch size, order or process count."""
    a, b = answers(one), answers(other)
    assert a.keys() == b.keys()
    differing = [
        k for k in a if (a[k].answer, a[k].state, a[k].score) != (b[k].answer, b[k].state, b[k].score)
    ]
    ties = {k for k in a if a[k].tie or b[k].tie}
    assert set(differing) <= ties
    assert len(ties) < 0.02 * len(a) + 1
    for key in a.keys() - ties:
        if a[key].prob is not None:
            assert a[key].prob == pytest.approx(b[key].prob, abs=1e-4)
        assert a[key].visual_tokens == b[key].visual_tokens


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def whole(tiny_model: Tiny, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run at batch size 4."""
    result = run(tiny_model("llava"), task, tmp_path_factory.mktemp("runs") / "whole", FAMILIES)
    assert result.table.status == "complete"
    return Path(result.folder)


class Killed(BaseException):
    """Stands for a process that ends between two batches."""


@pytest.mark.parametrize("batches", [1, 4, 9])
def test_resumed_equals_uninterrupted(
    batches: int, tiny_model: Tiny, task: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = batches

    def append(self: RecordStore, records: Iterable[Record]) -> None:
        nonlocal left
        if left == 0:
            with self.path.open("ab") as file:
                file.write(b'{"task":"own","item":"0-0","condi')  # the write that the kill cut off
            raise Killed
        left -= 1
        real(self, records)

    real = RecordStore.append
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "append", append)
        with pytest.raises(Killed):
            run(tiny_model("llava"), task, tmp_path / "run", FAMILIES)
    before = len(answers(tmp_path / "run"))
    result = run(tiny_model("llava"), task, tmp_path / "run", FAMILIES)
    assert 0 < before < len(answers(tmp_path / "run"))
    assert result.table.without_times() == Table.read(whole).without_times()


@pytest.mark.parametrize("batch_size", [4, 7])
def test_finished_run_computes_nothing_and_says_so(
    batch_size: int, tiny_model: Tiny, task: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adapter, "answer", lambda *a, **k: pytest.fail("computed again"))
    before, table = (whole / "manifest.json").read_bytes(), Table.read(whole)
    again = run(tiny_model("llava"), task, whole, FAMILIES, batch_size, arguments=("another",))
    assert again.table.without_times() == table.without_times()
    assert again.table.plan == table.plan == {"batch_size": 4, "processes": 1}
    assert (whole / "manifest.json").read_bytes() == before


def test_plans_of_all_sessions_that_computed_are_kept(tiny_model: Tiny, tmp_path: Path) -> None:
    def go(batch_size: int | None, *arguments: str, retry: bool = True) -> Table:
        if retry:  # what failed is computed again
            path = tmp_path / "run" / "records" / "rank-0.jsonl"
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines[:-1]))
        return run(model, spec, tmp_path / "run", "shift(dx=2)", batch_size, arguments=arguments).table

    model, spec = tiny_model("llava"), write_task(tmp_path / "task", images=2, per_image=1)
    first = go(4, "a", retry=False)
    created = read_manifest(tmp_path / "run").created
    assert go(4, "a").plan == first.plan  # the same again is no news
    path = tmp_path / "run" / "manifest.json"
    written = json.loads(path.read_text())
    assert written.pop("sessions") == []
    path.write_text(json.dumps(written))  # a folder from before there were sessions
    later = go(3, "b")
    assert later.plan == {**first.plan, "later": [{"batch_size": 3, "processes": 1}]}
    assert go(5, "c", retry=False).plan == later.plan
    assert go(None, "b").plan == later.plan  # auto goes on with the latest
    manifest = read_manifest(tmp_path / "run")
    assert (manifest.plan["batch_size"], manifest.arguments, manifest.created) == (4, ["a"], created)
    assert [(s.plan["batch_size"], s.arguments) for s in manifest.sessions] == [(3, ["b"])]
    assert all(s.created and s.environment for s in manifest.sessions)


def test_a_run_that_ended_before_its_first_answer_is_planned_anew(tiny_model: Tiny, tmp_path: Path) -> None:
    spec = write_task(tmp_path / "task", images=1, per_image=1)
    first = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2)", 4)
    (first.folder / "records" / "rank-0.jsonl").unlink()
    assert run(tiny_model("llava"), spec, first.folder, "shift(dx=2)", 2).table.plan["batch_size"] == 2


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batch_size_changes_nothing(
    batch_size: int, tiny_model: Tiny, task: Path, whole: Path, tmp_path: Path
) -> None:
    run(tiny_model("llava"), task, tmp_path / "run", FAMILIES, batch_size)
    assert_same_but_ties(whole, tmp_path / "run")


def test_out_of_memory_halves_and_gives_the_same(
    tiny_model: Tiny, task: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = Adapter.answer

    def starved(self: Adapter, rows: list[object], *rest: object) -> object:
        tried.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Adapter, "answer", starved)
    run(tiny_model("llava"), task, tmp_path / "run", FAMILIES)
    assert max(tried) == 4
    assert tried.count(4) == 1  # later batches start from what fitted
    assert_same_but_ties(whole, tmp_path / "run")


def test_out_of_memory_at_one_row_is_an_error_record(
    tiny_model: Tiny, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Adapter, "answer", starved)
    result = run(tiny_model("llava"), task, tmp_path / "run", "shift(dx=2)", repeats=0)
    assert result.table.status == "partial"
    assert {r.state for r in answers(tmp_path / "run").values()} == {State.ERROR}
    assert all("out of memory" in r.detail for r in answers(tmp_path / "run").values())


def test_a_broken_program_is_no_error_record(
    tiny_model: Tiny, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise ValueError("shapes do not match")

    monkeypatch.setattr(Adapter, "answer", broken)
    with pytest.raises(ValueError, match="shapes"):
        run(tiny_model("llava"), task, tmp_path / "run", "shift(dx=2)", repeats=0)


def test_bad_items_become_errors_and_are_mended_on_resume(tiny_model: Tiny, tmp_path: Path) -> None:
    def rows(folder: Path) -> Path:
        write_task(folder, images=2, per_image=1)
        good = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
        bad = [
            {"id": "corrupt", "image": "corrupt.png", "question": "what is it ?", "answer": "yes"},
            {"id": "missing", "image": "missing.png", "question": "what is it ?", "answer": "yes"},
            {"id": "empty", "image": "0.png", "question": " ", "answer": "yes"},
            {"id": "long", "image": "0.png", "question": "what " * 9000, "answer": "yes"},
        ]
        return write_rows(folder, good[:1] + bad + good[1:])

    spec = rows(tmp_path / "bad")
    (spec.parent / "images" / "corrupt.png").write_bytes(picture(7).tobytes()[:50])
    first = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2),shift(dy=2)")
    assert first.table.status == "partial"
    states = {
        item: r.state for (_, item, condition), r in answers(first.folder).items() if condition == "clean"
    }
    assert {item for item, state in states.items() if state is State.ERROR} == {
        "corrupt",
        "missing",
        "empty",
        "long",
    }
    assert all("\n" not in r.detail for r in answers(first.folder).values())

    for name in ("corrupt", "missing"):
        picture(7).save(spec.parent / "images" / f"{name}.png")
    mended = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2),shift(dy=2)")
    spec = rows(tmp_path / "good")
    for name in ("corrupt", "missing"):
        picture(7).save(spec.parent / "images" / f"{name}.png")
    never_bad = run(tiny_model("llava"), spec, tmp_path / "other", "shift(dx=2),shift(dy=2)")
    assert mended.table.without_times() == never_bad.table.without_times()
    assert mended.table.status == "partial"  # the empty and the over-long question remain


def test_another_run_in_the_folder_is_refused(tiny_model: Tiny, task: Path, whole: Path) -> None:
    before = (whole / "manifest.json").read_bytes()
    with pytest.raises(
        UsageError, match=r"holds a different run \(differs in: tasks\.own\.conditions: 8 there, 3 here; "
    ):
        run(tiny_model("llava"), task, whole, "shift(dx=3)")
    with pytest.raises(UsageError, match="seed"):
        run(tiny_model("llava"), task, whole, FAMILIES, seed=1)
    assert (whole / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "smolvlm", "gemma3"])
def test_own_data_on_every_kind_of_family(family: str, tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    result = run(tiny_model(family), task, tmp_path / "run", "shift(dx=0),shift(dx=2),pad(n=4)")
    assert result.table.status == "complete"
    records = answers(result.folder)
    for (_, item, condition), record in records.items():
        assert record.state in {State.PARSED, State.EMPTY, State.UNPARSED}
        assert record.visual_tokens
        if condition in {"shift", "repeat(index=1)"}:  # the identity went the full way, in another row
            clean = records[("own", item, "clean")]
            assert record.raw == clean.raw or record.tie or clean.tie
            assert record.pixels_hash == clean.pixels_hash


def test_perturbed_pixels_differ_and_displacement_is_told(whole: Path) -> None:
    records = answers(whole)
    clean, moved = records[("own", "0-0", "clean")], records[("own", "0-0", "shift(dx=2)")]
    assert moved.source_hash == clean.source_hash == clean.pixels_hash != moved.pixels_hash
    assert moved.displacement is not None
    assert moved.displacement[0] == pytest.approx(
        2 * moved.input_size[0][1] / 48
    )  # shortest edge 48 source px
    assert len({r.key for r in records.values()}) == len(records)


def command(model: Path, task: Path, out: Path) -> list[str]:
    options = ["--model", str(model), "--task", str(task), "--out", str(out), "--perturb", FAMILIES]
    return ["vlmbench", "perturb", *options, "--repeats", "1", "--batch-size", "4", "--device", "cpu"]


def launch_two(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in two processes; the launcher's own code is 1 whatever theirs are, which it prints."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.run(
        [sys.executable, *torchrun, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_kill_9_and_two_processes(tiny_model: Tiny, task: Path, whole: Path, tmp_path: Path) -> None:
    """The real thing: SIGKILL in the middle, then two processes under torchrun go on in the same folder."""
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", *command(tiny_model("llava"), task, out)])
    deadline = time.monotonic() + 120
    while not list(out.glob("records/*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = launch_two(command(tiny_model("llava"), task, out), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "records" / "rank-1.jsonl").stat().st_size > 0
    manifest = read_manifest(out)
    assert 2 in {session.plan["processes"] for session in (manifest, *manifest.sessions)}
    assert_same_but_ties(whole, out)


def test_wrong_usage_of_two_processes_is_one_line_and_no_crash(
    tiny_model: Tiny, task: Path, whole: Path, tmp_path: Path
) -> None:
    before = (whole / "manifest.json").read_bytes()
    done = launch_two([*command(tiny_model("llava"), task, whole), "--seed", "1"], tmp_path)
    assert re.findall(r"^vlmbench: .*", done.stderr, re.M) == [
        f"vlmbench: {whole} holds a different run (differs in: seed: 0 there, 1 here); choose another --out"
    ]
    assert re.findall(r"exitcode +: (-?\d+)", done.stderr) == ["2"], done.stderr
    assert "closing signal" not in done.stderr
    assert not list(tmp_path.iterdir())  # no traceback beside the user
    assert (whole / "manifest.json").read_bytes() == before


def test_a_partial_run_of_two_processes_ends_with_the_first(tiny_model: Tiny, tmp_path: Path) -> None:
    write_task(tmp_path, images=2, per_image=1)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    blank = {"id": "blank", "image": "0.png", "question": "", "answer": "yes"}
    done = launch_two(
        command(tiny_model("llava"), write_rows(tmp_path, [*rows, blank]), tmp_path / "run"), tmp_path
    )
    assert re.findall(r"exitcode +: (-?\d+) .*", done.stderr) == ["3"], done.stderr
    assert "closing signal" not in done.stderr  # nobody was killed on the way out
    assert re.findall(r"^vlmbench: .*", done.stderr, re.M) == []
    assert "failed: empty question (items blank)" in " ".join(done.stdout.split())
    assert Table.read(tmp_path / "run").status == "partial"


def test_a_process_that_is_lost_is_no_internal_error(tmp_path: Path) -> None:
    """The last of three ends without a word: the first says so, once, and no one leaves a traceback."""
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", str(script)]
    done = subprocess.run(
        [sys.executable, *torchrun], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert sorted(done.stdout.split()) == ["130", "130"]
    assert [line.partition(";")[0] for line in done.stderr.splitlines() if "vlmbench" in line] == [
        "vlmbench: another process of this run ended early"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["lost.py"]


LOST = """
import os
from vlmbench.cli import app
from vlmbench.engine.ranks import find_ranks

@app.app.command()
def wait():
    ranks = find_ranks("cpu")
    ranks.wait()
    if ranks.rank == 2:
        os._exit(0)
    ranks.wait()

code = app.run(["wait"])
os.write(1, f"{code} ".encode())  # at once: two processes share the pipe
os._exit(0)  # gloo may abort while it is torn down behind a lost peer
"""


def test_pictures_overwritten_between_sessions_are_computed_again(
    tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(self: RecordStore, records: Iterable[Record]) -> None:
        real(self, records)
        raise Killed

    real = RecordStore.append
    spec = write_task(tmp_path / "task", images=2, per_image=1)
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "append", append)
        with pytest.raises(Killed):
            run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2),pad(n=4)")
    kept = (spec.parent / "images" / "1.png").read_bytes()
    for name in ("0.png", "1.png"):
        picture(9).save(spec.parent / "images" / name)
    (spec.parent / "images" / "1.png").write_bytes(kept)  # written anew with the same pixels
    mended = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2),pad(n=4)")
    fresh = run(tiny_model("llava"), spec, tmp_path / "other", "shift(dx=2),pad(n=4)")
    assert mended.table.without_times() == fresh.table.without_times()
    picture(5).save(spec.parent / "images" / "1.png")
    again = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2),pad(n=4)")  # a finished run, too
    assert again.table.tasks[0].digests[0] == mended.table.tasks[0].digests[0]
    assert again.table.tasks[0].digests[1] != mended.table.tasks[0].digests[1]


def test_items_without_answers_have_flips_and_no_score(tiny_model: Tiny, tmp_path: Path) -> None:
    spec = write_task(tmp_path, images=2, per_image=1)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    rows[0]["answer"] = None
    result = run(tiny_model("llava"), write_rows(tmp_path, rows), tmp_path / "run", "shift(dx=2)")
    assert spec.exists()
    assert result.table.status == "complete"
    clean, moved = (
        next(c for c in result.table.cells if c.condition == name) for name in ("clean", "shift(dx=2)")
    )
    assert clean.metrics["accuracy"].n == 1
    assert moved.metrics["flip_rate"].n == 2


def test_a_resumed_partial_run_does_not_repeat_its_failures(tiny_model: Tiny, tmp_path: Path) -> None:
    write_task(tmp_path, images=1, per_image=1)
    rows = [json.loads((tmp_path / "data.jsonl").read_text())]
    rows += [{"id": "blank", "image": "0.png", "question": "", "answer": "yes"}]
    spec = write_rows(tmp_path, rows)
    first = run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2)")
    size = (first.folder / "records" / "rank-0.jsonl").stat().st_size
    run(tiny_model("llava"), spec, tmp_path / "run", "shift(dx=2)")
    assert (first.folder / "records" / "rank-0.jsonl").stat().st_size == size
    assert any("empty question (items blank)" in note for note in first.table.notes)


def test_null_variants_stand_beside_the_floor(
    whole: Path, tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    table = run(tiny_model("llava"), task, tmp_path / "run", "lsb(share=1),shift(dx=2)").table
    pairs = {s.group["axis"]: s.counts["pairs"] for s in table.summaries if s.group.keys() == {"axis"}}
    assert pairs == {"repeat": 6, "all": 6, "null": 6, "image": 6}
