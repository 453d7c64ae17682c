"""A served model through a server that fails in every way: nothing is lost, nothing is paid for twice, and no
key gets out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import run, write_rows, write_task

from vlmbench.cli.app import run as command
from vlmbench.engine.store import read_records
from vlmbench.errors import UsageError
from vlmbench.models.endpoint_address import Server, find_address
from vlmbench.models.endpoint_reply import MalformedReplyError, read_reply
from vlmbench.models.endpoint_retry import CallFailedError, HopelessError, Pace, backoff, retry_after
from vlmbench.schema import State, Table

FAMILIES = "shift(dx=2),shift(dx=0),pad(n=4),polite(k=0)"
CALLS = 6 * 7
"""6 items: clean, three repeats and three that differ; shift(dx=0) shows the pixels of clean."""
KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"


@pytest.fixture(scope="module")
def shared() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def server(shared: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shared.reset()
    return shared


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def whole(
    shared: FaultServer, task: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Counter[str]]:
    """An uninterrupted run without a fault, and how often each input was answered."""
    shared.reset()
    result = ask(shared, task, tmp_path_factory.mktemp("runs") / "whole")
    assert result.table.status == "complete"
    return result.folder, shared.answered


def ask(
    server: FaultServer,
    task: Path,
    out: Path,
    repeats: int = 3,
    families: str = FAMILIES,
    limit: int | None = None,
    **more: Any,
) -> Any:
    how = {"timeout": 0.5, "retries": 5, "patience": 0.01, "concurrency": 4, **more}
    asked = Server(base_url=server.url, **how)
    return run("openai:m", task, out, families, batch_size=None, repeats=repeats, server=asked, limit=limit)


def test_a_run_is_one_table_and_three_real_calls_for_the_floor(
    server: FaultServer, whole: tuple[Path, Counter[str]]
) -> None:
    folder, answered = whole
    assert sum(answered.values()) == CALLS
    assert sorted(answered.values()) == [1] * 18 + [4] * 6  # clean and three repeats are one input
    assert len((folder / "calls.jsonl").read_text().splitlines()) == CALLS
    records = read_records(folder)
    clean, same = records["own", "0-0", "clean"], records["own", "0-0", "shift"]
    assert (clean.raw, clean.prob) == (same.raw, same.prob)
    assert clean.server == {"model": "m-2026", "fingerprint": "fp-1", "without": []}
    for record in records.values():
        assert record.state is not State.ERROR
        assert record.visual_tokens is record.displacement is record.layer_tokens is None
        assert record.input_size == []
        assert record.prob is not None
        assert record.prob_margin == pytest.approx(2 * record.prob - 1)
        assert record.min_margin == pytest.approx(_logit(record.prob))
    table = Table.read(folder)
    assert table.identity["model"] == "openai:m"
    assert table.identity["server"] == server.url.partition("://")[2]  # with the path
    assert table.identity["revision"] is None


def _logit(p: float) -> float:
    from math import log

    return log(p / (1 - p))


def test_the_request_is_png_pictures_in_order_then_the_text(
    server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    import base64
    import io

    ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)")
    body = server.bodies[0]
    assert {k: body[k] for k in ("model", "temperature", "max_tokens", "seed", "logprobs")} == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 3,
        "seed": 0,
        "logprobs": True,
    }
    (message,) = body["messages"]
    picture, text = message["content"]
    kind, _, data = picture["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    with (
        Image.open(io.BytesIO(base64.b64decode(data))) as sent,
        Image.open(task.parent / "images" / "0.png") as own,
    ):
        assert sent.convert("RGB").tobytes() == own.convert("RGB").tobytes()
    assert text == {"type": "text", "text": "what is in the picture ?"}


@pytest.mark.parametrize("first", ["cut", 500, "stall"])
def test_faults_change_nothing_and_repeat_nothing(
    first: Any, server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    faults = [
        first,
        "ok",
        429,
        500,
        "cut",
        "json",
        "ok",
        "ok",
        "other",
        "stall",
        "ok",
        500,
        500,
        "html",
        "cut",
    ]
    server.reset(faults)
    result = ask(server, task, tmp_path / "run")
    assert not server.faults
    assert result.table.without_times() == Table.read(whole[0]).without_times()
    assert server.answered == whole[1]
    assert ask(server, task, tmp_path / "run").table.status == "complete"
    assert server.answered == whole[1]  # a finished run asks nothing


def test_pauses_are_kept(server: FaultServer, task: Path, tmp_path: Path) -> None:
    server.reset([429, 500, 500])
    server.pause = 0.4
    ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)", concurrency=1, patience=0.2)
    server.pause = 0.05
    first, second, third, fourth, *_ = server.arrived
    assert second - first >= 0.4  # as the server asked
    assert third - second >= 0.2  # the second try waits 2 x 0.2, half of it drawn
    assert fourth - third >= 0.4


def test_a_pause_holds_for_all_threads() -> None:
    pace = Pace()
    start = time.monotonic()
    pace.hold(0.3)
    pace.hold(0.1)  # the longer one counts
    pace.wait()
    assert time.monotonic() - start >= 0.3
    pace.hold(60)
    pace.stopping.set()
    with pytest.raises(CallFailedError, match="interrupted"):
        pace.wait(60)


def test_a_server_that_dies_and_comes_back(
    server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path, capsys: Any
) -> None:
    server.hold_after = 17
    import threading

    def die() -> None:
        deadline = time.monotonic() + 20
        while len(server.arrived) < 21 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.stop()
        server.released.set()

    killer = threading.Thread(target=die)
    killer.start()
    result = ask(server, task, tmp_path / "run", retries=2)
    killer.join()
    assert result.table.status == "partial"
    assert sum(server.answered.values()) == 17
    assert sum("the server is gone" in note for note in result.table.notes) == 1
    server.hold_after = float("inf")
    server.start()
    again = ask(server, task, tmp_path / "run")
    assert again.table.without_times() == Table.read(whole[0]).without_times()
    assert server.answered == whole[1]


def arguments(server: FaultServer, task: Path, out: Path) -> list[str]:
    options = ["--model", "openai:m", "--base-url", server.url, "--task", str(task), "--out", str(out)]
    return ["perturb", *options, "--perturb", FAMILIES, "--concurrency", "4", "--timeout", "20"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_ends_in_the_middle(
    how: signal.Signals, server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    server.hold_after = 19  # what is under way when the client dies has no answer yet
    client = subprocess.Popen(
        [sys.executable, "-m", "vlmbench", *arguments(server, task, out)],
        env={**os.environ, "OPENAI_API_KEY": KEY},
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background of a shell inherits that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(server.arrived) < 23 and time.monotonic() < deadline:
        time.sleep(0.02)
    while len((out / "calls.jsonl").read_text().splitlines()) < 19 and time.monotonic() < deadline:
        time.sleep(0.02)
    client.send_signal(how)
    if how is signal.SIGINT:
        time.sleep(0.2)
        server.released.set()  # the calls under way are cut, and not asked again
    _, said = client.communicate(timeout=30)
    if how is signal.SIGINT:
        assert client.returncode == 130
        assert said.splitlines()[-1] == "vlmbench: interrupted; the same command goes on where it stopped"
    server.released.set()
    server.hold_after = float("inf")
    with (out / "calls.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')
    result = ask(server, task, out)
    assert result.table.without_times() == Table.read(whole[0]).without_times()
    assert server.answered == whole[1]


def test_the_budget_is_held_before_the_first_call(
    server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=rf"needs {CALLS} calls .* --max-calls allows {CALLS - 1}: nothing was"
    ):
        ask(server, task, tmp_path / "run", max_calls=CALLS - 1)
    assert not server.arrived
    server.reset(["ok"] * 9 + [500] * 200)
    partial = ask(server, task, tmp_path / "run", max_calls=CALLS, retries=0)
    assert partial.table.status == "partial"
    paid = sum(server.answered.values())
    assert paid >= 9
    server.faults.clear()
    left = CALLS - paid
    with pytest.raises(UsageError, match=f"needs {left} calls"):
        ask(server, task, tmp_path / "run", max_calls=left - 1)
    done = ask(server, task, tmp_path / "run", max_calls=left)
    assert done.table.without_times() == Table.read(whole[0]).without_times()
    assert server.answered == whole[1]


REFUSED = {"error": {"message": "logprobs are not supported", "param": "logprobs"}}


@pytest.mark.parametrize(
    ("faults", "without"),
    [
        ([REFUSED], ["logprobs"]),
        ([{"error": "bad request"}], ["logprobs"]),  # a guess that the next answer confirms
        ([(422, {"detail": "Unexpected fields in the request: {'seed'}"})], ["seed"]),
        ([{"error": {"message": "no", "param": "temperature"}}, REFUSED], ["temperature", "logprobs"]),
        ([{"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}}], []),
    ],
)
def test_parameters_that_a_server_does_not_take(
    faults: list[Any], without: list[str], server: FaultServer, task: Path, tmp_path: Path
) -> None:
    server.reset(faults)
    table = ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)").table
    assert len(server.arrived) == len(faults) + 12  # asked once more, once a run
    assert table.status == "complete"
    for record in read_records(tmp_path / "run").values():
        assert record.server is not None
        assert record.server["without"] == without
        assert (record.prob is None) == ("logprobs" in without)
    for name in without:
        assert f"the server would not take {name}: 12 answers are without it" in table.notes
    assert any("12 of 12 answers came without log-probabilities" in n for n in table.notes) == (
        "logprobs" in without
    )
    last = server.bodies[-1]
    assert last.get("max_tokens", last.get("max_completion_tokens")) == 3


def test_one_refused_item_is_an_error_and_the_run_goes_on(
    server: FaultServer, task: Path, tmp_path: Path
) -> None:
    server.reset(["ok", "ok", {"error": {"message": "the picture is too large"}}])
    result = ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)", concurrency=1)
    failed = [r for r in read_records(tmp_path / "run").values() if r.state is State.ERROR]
    assert [f.detail.partition("came back: ")[2] for f in failed] == ["the picture is too large"]
    assert result.table.status == "partial"
    assert ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)").table.status == "complete"
    assert sum(server.answered.values()) == 12


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("html", "200 text/html came back; it is no JSON: <!doctype html>"),
        ("other", "200 application/json came back; it is JSON, but no chat completion: {"),
        ((401, {"error": {"message": f"Incorrect API key: {KEY}"}}), "401 came back: Incorrect API key: ***"),
        ((404, {"error": {"message": "no such model"}}), "404 came back: no such model"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), "429 came back: pay"),
        ({"error": {"message": "wrong model"}}, "no call of the first 3 was answered: "),
        ((200, "x" * 500), "it is no JSON: " + "x" * 200),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_server_that_cannot_be_asked_is_one_line(
    always: Any,
    said: str,
    server: FaultServer,
    task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.always = always
    assert command(arguments(server, task, tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert server.url + "/chat/completions" in line
    assert KEY not in line
    assert len(line) < 420
    assert not sum(server.answered.values())


def test_a_key_that_ends_in_the_middle_keeps_what_is_answered(
    server: FaultServer, task: Path, whole: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    server.reset(["ok"] * 10 + [(401, {"error": {"message": "expired"}})] * 50)
    with pytest.raises(HopelessError, match="401 came back: expired"):
        ask(server, task, tmp_path / "run")
    assert len(server.arrived) < 20  # it stopped at once
    server.faults.clear()
    result = ask(server, task, tmp_path / "run")
    assert result.table.without_times() == Table.read(whole[0]).without_times()
    assert server.answered == whole[1]


def test_no_server_at_all(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = FaultServer()
    gone.stop()
    assert command(arguments(gone, task, tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Connection refused" in line
    assert gone.url in line


@pytest.mark.parametrize("key", [KEY, 'kq7!"\\x9'], ids=["long", "eight"])
def test_the_key_gets_nowhere(
    key: str,
    server: FaultServer,
    task: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    # the cut at 200 characters falls into the key: whoever cuts first shows most of it
    told = {"error": {"message": f"{'x' * (200 - len(key) + 2)}{key}", "code": key, "param": key}}
    spoken = {
        "choices": [{"message": {"content": f"your key is {key}"}, "finish_reason": key}],
        "model": f"m {key}",
        "system_fingerprint": f"fp {key}",
        "id": key,
    }
    server.reset([(500, told), (200, spoken), *[(400, told)] * 3])
    named = str(_named(tmp_path, key.replace("/", "")))
    assert command([*arguments(server, task, tmp_path / "run"), "--include", named]) == 3
    said = capfd.readouterr()
    assert server.keys == {f"Bearer {key}"}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "table.json", "rank-0.jsonl", "calls.jsonl"}
    for text in (said.out, said.err, *(path.read_text(encoding="utf-8") for path in files)):
        for form in (key, json.dumps(key)[1:-1]):
            assert form not in text
            assert form[:-3] not in text
    calls = (tmp_path / "run" / "calls.jsonl").read_text()
    for kept in ("your key is ***", '"m ***"', '"fp ***"', '"finish": "***"'):
        assert kept in calls


def _named(folder: Path, text: str) -> Path:
    path = folder / f"{''.join(c for c in text if c.isalnum() or c in '-!')}.py"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        ({}, {}, "no key for api.openai.com: put it into the environment variable OPENAI_API_KEY, or name"),
        ({"base_url": "http://me:secret@h/v1"}, {}, "holds a user name or password"),
        ({"base_url": "http://h/v1?api_key=secret"}, {}, "without `\\?`"),
        ({"base_url": "h:8000/v1"}, {}, "must look like http://localhost:8000/v1: got 'h:8000/v1'"),
        ({"base_url": "http://h:99999/v1"}, {}, "no address"),
        ({"key_variable": "sk-secret"}, {}, "takes the NAME of an environment variable"),
        ({"key_variable": "MY_KEY"}, {}, "no key for api.openai.com: put it .* MY_KEY$"),
        ({}, {"OPENAI_API_KEY": "line\nbreak"}, "is no key"),
        ({"concurrency": 0}, {}, "--concurrency must be at least 1"),
        ({"timeout": 0}, {}, "--timeout must be"),
    ],
)
def test_addresses_and_keys_that_are_wrong(
    given: dict[str, Any], environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MY_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said) as error:
        find_address(Server(**given))
    assert "secret" not in str(error.value)


def test_a_server_here_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for url, host in (
        ("http://localhost:8000/v1/", "localhost:8000"),
        ("http://127.0.0.1/v1", "127.0.0.1"),
        ("http://[::1]:80/v1", "[::1]:80"),
    ):
        address = find_address(Server(base_url=url))
        assert (address.host, address.key, address.local) == (host, "none", True)
        assert address.url == url.rstrip("/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert KEY not in repr(find_address(Server()))


@pytest.mark.parametrize(
    "options",
    [
        ["--prune", "zoo@0.9"],
        ["--dtype", "float32"],
        ["--space", "model"],
        ["--batch-size", "4"],
        ["--forecast"],
        ["--forecast", "--riskiest", "0.5"],
        ["--drift"],
    ],
    ids=lambda options: options[0],
)
def test_what_needs_the_weights_is_refused(
    options: list[str], server: FaultServer, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([*arguments(server, task, tmp_path / "run"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert options[0] in line
    assert "served model" in line
    for other in (["prune"], ["check"]):
        assert command([*other, "--model", "openai:m"]) == 2
        assert "openai:m is a served model" in capsys.readouterr().err
    assert not server.arrived


@pytest.mark.parametrize(
    "options",
    [
        ["--base-url", "http://127.0.0.1:9/v1"],
        ["--max-calls", "5"],
        ["--concurrency", "2"],
        ["--timeout", "3"],
        ["--retries", "1"],
        ["--api-key-env", "MY_KEY"],
        ["--fresh"],
    ],
    ids=lambda options: options[0],
)
def test_what_a_model_that_runs_here_has_no_use_for_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["perturb", "--model", "demo", *options]) == 2
    assert capsys.readouterr().err == (
        f"vlmbench: {options[0]} goes with --model openai:NAME: got --model demo\n"
    )


def test_two_sessions_of_one_run_do_not_pay_twice(server: FaultServer, task: Path, tmp_path: Path) -> None:
    from vlmbench.engine.calls import CallStore

    folder = ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)").folder
    held = CallStore(folder)
    with pytest.raises(UsageError, match="another process is working"):
        ask(server, task, folder, repeats=0, families="polite(k=0)")
    held.close()


def test_a_phrasing_in_another_language_asks_for_the_answers_own(server: FaultServer, tmp_path: Path) -> None:
    write_task(tmp_path, images=1)
    wordings = {"german": "Was ist das?", "fr-1": "Qu'est-ce ?", "short": "And this?"}
    rows = [{"image": "0.png", "question": "What is it?", "answer": "yes", "phrasings": wordings}]
    for spec, tail in (({}, "\nAnswer in English."), ({"force_answer_language": False}, "")):
        server.reset()
        task = write_rows(tmp_path, rows, phrasing_languages={"german": "de"}, **spec)
        ask(server, task, tmp_path / f"run{len(spec)}", repeats=0, families="phrasing", fresh=True)
        texts = {body["messages"][0]["content"][-1]["text"] for body in server.bodies}
        assert texts == {"What is it?", "And this?", f"Was ist das?{tail}", f"Qu'est-ce ?{tail}"}


def test_drawn_answers_are_calls_of_their_own(server: FaultServer, task: Path, tmp_path: Path) -> None:
    from vlmbench.experiments.options import RunOptions
    from vlmbench.experiments.perturb import PerturbOptions
    from vlmbench.experiments.perturb import run as perturb

    options = RunOptions(
        model="openai:m",
        tasks=str(task),
        out=tmp_path / "run",
        server=Server(base_url=server.url),
        show_progress=False,
    )
    perturb(options, PerturbOptions(suite="none", rewrite="none", repeats=0, samples=2, temperature=0.5))
    assert Counter(body["temperature"] for body in server.bodies) == {0.0: 6, 0.5: 12}
    assert set(server.answered.values()) == {1}  # a seed for every item and draw


def reply(content: Any = "yes", **choice: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": content}, **choice}]})


def test_replies_are_read_as_servers_write_them() -> None:
    assert (
        read_reply(reply([{"type": "text", "text": " a "}, {"type": "text", "text": "cat\n"}])).text
        == "a cat"
    )
    assert read_reply(reply(None)).text == ""
    refusal = json.dumps({"choices": [{"message": {"content": None, "refusal": "I cannot"}}]})
    assert read_reply(refusal).text == "I cannot"
    bare = read_reply(reply())
    assert (bare.prob, bare.prob_margin, bare.min_margin, bare.new_tokens) == (None, None, None, None)
    steps = [
        {"token": "a", "logprob": -0.5, "top_logprobs": [_top("a", -0.5), _top("b", -1.5)]},
        {"token": "c", "logprob": -0.2, "top_logprobs": [_top("c", -0.2), _top("d", -0.3)]},
    ]
    told = read_reply(reply(logprobs={"content": steps}))
    assert told.prob == pytest.approx(0.60653066)
    assert told.prob_margin == pytest.approx(0.60653066 - 0.22313016)
    assert told.min_margin == pytest.approx(0.1)
    steps[1]["top_logprobs"] = []  # a step without its runner-up: its gap is not known
    told = read_reply(reply(logprobs={"content": steps}))
    assert told.prob == pytest.approx(0.60653066)
    assert told.min_margin is None
    for broken in ("", "[]", "{}", '{"choices": []}', '{"error": "no"}', reply(3), "<p>"):
        with pytest.raises(MalformedReplyError):
            read_reply(broken)


MALFORMED = {
    "message null": {"choices": [{"message": None}]},
    "message text": {"choices": [{"message": "hello"}]},
    "message list": {"choices": [{"message": []}]},
    "content [text]": {"choices": [{"message": {"content": ["a"]}}]},
    "content [1]": {"choices": [{"message": {"content": [1]}}]},
    "text null": {"choices": [{"message": {"content": [{"type": "text", "text": None}]}}]},
    "choice list": {"choices": [[]]},
    "choices object": {"choices": {"0": 1}},
    "deep": "[" * 200_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_reply_is_tried_again_and_then_an_error_of_its_item(
    body: Any, server: FaultServer, task: Path, tmp_path: Path
) -> None:
    with pytest.raises(MalformedReplyError):
        read_reply(body if isinstance(body, str) else json.dumps(body))
    server.reset(["ok", (200, body), "ok", (200, body), (200, body)])
    result = ask(server, task, tmp_path / "run", repeats=0, families="polite(k=0)", concurrency=1, retries=1)
    states = Counter(record.state for record in read_records(tmp_path / "run").values())
    assert (states[State.ERROR], states.total()) == (1, 12)
    assert result.table.status == "partial"


HUGE = "9" * 400


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [None]}, {"content": [5]}, {"content": {"a": 1}}, {"content": "ab"}, [1], "x",
        {"content": [{"token": "a", "logprob": None}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": [None]}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": 3}]},
        {"content": [{"token": "a", "logprob": 5}]},
        {"content": [{"token": "a", "logprob": True}]},
        {"content": [{"token": "a", "logprob": int(HUGE)}]},
    ],
    ids=str,
)  # fmt: skip
def test_bad_log_probabilities_are_none(logprobs: Any) -> None:
    told = read_reply(reply(logprobs=logprobs))
    assert (told.text, told.prob, told.prob_margin, told.min_margin) == ("yes", None, None, None)


def test_figures_that_no_number_holds() -> None:
    body = '{"choices": [{"message": {"content": "y"}}], "usage": {"prompt_tokens": %s}}'
    for number in ("9" * 5000, HUGE, "-5", "true", "1e400"):
        assert read_reply(body % number).prompt_tokens is None
    least = {"content": [{"token": "a", "logprob": -int(HUGE)}]}
    assert read_reply(reply(logprobs=least)).prob == 0.0


NAMES = st.sampled_from(
    ["choices", "message", "content", "type", "text", "refusal", "logprobs", "token", "logprob",
     "top_logprobs", "usage", "prompt_tokens", "finish_reason", "model", "system_fingerprint"]
)  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(),
    st.sampled_from(["text", "yes", "-inf", "\ud83d", ""]),
    st.text(st.characters(codec=None, categories=["L", "Cs", "Cc"]), max_size=4),
)  # fmt: skip
SHAPES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def completions(draw: Any) -> Any:
    """A chat completion of which any part may be of any shape."""

    def maybe(good: Any) -> Any:
        return draw(SHAPES) if draw(st.integers(0, 4)) == 0 else good

    part = maybe({"type": "text", "text": maybe("yes")})
    top = maybe({"token": maybe("a"), "logprob": maybe(-0.5)})
    step = maybe({"token": maybe("b"), "logprob": maybe(-1.0), "top_logprobs": maybe([top])})
    message = maybe({"content": maybe(draw(st.sampled_from(["yes", None, [part]]))), "refusal": maybe(None)})
    choice = maybe({"message": message, "logprobs": maybe({"content": maybe([step])})})
    usage = maybe({"prompt_tokens": maybe(3), "completion_tokens": maybe(1)})
    return maybe({"choices": maybe([choice]), "usage": usage, "model": maybe("m")})


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.one_of(SHAPES, completions()))
def test_whatever_a_server_says_is_a_reply_or_malformed(content: Any) -> None:
    try:
        told = read_reply(json.dumps(content))
    except MalformedReplyError:
        return
    json.dumps(asdict(told), ensure_ascii=False, allow_nan=False).encode()  # no half characters, all finite
    assert all(isinstance(text, str) for text in (told.text, told.finish, told.model, told.fingerprint))
    for share in (told.prob, told.prob_margin):
        assert share is None or -1 <= share <= 1
    assert told.min_margin is None or told.min_margin >= 0
    assert all(count is None or 0 <= count <= 2**53 for count in (told.prompt_tokens, told.new_tokens))


def test_half_a_character_is_replaced_and_the_answer_kept(
    server: FaultServer, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = {"choices": [{"message": {"content": "red \ud83d"}}], "model": "m\udc00"}
    server.reset([(200, half), {"error": {"message": "no \ud83d"}}])
    assert command(arguments(server, task, tmp_path / "run")) == 3
    capsys.readouterr().out.encode()
    texts = {record.raw for record in read_records(tmp_path / "run").values()}
    assert "red \ufffd" in texts
    parts = [{"type": "text", "text": half} for half in ("\ud83d", "\ude00")]
    assert read_reply(reply(parts)).text == "😀"


@pytest.mark.parametrize(
    ("faults", "retries", "outcome"),
    [
        ([429, 500, "cut", "cut", "ok"], 5, "answered"),
        (["cut", "cut", "cut", "cut", "ok"], 5, "answered"),
        ([429, 500, "html", "html", "html", "ok"], 5, "answered"),
        (["html", "html", 429, "html", "ok"], 5, "answered"),
        ([(200, {"choices": [{"message": None}]})] * 4, 5, "answered"),
        (["html", "html", "html"], 5, "hopeless"),
        ([(502, "<html>")] * 2 + ["html"] * 3, 5, "hopeless"),
        (["json", "other", "html"], 5, "hopeless"),
        ([429, 500, "cut"], 2, "failed"),
        (["cut", "cut"], 1, "failed"),
    ],
)
def test_a_server_that_is_there_gets_all_tries(
    faults: list[Any], retries: int, outcome: str, server: FaultServer
) -> None:
    from vlmbench.models.endpoint import Endpoint, Question

    server.reset(faults)
    asked = Server(base_url=server.url, patience=0.001, retries=retries, timeout=2)
    endpoint = Endpoint("m", find_address(asked), asked)
    expected = {"hopeless": HopelessError, "failed": CallFailedError}.get(outcome)
    if expected is None:
        assert endpoint.ask(Question("?", (), 3)).text
    else:
        with pytest.raises(expected):
            endpoint.ask(Question("?", (), 3))
        assert not server.faults


# --- answers of runs beside


def test_a_larger_run_beside_takes_over_what_is_answered(
    server: FaultServer, task: Path, tmp_path: Path
) -> None:
    small = ask(server, task, tmp_path / "small", limit=4)
    paid = sum(server.answered.values())
    assert paid == 4 * 7
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "calls.jsonl").write_bytes(b'\xff\n{"key": 3}\n[1]\n{"key": "half')
    with pytest.raises(UsageError, match=f"needs {CALLS - paid} calls"):
        ask(server, task, tmp_path / "large", max_calls=CALLS - paid - 1)
    large = ask(server, task, tmp_path / "large", max_calls=CALLS - paid)
    assert sum(server.answered.values()) == CALLS
    assert large.table.status == "complete"
    assert f"{paid} answers taken over from small" in large.table.notes
    assert not any("taken over" in note for note in small.table.notes)
    calls = [json.loads(line) for line in (tmp_path / "large" / "calls.jsonl").read_text().splitlines()]
    assert Counter(call["taken_from"] for call in calls) == {"small": paid, "": CALLS - paid}
    shutil.rmtree(tmp_path / "small")  # the folder is whole without it
    again = ask(server, task, tmp_path / "large")
    assert again.table.without_times() == large.table.without_times()
    assert sum(server.answered.values()) == CALLS


def test_fresh_asks_anew(server: FaultServer, task: Path, tmp_path: Path) -> None:
    one = ask(server, task, tmp_path / "one", repeats=0, families="polite(k=0)")
    two = ask(server, task, tmp_path / "two", repeats=0, families="polite(k=0)", fresh=True)
    assert set(server.answered.values()) == {2}
    assert two.table.without_times() == one.table.without_times()


@pytest.mark.parametrize(
    ("now", "said"), [("fp-2", "of another fingerprint than"), ("", "no fingerprint tells")]
)
def test_answers_of_another_server_behind_the_same_name_are_told(
    now: str, said: str, server: FaultServer, task: Path, tmp_path: Path
) -> None:
    ask(server, task, tmp_path / "before", repeats=0, families="polite(k=0)")
    server.fingerprint = now
    table = ask(server, task, tmp_path / "after", repeats=0, families="polite(k=0),polite(k=1)").table
    server.fingerprint = "fp-1"
    (note,) = [note for note in table.notes if "taken over" in note]
    assert note.startswith("12 answers taken over from before")
    assert said in note


def _top(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob}


def test_waits() -> None:
    assert retry_after({"retry-after": "2"}) == 2.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    for nothing in ({}, {"retry-after": "soon"}, {"retry-after": "-1"}, {"retry-after": "nan"}):
        assert retry_after(nothing) is None
    waits = [[backoff(attempt, 0.5) for _ in range(50)] for attempt in (0, 3, 12)]
    for longest, drawn in zip((0.5, 4.0, 30.0), waits, strict=True):
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
        assert len(set(drawn)) > 40


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    server: FaultServer, task: Path, tmp_path: Path
) -> None:
    from vlmbench.models.endpoint import Endpoint, Question

    server.pause = 3600
    server.reset([429])
    asked = Server(base_url=server.url, patience=0.01)
    with pytest.raises(CallFailedError, match="429 came back: slow down"):
        Endpoint("m", find_address(asked), asked).ask(Question("?", (), 3))
    server.pause = 0.05
