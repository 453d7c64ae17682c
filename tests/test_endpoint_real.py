"""The demo behind transformers' own server answers as it does here: same answers, same scores."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import run

from vlmbench.engine.store import read_records
from vlmbench.models.aliases import DEMO
from vlmbench.models.endpoint_address import Server
from vlmbench.schema import State

FAMILIES = "shift(dx=2),shift(dx=0),pad(n=8),noise(sigma=3),case,template(k=1)"
LIMIT = 12
"""With fewer items the model of half the size gives the same answers to all, and could stand in unnoticed."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve demo`."""
    home = tmp_path_factory.mktemp("home")
    (home / "hub").mkdir()  # the server looks into it
    (home / "demo").symlink_to(DEMO)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "demo", "--host", "127.0.0.1"]
    log = home / "log.txt"
    with log.open("w") as said:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
            cwd=home,
            env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            stdout=said,
            stderr=said,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            with opener.open(url, timeout=2) as reply:
                if json.load(reply).get("status") == "ok":
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server did not start: " + log.read_text()[-2000:])


@pytest.mark.slow
def test_a_served_demo_answers_as_a_loaded_one(served: str, tmp_path: Path) -> None:
    here = run("demo", "demo", tmp_path / "here", FAMILIES, repeats=1, limit=LIMIT)
    there = run(
        "openai:demo",
        "demo",
        tmp_path / "there",
        FAMILIES,
        batch_size=None,
        repeats=1,
        limit=LIMIT,
        server=Server(base_url=served, concurrency=2),
    )
    assert there.table.status == here.table.status == "complete"
    mine, theirs = read_records(here.folder), read_records(there.folder)
    half = read_records(run("demo-half", "demo", tmp_path / "half", FAMILIES, repeats=1, limit=LIMIT).folder)
    differing = sum(
        record.state.counts and not record.tie and record.raw != half[key].raw for key, record in mine.items()
    )
    assert differing >= LIMIT  # this test would see another model
    assert mine.keys() == theirs.keys()
    compared = unread = 0
    for (task, item, condition), record in mine.items():
        other = theirs[task, item, condition]
        if record.state is State.NOT_APPLICABLE and other.state.counts:
            # this model reads the same tokens, which a client cannot know: then the answer is that of clean
            assert record.detail.startswith("unchanged: the model reads the same tokens")
            assert other.raw == theirs[task, item, "clean"].raw
            unread += 1
        elif not record.tie:
            assert (record.raw, record.answer, record.state, record.score) == (
                other.raw,
                other.answer,
                other.state,
                other.score,
            )
            compared += record.state.counts
            if record.state.counts:
                assert other.server is not None
                assert (other.server["model"], other.prompt_tokens) == ("demo@main", record.prompt_tokens)
                assert (other.new_tokens, other.pixels_hash) == (record.new_tokens, record.pixels_hash)
    assert sum(record.tie for record in mine.values()) <= 1
    assert compared >= 6 * LIMIT
    assert {cell.condition for cell in here.table.cells} == {cell.condition for cell in there.table.cells}
    print("compared:", compared, "read alike:", unread, "half the size differs:", differing)
