"""`vlmbench rewrite` with scripted and tiny generators, and `perturb --rewrite FILE` on what it makes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer
from runs import write_rows, write_task
from tiny.text import make_tokenizer

from vlmbench.cli.app import run as command
from vlmbench.engine.store import read_records
from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.experiments import rewrite as experiment
from vlmbench.experiments.asking import LocalAsker
from vlmbench.experiments.perturb import PerturbOptions, variations
from vlmbench.experiments.rewrite import RewriteOptions, UnansweredError, rejected_path
from vlmbench.experiments.rewriting import Outcome, Wanted, most_calls, rewrite_items
from vlmbench.items import Item
from vlmbench.models import texts
from vlmbench.models.endpoint_address import Server
from vlmbench.perturb.rewriting.frozen import Header, Rewritten, Source, dump, read_rewrites
from vlmbench.perturb.text import QUESTIONS
from vlmbench.schema import State, Table
from vlmbench.seeds import digest
from vlmbench.tasks.load import load_task

QUESTIONS_ASKED = {
    "a": "How many dogs are there?",
    "b": 'Is there no "EXIT" sign?',
    "c": "Where are the 3 cats?",
}
ITEMS = [Item(id=k, question=q, images=(), answers=("x",), cluster=k) for k, q in QUESTIONS_ASKED.items()]

SCRIPT = {
    ("German", "a"): ["Wie viele Hunde gibt es?", "Wie viele Hunde sind da?", "Wie viele Hunde sieht man?"],
    ("German", "b"): [
        'Gibt es ein "EXIT"-Schild?',
        'Gibt es kein "EXIT"-Schild?',
        'gibt es kein "EXIT" Schild',
    ],
    ("German", "c"): ["Wo sind die drei Katzen?", "", "Where are the 3 cats?"],
    ("English", "a"): [
        "How many dogs are there",
        'Paraphrase: "What is the number of dogs?"',
        "Count the dogs!",
    ],
}  # fmt: skip


class Scripted:
    """Answers by language and question, one more of them at each attempt; counts what it is asked."""

    def __init__(self, back: dict[str, str] | None = None, stop_after: int | None = None) -> None:
        self.prompts: list[str] = []
        self.batches: list[list[str]] = []
        self._back = back or {}
        self._stop_after = stop_after

    def about(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        if self._stop_after is not None and len(self.batches) == self._stop_after:
            raise KeyboardInterrupt
        self.batches.append(list(prompts))
        self.prompts += prompts
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: str) -> str:
        for text, said in self._back.items():
            if prompt.endswith(text):
                return said
        item = next(k for k, q in QUESTIONS_ASKED.items() if prompt.endswith(q))
        language = "German" if "German" in prompt else "English"
        told = prompt.split("Use another wording than: ")
        attempt = told[1].split("Reply")[0].count(" | ") + 1 if len(told) > 1 else 0
        return SCRIPT.get((language, item), ["Is it so?"] * 3)[attempt]


def made(model: Scripted, folder: Path, wanted: Wanted, verifier: Scripted | None = None) -> Outcome:
    askers = [LocalAsker(model, folder / "generator", 32, rows=2)]
    if verifier is not None:
        askers.append(LocalAsker(verifier, folder / "verifier", 32, rows=2))
    try:
        return rewrite_items(wanted, askers[0], askers[1] if verifier else None)
    finally:
        for asker in askers:
            asker.close()


def test_what_is_accepted_and_rejected_and_why(tmp_path: Path) -> None:
    outcome = made(Scripted(), tmp_path, Wanted(ITEMS, ("de",), per_item=3))
    assert [(r.item, r.kind, r.index, r.question) for r in outcome.accepted] == [
        ("a", "de", 1, "Wie viele Hunde gibt es?"),
        ("a", "de", 2, "Wie viele Hunde sind da?"),
        ("a", "de", 3, "Wie viele Hunde sieht man?"),
        ("b", "de", 1, 'Gibt es kein "EXIT"-Schild?'),
    ]
    empty = ["empty", "language", "numbers"]
    assert [(r.item, r.attempt, r.failed) for r in outcome.rejected] == [
        ("b", 1, ["negation"]),
        ("b", 3, ["repeated"]),
        ("c", 1, ["numbers"]),
        ("c", 2, empty),
        ("c", 3, empty),  # nothing new to tell the model: the same prompt again, which is not asked twice
    ]
    count = outcome.counts(("de",))["de"]
    assert (count.asked, count.accepted, count.rejected) == (9, 4, 5)
    assert count.rejection_rate == pytest.approx(5 / 9, abs=1e-4)
    assert sum(count.reasons.values()) == 5
    first = outcome.accepted[0]
    assert (first.language, first.source, first.score) == ("de", digest(QUESTIONS_ASKED["a"]), None)


def test_the_verifier_translates_back_and_judges_paraphrases(tmp_path: Path) -> None:
    back = {
        "Question: Wie viele Hunde gibt es?": '"How many dogs are there?"',
        'Question: Gibt es ein "EXIT"-Schild?': "never asked",
        "Second: What is the number of dogs?": "Yes.",
        "Second: Count the dogs!": "no",
    }
    verifier = Scripted(back)
    wanted = Wanted(ITEMS[:1], ("paraphrase", "de"), per_item=3)
    verifier._back |= {
        "Question: Wie viele Hunde sind da?": "Which cats are grey",
        "Question: Wie viele Hunde sieht man?": "How many dogs are visible?",
    }
    outcome = made(Scripted(), tmp_path, wanted, verifier)
    assert [(r.question, r.score) for r in outcome.accepted] == [
        ("What is the number of dogs?", 1.0),
        ("Wie viele Hunde gibt es?", 1.0),
        ("Wie viele Hunde sieht man?", 0.8),
    ]
    assert outcome.accepted[0].checks[-1] == "similarity"
    assert [(r.reason, r.question, r.score) for r in outcome.rejected] == [
        ("identical", "How many dogs are there", None),
        ("similarity", "Count the dogs!", 0.0),
        ("similarity", "Wie viele Hunde sind da?", 0.2222),
    ]
    assert len(verifier.prompts) == 5  # what fails a check is never shown to it


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_an_interrupted_session_goes_on_and_asks_nothing_twice(stop_after: int, tmp_path: Path) -> None:
    wanted = Wanted(ITEMS, ("paraphrase", "de"), per_item=2)
    whole = Scripted()
    expected = made(whole, tmp_path / "whole", wanted)
    first, second = Scripted(stop_after=stop_after), Scripted()
    with pytest.raises(KeyboardInterrupt):
        made(first, tmp_path / "cut", wanted)
    found = made(second, tmp_path / "cut", wanted)
    assert found == expected
    assert first.batches + second.batches == whole.batches
    assert made(Scripted(stop_after=0), tmp_path / "cut", wanted) == expected


def test_a_batch_of_which_some_answers_are_lost_is_computed_whole(tmp_path: Path) -> None:
    wanted = Wanted(ITEMS, ("paraphrase", "de"))
    expected = made(Scripted(), tmp_path, wanted)
    calls = tmp_path / "generator" / "calls.jsonl"
    lines = calls.read_bytes().splitlines(keepends=True)
    calls.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    again = Scripted()
    assert made(again, tmp_path, wanted) == expected
    assert [len(batch) for batch in again.batches] == [2]
    assert len(calls.read_bytes().splitlines()) == len(lines)


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    twins = [ITEMS[0], Item(id="z", question=ITEMS[0].question, images=(), answers=(), cluster="z")]
    model = Scripted()
    outcome = made(model, tmp_path, Wanted(twins, ("de",)))
    assert len(model.prompts) == 1
    assert [r.item for r in outcome.accepted] == ["a", "z"]


# --- the command


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """In place of the text model that the command loads."""

    class Poet(Scripted):
        def _answer(self, prompt: str) -> str:
            if "German" not in prompt:
                return "Is it so?"
            question = prompt.rsplit("Question: ", 1)[1]
            return {"what": "Was ist auf dem Bild?", "is": "Ist da eine rote Katze?"}[question.split()[0]]

    model = Poet()
    monkeypatch.setattr(texts, "TextModel", lambda name, **kwargs: model)
    monkeypatch.setattr(experiment, "resolve", lambda name: name)
    return model


def test_the_files_hold_what_is_needed_to_judge_them(task: Path, scripted: Scripted) -> None:
    out = task.parent / "own.jsonl"
    options = RewriteOptions("a/b", str(task), ("de",), out=out, show_progress=False)
    done = experiment.run(options)
    assert done.path == out
    loaded = load_task(str(task))
    read = read_rewrites(out)
    assert read.header == done.header
    assert read.header.task == Source(name="own", version=1, data=loaded.data_hash)
    assert read.header.generator["model"] == "scripted"
    assert read.header.generator["decoding"] == {"greedy": True, "max_new_tokens": 128, "batch_size": 16}
    assert read.header.generator["prompt_hash"]
    assert read.header.verifier is None
    assert read.header.created.startswith("20")
    assert read.header.counts["de"].asked == 6
    assert [row.item for row in read.rows] == [f"{i}-{j}" for i in range(3) for j in range(2)]
    assert rejected_path(out).read_text().count("\n") == 1
    assert not out.with_suffix(".work").exists()
    scripted.prompts.clear()
    with pytest.raises(UsageError, match=r"differs in: kinds.*choose another --out"):
        experiment.run(RewriteOptions("a/b", str(task), ("fr",), out=out))
    assert scripted.prompts == []


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random text model of a real class."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = make_tokenizer((), bos="<s>", eos="</s>", pad="<pad>", adds_bos=True, named={})
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CHAT = "{% for m in messages %}<s>{{ m['content'] }}\n{% endfor %}"


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_a_real_text_model_is_greedy_and_ignores_its_batch(
    template: str | None, language_model: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "llama"
    shutil.copytree(language_model, folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    model = texts.TextModel(str(folder))
    assert model.about() == {
        "model": "llama",
        "revision": model.revision,
        "dtype": "float32",
        "chat_template": bool(template),
    }
    prompts = ["How many dogs are there?", "Is it red and is it on the left of the picture?", "Why?"]
    together = model.generate(prompts, 6)
    assert together == [model.generate([prompt], 6)[0] for prompt in prompts]
    # oracle: the most likely next token, one at a time
    import torch

    text = prompts[0] + "\n" if template is None else f"<s>{prompts[0]}\n"
    ids = model.tokenizer(text, return_tensors="pt", add_special_tokens=template is None)["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(6):
            ids = torch.cat([ids, model.model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == model.tokenizer.eos_token_id:
                break
    assert model.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip() == together[0]


def test_a_vlm_writes_without_an_image(tiny_model: Any) -> None:
    model = texts.TextModel(str(tiny_model("qwen2_5_vl")))
    assert len(model.generate(["Why?", "How many dogs?"], 3)) == 2


def test_the_command_runs_a_real_model_and_says_what_was_rejected(
    language_model: Path, task: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(task.parent)
    call = ["rewrite", "--with", str(language_model), "--task", str(task), "--kinds", "paraphrase,ru",
            "--max-new-tokens", "4", "--device", "cpu"]  # fmt: skip
    assert command(call) == 0
    said = capsys.readouterr().out
    assert "100.0 %" in said
    assert "own-rewrites.jsonl" in said
    rejected = [json.loads(line) for line in Path("own-rewrites.rejected.jsonl").read_text().splitlines()]
    counts = rejected[0]["counts"]
    assert [counts[kind]["rejected"] for kind in ("paraphrase", "ru")] == [6, 6]
    assert len(rejected) == 13
    assert rejected[1]["asked"] == "what is in the picture ?"
    assert rejected[1]["raw"]
    assert rejected[0]["generator"]["revision"].startswith("sha256:")
    assert command(["perturb", "--task", str(task), "--rewrite", "own-rewrites.jsonl"]) == 2
    assert "holds no rewrite" in capsys.readouterr().err


# --- served generators


@pytest.fixture
def server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.stop()


def served(at: FaultServer, task: Path, most: int | None = None, **more: Any) -> RewriteOptions:
    asked = Server(base_url=at.url, timeout=0.5, retries=1, patience=0.01, concurrency=2, max_calls=most)
    kinds = more.pop("kinds", ("paraphrase", "de"))
    out = task.parent / "served.jsonl"
    return RewriteOptions("openai:m", str(task), kinds, out=out, server=asked, show_progress=False, **more)


def test_a_server_is_never_paid_twice(server: FaultServer, task: Path) -> None:
    server.always = None
    server.faults.extend(["ok", (400, '{"error": {"message": "no"}}')])
    with pytest.raises(UnansweredError, match=r"questions are without an answer, first: m: POST .* 400"):
        experiment.run(served(server, task))
    assert not (task.parent / "served.jsonl").exists()
    done = experiment.run(served(server, task))
    assert set(server.answered.values()) == {1}
    assert sum(server.answered.values()) == 4  # two questions that differ, two kinds
    assert done.header.generator["model"] == "openai:m"
    assert done.header.generator["reported"] == [["m-2026", "fp-1"]]
    assert sum(count.asked for count in done.header.counts.values()) == 12
    assert sum(server.answered.values()) == 4


def test_a_killed_client_goes_on_and_pays_for_nothing_twice(server: FaultServer, tmp_path: Path) -> None:
    rows = [{"image": "0.png", "question": f"How many of the {i} are red?", "answer": "x"} for i in range(9)]
    write_task(tmp_path)
    task = write_rows(tmp_path, rows)
    whole = experiment.run(served(server, task))
    files = (whole.path, whole.rejected)
    expected = [file.read_text().replace(whole.header.created, "") for file in files]
    for file in files:
        file.unlink()
    server.reset()
    server.hold_after = 7
    arguments = ["rewrite", "--with", "openai:m", "--base-url", server.url, "--task", str(task), "--kinds",
                 "paraphrase,de", "--out", str(whole.path), "--concurrency", "2"]  # fmt: skip
    client = subprocess.Popen([sys.executable, "-m", "vlmbench", *arguments], stderr=subprocess.PIPE)
    calls = whole.path.with_suffix(".work") / "generator" / "calls.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (calls.exists() and calls.read_bytes().count(b"\n") == 7):
        time.sleep(0.02)
    client.kill()
    client.communicate()
    assert not whole.path.exists()
    server.released.set()
    server.hold_after = float("inf")
    with calls.open("ab") as file:
        file.write(b'{"key": "half a li')
    again = experiment.run(served(server, task))
    assert [file.read_text().replace(again.header.created, "") for file in files] == expected
    assert set(server.answered.values()) == {1}
    assert sum(server.answered.values()) == 18


def test_a_budget_is_refused_before_the_first_call(server: FaultServer, task: Path) -> None:
    with pytest.raises(UsageError, match="up to 16 calls are not answered yet, and --max-calls allows 15"):
        experiment.run(served(server, task, per_item=2, verifier="openai:m", most=15))
    assert not server.bodies
    with pytest.raises(UsageError, match="up to 4 calls"):
        experiment.run(served(server, task, most=3))
    experiment.run(served(server, task, most=4))
    assert len(server.bodies) == 4
    assert all(isinstance(body["messages"][0]["content"][0]["text"], str) for body in server.bodies)


def test_a_budget_counts_what_this_very_command_has_answers_to(server: FaultServer, task: Path) -> None:
    server.faults.extend(["ok", (400, '{"error": {"message": "no"}}')])
    with pytest.raises(UnansweredError):
        experiment.run(served(server, task, kinds=("de",)))
    with pytest.raises(UsageError, match="up to 1 calls are not answered yet"):
        experiment.run(served(server, task, kinds=("de",), most=0))
    with pytest.raises(UsageError, match="up to 4 calls are not answered yet"):  # the German one is no help
        experiment.run(served(server, task, kinds=("paraphrase",), per_item=2, most=3))
    asked = len(server.bodies)
    experiment.run(served(server, task, kinds=("paraphrase",), per_item=2, most=4))
    assert len(server.bodies) - asked <= 4


@pytest.mark.parametrize("stop_after", range(8))
def test_the_most_calls_are_never_fewer_than_there_are(stop_after: int, tmp_path: Path) -> None:
    wanted = Wanted(ITEMS, ("paraphrase", "de"), per_item=3)
    back = {"Second: Count the dogs!": "no", "Question: Wie viele Hunde gibt es?": "How many dogs are there?"}

    def askers(stop: int | None) -> tuple[LocalAsker, LocalAsker, Scripted, Scripted]:
        writes, checks = Scripted(stop_after=stop), Scripted({**back, "": "never asked"})
        return (LocalAsker(writes, tmp_path / "generator", 32, rows=1),
                LocalAsker(checks, tmp_path / "verifier", 32, rows=1), writes, checks)  # fmt: skip

    generator, verifier, *_ = askers(stop_after)
    with pytest.raises(KeyboardInterrupt):
        rewrite_items(wanted, generator, verifier)
    generator.close(), verifier.close()
    generator, verifier, writes, checks = askers(None)
    most = most_calls(wanted, generator, verifier)
    assert writes.prompts == checks.prompts == []
    rewrite_items(wanted, generator, verifier)
    assert (len(writes.prompts), len(checks.prompts)) <= most
    assert len(checks.prompts) <= most[1]
    assert most_calls(wanted, generator, verifier) == (0, 0)
    generator.close(), verifier.close()


def test_changed_settings_of_a_finished_file_are_named(server: FaultServer, task: Path) -> None:
    made = experiment.run(served(server, task, verifier="openai:m"))
    asked = len(server.bodies)
    assert experiment.run(served(server, task, verifier="openai:m")).was_there
    for said, more in (
        ("generator.max_new_tokens: 128 there, 5 here", {"max_new_tokens": 5, "verifier": "openai:m"}),
        ("verifier.threshold: 0.5 there, 0.9 here", {"threshold": 0.9, "verifier": "openai:m"}),
        ("verifier: openai:m there, none here", {}),
        ("verifier: openai:m there, openai:other here", {"verifier": "openai:other"}),
        ("per_item: 1 there, 2 here", {"per_item": 2, "verifier": "openai:m"}),
    ):
        with pytest.raises(UsageError, match=rf"holds other rewrites \(differs in: {said}"):
            experiment.run(served(server, task, **more))
    text = made.path.read_text()
    made.path.write_text(text.replace('"prompt_hash": "', '"prompt_hash": "0', 1))
    with pytest.raises(UsageError, match=r"generator\.prompt_hash: 0"):
        experiment.run(served(server, task, verifier="openai:m"))
    made.path.write_text(text)
    elsewhere = dataclasses.replace(served(server, task, verifier="openai:m"),
                                    server=Server(base_url=server.url + "/other"))  # fmt: skip
    with pytest.raises(UsageError, match=r"generator.server: 127.0.0.1:\d+/v1 there, 127.0.0.1:\d+/v1/other"):
        experiment.run(elsewhere)
    assert len(server.bodies) == asked


def test_changed_settings_of_a_model_that_runs_here_are_named(language_model: Path, task: Path) -> None:
    out = task.parent / "local.jsonl"
    usual = RewriteOptions(str(language_model), str(task), ("ru",), out=out, max_new_tokens=2, device="cpu",
                           show_progress=False)  # fmt: skip
    experiment.run(usual)
    out.write_text(out.read_text() + dump_row(task))
    assert experiment.run(usual).was_there
    assert experiment.run(dataclasses.replace(usual, dtype="float32")).was_there
    for change, said in (({"dtype": "bfloat16"}, "generator.dtype: float32 there, bfloat16 here"),
                         ({"batch_size": 2}, "generator.batch_size: 16 there, 2 here")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            experiment.run(dataclasses.replace(usual, **change))


def dump_row(task: Path) -> str:
    """A line of a file, for one that would hold none."""
    file = write_file(task.parent / "row.jsonl", task, {("0-0", "ru"): "Что на картинке?"})
    return file.read_text().splitlines()[1] + "\n"


def test_half_a_character_and_an_echoed_key_do_no_harm(
    server: FaultServer, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-t/st-9"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = {"choices": [{"message": {"content": f"Was ist auf dem Bild {key} \ud83d?"}}], "model": key,
            "system_fingerprint": f"fp {key}"}  # fmt: skip
    server.faults.extend([(200, said), (200, said)])
    done = experiment.run(served(server, task, kinds=("de",)))
    assert done.header.generator["reported"] == [["***", "fp ***"]]
    assert {row.question for row in read_rewrites(done.path).rows} == {"Was ist auf dem Bild * \ufffd?"}
    for path in (done.path, done.rejected):
        assert key not in path.read_text(encoding="utf-8")


def test_only_files_of_its_own_are_deleted_or_overwritten(scripted: Scripted, task: Path) -> None:
    out = task.parent / "own.jsonl"
    options = RewriteOptions("a/b", str(task), ("de",), out=out, show_progress=False)
    theirs = out.with_suffix(".work") / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    rejected_path(out).write_text("mine")
    with pytest.raises(UsageError, match=r"own\.rejected\.jsonl is no file of rejected rewrites"):
        experiment.run(options)
    rejected_path(out).unlink()
    experiment.run(options)
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]
    out.unlink()  # the rejected ones alone are written anew
    assert not experiment.run(options).was_there
    blocked = task.parent / "blocked.jsonl"
    blocked.with_suffix(".work").write_text("a file")
    with pytest.raises(UsageError, match=r"answers cannot be kept there .*choose another --out"):
        experiment.run(dataclasses.replace(options, out=blocked))


def test_a_model_that_is_not_there_is_one_line(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from vlmbench.cli.quiet import quiet_libraries

    quiet_libraries()
    hub = logging.getLogger("huggingface_hub.utils._http")
    assert not hub.isEnabledFor(logging.WARNING)  # each try of the download is a warning


# --- perturb --rewrite FILE


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\r", ""], ids=repr)
def test_a_file_is_cut_at_line_feeds_alone(sign: str, task: Path) -> None:
    file = write_file(task.parent / "f.jsonl", task, {("0-0", "de"): f"Was ist{sign} das?"})
    content = file.read_bytes()
    for written in (content, b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n")):
        file.write_bytes(written)
        assert [row.question for row in read_rewrites(file).rows] == [f"Was ist{sign} das?"]


def test_a_file_of_which_nothing_can_be_asked_is_refused(demo_file: Path, tmp_path: Path) -> None:
    items = load_task("demo").items(limit=7)
    russian = write_file(
        tmp_path / "ru.jsonl", "demo", {(item.id, "ru"): "что на картинке ?" for item in items}, items=7
    )
    with pytest.raises(UsageError, match=r"ru\.jsonl: none of its rewrites can be asked: .* try --perturb"):
        perturb("demo", tmp_path / "run", str(russian))
    with pytest.raises(UsageError, match=r"reads them as the question itself$"):
        perturb("demo", tmp_path / "run", f"rules,{russian}", "rewrite(force=false)")
    assert not (tmp_path / "run").exists()


def write_file(
    path: Path, task: Any, rows: dict[tuple[str, str], str], name: str | None = None, **header: Any
) -> Path:
    """A file made by hand: (item, kind) -> question; several of a kind as `de 2`."""
    loaded = load_task(str(task))
    asked = {item.id: item.question for item in loaded.items(limit=header.pop("items", None))}
    source = {"name": name or loaded.name, "version": loaded.version, "data": loaded.data_hash}
    top = Header(task=Source(**{**source, **header}), kinds=sorted({kind.split()[0] for _, kind in rows}))
    lines = []
    for (item, kind), question in rows.items():
        kind, _, index = kind.partition(" ")
        lines.append(
            Rewritten(
                item=item,
                kind=kind,  # type: ignore[arg-type]
                language="en" if kind == "paraphrase" else kind,
                index=int(index or 1),
                question=question,
                source=digest(asked.get(item, "?")),
            )
        )
    path.write_text(dump(top, lines), encoding="utf-8")
    return path


def perturb(task: Any, out: Path, rewrite: str, families: str | None = None, **more: Any) -> Any:
    from vlmbench.experiments.options import RunOptions
    from vlmbench.experiments.perturb import run

    options = RunOptions(
        tasks=str(task), out=out, batch_size=4, show_progress=False, **{"model": "demo", "limit": 7, **more}
    )
    suite = None if families else "none"
    return run(options, PerturbOptions(suite=suite, families=families, rewrite=rewrite, repeats=0))


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's own German and a paraphrase, as if a generator had written them; French for one
    item, Russian for all."""
    items = load_task("demo").items(limit=7)
    rows = {(item.id, "de"): item.phrasings["de-1"] for item in items}
    rows |= {(item.id, "paraphrase"): item.phrasings["trained-1"] for item in items}
    rows |= {(items[0].id, "fr"): items[0].phrasings["fr-1"]}
    rows |= {(item.id, "ru"): "что на картинке ?" for item in items}
    return write_file(tmp_path_factory.mktemp("rewrites") / "demo.jsonl", "demo", rows, items=7)


def test_a_file_is_asked_end_to_end_on_the_demo(demo_file: Path, tmp_path: Path) -> None:
    result = perturb("demo", tmp_path / "run", str(demo_file), "rewrite(force=false),phrasing")
    table: Table = result.table
    assert table.status == "complete"
    cells = {cell.condition: cell for cell in table.cells}
    names = [f"rewrite(force=false{x})" for x in (",kind=de", ",kind=fr", "", ",kind=ru")]
    assert set(names) < set(cells)
    assert {cells[name].axis for name in names} == {"question"}
    assert [cells[name].strength for name in names] == ["de", "fr", "paraphrase", "ru"]
    groups = [s.group for s in table.summaries if s.group.get("family") == "rewrite"]
    languages = {group["strength"] for group in groups if "strength" in group}
    assert languages >= {"de", "paraphrase"}
    records = read_records(result.folder)
    for item in load_task("demo").items(limit=7):
        for ours, own in (("rewrite(force=false,kind=de)", "phrasing(name=de-1)"),
                          ("rewrite(force=false)", "phrasing(name=trained-1)")):  # fmt: skip
            one, two = (records["demo", item.id, condition] for condition in (ours, own))
            assert (one.raw, one.state, one.score, one.prompt_hash) == (
                two.raw, two.state, two.score, two.prompt_hash
            )  # fmt: skip
    french = [r for (_, _, c), r in records.items() if c == "rewrite(force=false,kind=fr)"]
    assert sum(r.state is State.NOT_APPLICABLE for r in french) == 6
    assert {r.detail for r in french if r.state is State.NOT_APPLICABLE} == {
        "no French rewrite of the question in the file"
    }
    told = [note for note in table.notes if "cannot be asked in" in note]
    assert len(told) == 1
    assert told[0].startswith("demo: the model cannot be asked in Russian")


def test_the_answers_language_is_forced_after_the_instruction(demo_file: Path, tmp_path: Path) -> None:
    rewrite = QUESTIONS.get("rewrite")
    item = Item(
        id="i", question="Is it red?", images=(), answers=("yes",), cluster="c", options=("red", "blue"),
        rewrites={"de-1": "Ist es red?", "paraphrase-1": "Is red its colour?"}, instruction="Use one word.",
    )  # fmt: skip
    german = rewrite.build(rewrite.part(kind="de"))(item)
    assert german.text() == "Ist es red?\nA. red\nB. blue\nUse one word. Answer in English."
    assert german.language == "de"
    first = rewrite.build(rewrite.part(kind="de"))(item.changed(instruction_first=True, language="fr"))
    assert first.text().startswith("Use one word. Réponds en français.\nIst es red?")
    bare = rewrite.build(rewrite.part(kind="de", force=False))(item)
    assert bare.instruction == "Use one word."
    paraphrase = rewrite.build(rewrite.part())(item)
    assert (paraphrase.text(), paraphrase.language) == (
        "Is red its colour?\nA. red\nB. blue\nUse one word.",
        "en",
    )
    assert (paraphrase.options, paraphrase.answers) == (item.options, item.answers)
    with pytest.raises(NotApplicableError, match="no French rewrite 2 of the question"):
        rewrite.build(rewrite.part(kind="fr", index=2))(item)


def test_conditions_of_a_file(demo_file: Path) -> None:
    file = read_rewrites(demo_file)

    def ids(**options: Any) -> list[str]:
        asked = PerturbOptions(suite="none", repeats=0, **options)
        return [v.condition.id for v in variations(asked, rewrites=file)][1:]

    every = ["rewrite(kind=de)", "rewrite(kind=fr)", "rewrite", "rewrite(kind=ru)"]
    assert ids(rewrite=str(demo_file)) == every
    assert ids(rewrite=f"rules,{demo_file}")[-4:] == every
    assert "case" in ids(rewrite=f"rules,{demo_file}")
    assert ids(rewrite=str(demo_file), families="rewrite(kind=de)") == every[:1]
    (variation,) = variations(
        PerturbOptions(repeats=0, rewrite=str(demo_file), families="rewrite(kind=de)"), rewrites=file
    )[1:]
    assert variation.condition.question is not None
    assert variation.condition.describe()["question"]["params"]["file"] == file.sha256
    with pytest.raises(UsageError, match="holds no rewrite\\(kind=hi\\); its kinds: de, fr, paraphrase, ru"):
        ids(rewrite=str(demo_file), families="rewrite(kind=hi)")
    with pytest.raises(UsageError, match="needs a file of rewrites: add --rewrite FILE"):
        ids(families="rewrite(kind=de)")


def test_another_file_is_another_run(demo_file: Path, tmp_path: Path) -> None:
    perturb("demo", tmp_path / "run", str(demo_file))
    other = tmp_path / "other.jsonl"
    other.write_text(demo_file.read_text() + "\n")
    with pytest.raises(UsageError, match=r"holds a different run \(differs in: tasks.demo.conditions_hash"):
        perturb("demo", tmp_path / "run", str(other))


def bad_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Name -> (what is passed, what is said)."""
    task = write_task(folder)
    german = {("0-0", "de"): "Was ist auf dem Bild?"}
    good = write_file(folder / "good.jsonl", task, german)
    header, row = good.read_text().splitlines()
    changed = json.loads(row)
    texts_ = {
        "no-header.jsonl": row,
        "empty.jsonl": "",
        "words.jsonl": "hello\n",
        "newer.jsonl": json.dumps({**json.loads(header), "schema_version": 9}),
        "strange.jsonl": json.dumps({**json.loads(header), "schema_version": "x"}),
        "twice.jsonl": f"{header}\n{row}\n{row}\n",
        "kind.jsonl": f"{header}\n{json.dumps({**changed, 'kind': 'xx'})}\n",
        "cut.jsonl": f"{header}\n{row[:20]}",
        "asked.jsonl": f"{header}\n{json.dumps({**changed, 'source': 'abc'})}\n",
    }
    for name, text in texts_.items():
        (folder / name).write_text(text)
    write_file(folder / "stranger.jsonl", task, german, name="other")
    many = {(f"x{i}", "de"): "Was ist das?" for i in range(5)}
    write_file(folder / "missing.jsonl", task, {**german, **many})
    write_file(folder / "old.jsonl", task, german, data="0" * 32)
    write_file(folder / "unlucky.jsonl", task, {("2-1", "de"): "Was ist das?"})
    return {
        "no-header.jsonl": ("no-header.jsonl", "no-header.jsonl:1: is no file of rewrites"),
        "empty.jsonl": ("empty.jsonl", "empty.jsonl:1: is no file of rewrites"),
        "words.jsonl": ("words.jsonl", "words.jsonl:1: is no JSON object"),
        "newer.jsonl": ("newer.jsonl", "schema_version 9 is newer than 1"),
        "strange.jsonl": ("strange.jsonl", "schema_version: must be a whole number above 0: got 'x'"),
        "twice.jsonl": ("twice.jsonl", "twice.jsonl:3: item '0-0' has a second de 1"),
        "kind.jsonl": ("kind.jsonl", "kind.jsonl:2: kind: Input should be 'paraphrase'"),
        "cut.jsonl": ("cut.jsonl", "cut.jsonl:2: is no JSON object"),
        "asked.jsonl": ("asked.jsonl", "1 items have another question now, first '0-0'; make it again"),
        "gone.jsonl": ("gone.jsonl", "gone.jsonl: no such file; `vlmbench rewrite` makes one"),
        "stranger.jsonl": ("stranger.jsonl", "holds rewrites of task 'other', and the run is of 'own'"),
        "missing.jsonl": ("missing.jsonl", "5 of its 6 items are not in the task, first 'x0', 'x1', 'x2'"),
        "old.jsonl": ("old.jsonl", "made from version 1, data 000000000000; now version 1"),
        "two": ("good.jsonl,old.jsonl", "good.jsonl and old.jsonl are both for task 'own'; give one"),
        "misspelt": ("ruls", "unknown rewrite 'ruls': did you mean 'rules'?; or a file (.jsonl) of rewrites"),
    }


def test_files_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, said in bad_files(tmp_path).values():
        code = command(["perturb", "--task", "own.yaml", "--rewrite", given, "--out", "run"])
        told = capsys.readouterr().err
        assert (code, told.count("\n")) == (2, 1), told
        assert said in told
    code = command(["perturb", "--task", "own.yaml", "--rewrite", "unlucky.jsonl", "--limit", "1"])
    assert code == 2
    assert "has a rewrite for none of the 1 items" in capsys.readouterr().err


REFUSED = [
    ([], "missing option '--with'"),
    (["--with", "a/b", "--kinds", "xx"], "unknown kind 'xx'; known"),
    (["--with", "a/b", "--kinds", "paraphras"], "did you mean 'paraphrase'?"),
    (["--with", "a/b", "--kinds", "en"], "--kinds en: that is the language of the task's questions"),
    (["--with", "nomodel"], "unknown model 'nomodel'"),
    (["--with", "openai:"], "names no model"),
    (["--with", "a/b", "--out", "x.json"], "--out x.json: the file's name must end in .jsonl"),
    (["--with", "a/b", "--per-item", "0"], "--per-item must be in [1, 99]: got 0"),
    (["--with", "a/b", "--min-similarity", "2"], "--min-similarity must be in [0, 1]: got 2"),
    (["--with", "a/b", "--base-url", "http://x/v1"], "--base-url goes with --with openai:NAME"),
    (["--with", "a/b", "--max-calls", "3"], "--max-calls goes with --with openai:NAME"),
    (["--with", "a/b", "--concurrency", "3"], "--concurrency goes with --with openai:NAME"),
    (["--with", "a/b", "--api-key-env", "X"], "--api-key-env goes with --with openai:NAME"),
    (["--with", "a/b", "--min-similarity", "0.9"], "--min-similarity is what --verify-with must find"),
    (["--with", "a/b", "--out", "folder.jsonl"], "--out folder.jsonl is a folder; name a file"),
    (["--with", "a/b", "--task", "nope"], "unknown task 'nope'"),
    (["--with", "openai:m", "--base-url", "http://far.example/v1"], "no key for far.example"),
    (
        ["--with", "openai:m", "--base-url", "http://127.0.0.1:9/v1", "--retries", "0"],
        "http://127.0.0.1:9/v1",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_the_command_refuses_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    task = [] if "--task" in arguments else ["--task", str(write_task(tmp_path))]
    assert command(["rewrite", *arguments, *task]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


def test_questions_in_an_unknown_language_are_refused(tmp_path: Path) -> None:
    rows = [{"image": "0.png", "question": "Onde?", "answer": "x"}]
    write_task(tmp_path)
    task = write_rows(tmp_path, rows, answer_language="pt")
    with pytest.raises(UsageError, match="its questions are in 'pt', and rewrites can be verified"):
        experiment.run(RewriteOptions("a/b", str(task), ("de",)))
