"""Self-distillation: splits, teacher rows, loss and threshold against their definitions; whole runs twice,
interrupted, and on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from runs import picture, write_rows
from test_roi_reading import BATCH, eager, encoded, opened, prepared, subjects, visual
from torch import Tensor

from vlmbench.cli.app import run as command
from vlmbench.errors import ItemError, UsageError
from vlmbench.experiments import distill_session
from vlmbench.experiments.distill import DistillOptions, run
from vlmbench.experiments.distill_progress import Stages
from vlmbench.experiments.options import RunOptions
from vlmbench.items import Item
from vlmbench.models.adapter import Adapter
from vlmbench.models.responses import PREDICTING, responses
from vlmbench.roi import get, labels
from vlmbench.roi.distilling import training
from vlmbench.roi.distilling.calibration import TAUS, mask_iou, measure
from vlmbench.roi.distilling.questions import reworded, triples
from vlmbench.roi.distilling.recipe import WHERE, recipe
from vlmbench.roi.distilling.run_folder import RunFolder
from vlmbench.roi.distilling.showing import Shower
from vlmbench.roi.distilling.splits import Splits, split_items
from vlmbench.roi.distilling.states import Lesson, Lessons
from vlmbench.roi.distilling.teacher import calibration_layers
from vlmbench.roi.distilling.training import Now, Schedule, accelerator_of, train
from vlmbench.roi.labels import LabelRule
from vlmbench.roi.reading import read
from vlmbench.roi.rpn import Rpn, rpn_shape
from vlmbench.roi.rpn_file import WEIGHTS, RpnConfig, load_rpn
from vlmbench.roi.settled import settled
from vlmbench.roi.spatial import blur
from vlmbench.tasks.load import load_task

Tiny = Callable[[str], Path]
QUESTIONS = ("what is in the picture ?", "is there a red cat on the mat ?", "how many dogs are there ?")
FAMILIES = ("llava", "qwen2_5_vl")


@dataclass(frozen=True)
class Noise:
    """A picture of its own for each number."""

    number: int

    @property
    def key(self) -> str:
        return f"noise-{self.number}"

    def load(self) -> Any:
        return picture(self.number, (96, 96))


def item(name: str, image: int, question: str = "what ?", cluster: str = "", **more: Any) -> Item:
    return Item(name, question, (Noise(image),), (), cluster or f"picture {image}", **more)


# ---- questions and splits --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40), st.integers(0, 9))
def test_splits_share_neither_picture_nor_cluster(places: list[tuple[int, int]], seed: int) -> None:
    items = [item(str(i), image, cluster=f"c{c}") for i, (image, c) in enumerate(places)]
    if _joined(places) < 3:
        with pytest.raises(UsageError, match="a network needs at least 3"):
            split_items(items, seed)
        return
    splits = split_items(items, seed)
    parts = splits.heads, splits.train, splits.held_out
    assert all(parts)
    assert Counter(i.id for part in parts for i in part) == Counter(i.id for i in items)
    for names in ([{i.cluster for i in p} for p in parts], [{i.images[0].key for i in p} for p in parts]):
        assert len(set.union(*names)) == sum(map(len, names))
    assert splits == split_items(items, seed)
    swapped = Splits(splits.train, splits.heads, splits.held_out)
    assert len({splits.data_hash("a"), splits.data_hash("b"), swapped.data_hash("a")}) == 3


def _joined(places: list[tuple[int, int]]) -> int:
    """Groups of places that share a number, found by merging until nothing changes."""
    groups = [({image}, {cluster}) for image, cluster in places]
    while True:
        pair = next(
            ((a, b) for a in groups for b in groups if a is not b and (a[0] & b[0] or a[1] & b[1])),
            None,
        )
        if pair is None:
            return len(groups)
        groups = [g for g in groups if g not in pair] + [(pair[0][0] | pair[1][0], pair[0][1] | pair[1][1])]


def test_the_demos_training_pictures_are_in_no_test() -> None:
    trained, tested = load_task("demo-train"), load_task("demo")
    splits = split_items(trained.items(limit=140, seed=0), 0)
    assert (len(splits.heads), len(splits.held_out)) == (21, 21)  # whole scenes of seven
    keys = [{rows.images(i, [])[0].key for i in range(0, 21000, 7)} for rows in (trained.rows, tested.rows)]
    assert len(keys[0]) == len(keys[1]) == 3000
    assert keys[0].isdisjoint(keys[1])


def test_the_other_question() -> None:
    """Of the same kind on the picture, else another on the picture, else of another picture."""
    same = item("a2", 0, "where is b ?", category="place")
    items = [
        item("a1", 0, "where is a ?", category="place"),
        same,
        item("a3", 0, "what colour ?", category="colour"),
        item("b1", 1, "what colour is it ?", category="colour"),
        item("b2", 1, "what colour is it ?", category="place"),  # the same words: not another question
    ]
    found = {triple.asked.id: triple for triple in triples(items, 0)}
    assert found["a1"].other.question == same.question
    assert found["a3"].other.question in {"where is a ?", "where is b ?"}
    assert found["b1"].other.question == "what colour ?"
    assert all(t.other.images == t.asked.images and not t.other.boxes for t in found.values())
    assert all(t.reworded.text() != t.asked.text() for t in found.values())
    assert list(triples([items[0]], 0)) == []


def test_rewordings() -> None:
    own = item("a", 0, phrasings={"de-1": "was ?", "x": "what is it ?"})
    assert reworded(own).question == "what is it ?"  # in its own language
    assert reworded(item("a", 0)).text() == "Question: what ?"
    assert reworded(item("a", 0, "Question: what ?")).question == "please Question: what ?"


# ---- the teacher -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*FAMILIES, "gemma3"])
def test_rows_that_predict_the_answer(family: str, tiny_model: Tiny) -> None:
    """Rows that end at different steps, in one batch, against each request alone and eager attention: the
    prompt's last row and those of all answer tokens but the last, whether the answer ended or was cut."""
    adapter, plain = opened(tiny_model(family)), opened(tiny_model(family), "eager")
    rows = prepared(adapter)
    tokens = [eager(plain, row)[0] for row in rows]
    for ends in ([], [tokens[0][2]], [tokens[0][0]], [tokens[1][4]]):
        for each in (adapter, plain):
            each.model.generation_config.eos_token_id = ends or None
        output = encoded(adapter, rows)
        found = responses(adapter, rows, output, output.features, 5, range(adapter.layers), PREDICTING)
        for row, got in zip(rows, found, strict=True):
            made, passes = eager(plain, row)
            count = next((i for i, token in enumerate(made) if token in ends), len(made))
            assert got.tokens == count
            length, columns = passes[0][0].shape[-1], visual(adapter, row)
            for layer, weights in got.attention.items():
                full = [
                    torch.nn.functional.pad(step[layer], (length + i - step[layer].shape[-1], 0))[:, columns]
                    for i, step in enumerate(passes[:count])
                ]
                oracle = torch.stack(full).mean(0) if full else torch.zeros_like(weights)
                assert (weights - oracle).abs().max() <= BATCH
        assert not adapter.model._forward_hooks
        assert not adapter.model._forward_pre_hooks


def test_raw_attention_reads_the_rows_that_it_is_told(tiny_model: Tiny) -> None:
    adapter = opened(tiny_model("llava"))
    rows = prepared(adapter)
    output = encoded(adapter, rows)
    method = get("raw-attn")(rows="predicting", heads="2:1")
    asked = subjects(adapter, output, rows)
    found = read(adapter, asked, output, method.needs, method.layers(adapter.layers), 5)
    said = responses(adapter, rows, output, output.features, 5, (2,), PREDICTING)
    for subject, reading, response in zip(asked, found, said, strict=True):
        map = method.map(reading.signals)
        assert map is not None
        whole = response.attention[2][1, subject.view.index].view(map.shape)
        assert torch.equal(map, torch.where(reading.signals.shown.view(map.shape), whole, 0.0))
        assert reading.answer is not None
        assert reading.answer.text == response.generation.text
        assert reading.signals.response_attention is None
    assert get("raw-attn")().needs == {"response_attention"}


def test_what_the_paper_chose_by_hand_can_be_chosen() -> None:
    for depth, start, heads in ((32, 15, (14,)), (40, 15, (13, 16)), (36, 21, (20, 22)), (28, 16, (16, 23))):
        layers = calibration_layers(depth, start, 3)
        assert set(heads) <= set(layers)
        assert max(layers) >= start + 2
    assert calibration_layers(2, 1, 1) == (0, 1)


def test_recipes() -> None:
    assert [recipe("default", d, False).rate for d in (96, 2048, 4096)] == [2.1e-3, 1e-4, 5e-5]
    llava, qwen = recipe("paper", 4096, False), recipe("paper", 2048, True)
    assert (llava.rows, llava.epochs, llava.batch, llava.rate, llava.sink_layer) == (
        "generated",
        1,
        512,
        5e-5,
        2,
    )
    assert (qwen.rule, qwen.batch, qwen.rate, qwen.sink_layer) == ("qwen", 128, 1e-4, None)
    asked = item("a", 0, instruction="Answer with one word.")
    assert qwen.taught(asked).instruction == WHERE
    assert qwen.taught(item("a", 0)) == item("a", 0)
    assert llava.taught(asked) == asked
    assert recipe("paper", 2048, True, rows="predicting", rate=0.1).rate == 0.1


# ---- training --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_every_question_is_seen_once_per_epoch(n: int, batch: int, parts: int, epochs: int) -> None:
    schedule = Schedule(epochs, max(batch, parts), parts, 1e-3, 10, 0)
    steps = schedule.steps(n)
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert Counter(i for step in own for part in step for i in part) == Counter(range(n))
    for step in steps:
        assert sum(map(len, step)) >= min(n, batch)
        assert len(step) == min(parts, sum(map(len, step)))
    assert len({part for step in steps for part in step}) == sum(map(len, steps[:per_epoch]))
    rates = [schedule.rate_at(i, 100) for i in range(100)]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_iou_by_brute_force(height: int, width: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    map = torch.randint(0, 5, (height, width), generator=g) / 4
    foreground, shown = (torch.rand(height, width, generator=g) < p for p in (0.4, 0.8))
    smooth, got = blur(map), mask_iou(map, foreground, shown)
    for tau, value in zip(TAUS, got.tolist(), strict=True):
        both = either = 0
        for y in range(height):
            for x in range(width):
                on = bool(smooth[y, x] > torch.tensor(tau)) and bool(shown[y, x])
                both += on and bool(foreground[y, x])
                either += on or bool(foreground[y, x])
        assert value == pytest.approx(both / max(either, 1))


def memorisable(adapter: Adapter, count: int = 6, keep: int = 1 << 30) -> Lessons:
    """Questions on noise whose labels are a corner of the grid, another one for each."""
    shower = Shower(adapter, 3)
    items = [item(str(i), i % 3, QUESTIONS[i % 3]) for i in range(count)]
    lessons = []
    for i, shown in enumerate(shower.show(items).shown):
        corner = torch.zeros(shown.view.grid, dtype=torch.int8)
        corner[: 1 + i % 2, :1] = 1
        corner[-1, -1] = -1
        lessons.append(Lesson(shown.item, corner))
    return Lessons(shower, rpn_shape(adapter.model), lessons, keep)


def gradients(rpn: Rpn, lessons: Lessons, cut: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    rpn.zero_grad()
    optimiser = torch.optim.SGD(rpn.parameters(), lr=0.0)
    training._step(rpn, optimiser, lessons, cut, accelerator_of(True, "no"))
    return [p.grad.clone() for p in rpn.parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_labelled_tokens(
    family: str, tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a step is cut into; by the formula, from the network's own logits."""
    monkeypatch.setattr(training, "CLIP", 1e9)
    adapter = opened(tiny_model(family))
    lessons = memorisable(adapter)
    rpn = Rpn(adapter.model, lessons.shape)
    whole = gradients(rpn, lessons, (tuple(range(6)),))
    for cut in (((0, 1, 2), (3, 4, 5)), ((5,), (0, 3, 1), (4, 2))):
        for a, b in zip(whole, gradients(rpn, lessons, cut), strict=True):
            assert (a - b).abs().max() <= 1e-4 * float(a.abs().max()) + 1e-7
    rpn.zero_grad()
    values = []
    for i in range(6):
        ((logits),) = lessons.logits(rpn, (i,))
        for label, logit in zip(lessons.lessons[i].labels.flatten().tolist(), logits.flatten(), strict=True):
            if label >= 0:
                p = torch.sigmoid(logit.double())
                values.append(-(p.log() if label else (1 - p).log()))
    torch.stack(values).mean().backward()
    for a, p in zip(whole, rpn.parameters(), strict=True):
        assert (a - p.grad).abs().max() <= 1e-4 * float(a.abs().max()) + 1e-7


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_memorisable_set_is_learnt(family: str, precision: str, tiny_model: Tiny, tmp_path: Path) -> None:
    adapter = opened(tiny_model(family))
    lessons = memorisable(adapter)
    before = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    rpn = Rpn(adapter.model, lessons.shape)
    parts = [tuple(range(6))]
    untrained = measure(rpn, lessons, parts, lambda total: total).iou
    told: list[Now] = []
    curve = train(
        rpn,
        lessons,
        Schedule(20, 6, 2, 3e-3, 5, 0),
        accelerator_of(True, precision),
        lambda: measure(rpn, lessons, parts, lambda total: total).iou,
        tmp_path / "state.safetensors",
        told.append,
    )
    assert [point.step for point in curve] == [5, 10, 15, 20]
    assert len(told) == 20
    assert curve[-1].loss < 0.3 * told[0].loss
    assert curve[-1].quality is not None
    assert curve[-1].quality > untrained + 0.1
    with torch.no_grad():
        made = lessons.logits(rpn, parts[0])
    pairs = [*zip(lessons.lessons, made, strict=True)]
    right = [((logits > 0) == (lesson.labels == 1))[lesson.labels >= 0] for lesson, logits in pairs]
    assert float(torch.cat(right).float().mean()) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in adapter.model.state_dict().items())
    assert all(p.grad is None for p in adapter.model.parameters())


def test_a_loss_that_is_not_finite(tiny_model: Tiny, tmp_path: Path) -> None:
    adapter = opened(tiny_model("llava"))
    lessons = memorisable(adapter)
    rpn = Rpn(adapter.model, lessons.shape)
    with torch.no_grad():
        rpn.head.q_proj.weight.fill_(float("nan"))
    with pytest.raises(UsageError, match=r"not finite at step 1 of 1: give a smaller --lr than 0\.001"):
        train(
            rpn,
            lessons,
            Schedule(1, 6, 1, 1e-3, 5, 0),
            accelerator_of(True, "no"),
            float,
            tmp_path / "s",
            lambda now: None,
        )


def test_states_are_kept_up_to_a_limit(tiny_model: Tiny) -> None:
    """And are the same computed again."""
    adapter = opened(tiny_model("qwen2_5_vl"))
    kept, fresh = memorisable(adapter), memorisable(adapter, keep=0)
    assert kept.seen((0, 1)) is kept.seen((0, 1))
    assert fresh.seen((0, 1)) is not fresh.seen((0, 1))
    assert torch.equal(kept.seen((0, 1)).states.hidden, fresh.seen((0, 1)).states.hidden)
    gone = replace(fresh.lessons[0], item=fresh.lessons[0].item.changed(question=" "))
    with pytest.raises(ItemError, match="item '0' cannot be shown again: empty question"):
        replace(fresh, lessons=[gone]).seen((0,))


# ---- whole runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    (folder / "images").mkdir()
    rows = []
    for i in range(16):
        picture(i, (96 + 16 * (i % 2), 96)).save(folder / "images" / f"{i}.png")
        rows += [
            {"id": f"{i}-{j}", "image": f"{i}.png", "question": QUESTIONS[j], "answer": "yes"}
            for j in range(2)
        ]
    return write_rows(folder, rows)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention of random weights lies everywhere; one wide box is a label too."""
    monkeypatch.setitem(labels.LABEL_RULES, "default", LabelRule(floor=0.0, wide=1.1))


def options(model: Path | str, task: Path | str, out: Path) -> RunOptions:
    return RunOptions(str(model), str(task), out=out, device="cpu", show_progress=False)


SMALL = DistillOptions(samples=32, epochs=2, batch=8, accumulate=2, every=2)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_runs_give_equal_files(
    family: str,
    tiny_model: Tiny,
    own_task: Path,
    tmp_path: Path,
    lenient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that was killed while it chose heads, labelled, and trained, between checkpoints."""
    model = tiny_model(family)
    first = run(options(model, own_task, tmp_path / "a"), SMALL)
    assert sorted(path.name for path in first.folder.iterdir()) == ["config.json", WEIGHTS]
    second = run(options(model, own_task, tmp_path / "b"), SMALL)

    def dying(place: Any, name: str, after: int) -> None:
        kept, count = getattr(place, name), iter(range(1000))

        def call(*args: Any, **named: Any) -> Any:
            if next(count) == after:
                raise KilledError
            return kept(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, call)
            with pytest.raises(KilledError):
                run(options(model, own_task, tmp_path / "c"), SMALL)

    from vlmbench.roi.distilling import collecting

    dying(collecting, "choose_heads", 0)
    dying(collecting, "label", 3)
    dying(training, "_step", 3)
    asked = iter(range(1000))
    with monkeypatch.context() as patch:  # labels are there; training goes on behind its second step
        patch.setattr(collecting, "label", None)
        own = training._step
        patch.setattr(training, "_step", lambda *args: (next(asked), own(*args))[1])
        third = run(options(model, own_task, tmp_path / "c"), SMALL)
    assert next(asked) == third.config.curve[-1].step - 2
    for name in (WEIGHTS, "config.json"):
        contents = {(each.folder / name).read_bytes() for each in (first, second, third)}
        assert len(contents) == 1, name
    again = run(options(model, own_task, tmp_path / "a"), SMALL)
    assert again.was_there
    assert again.config == first.config

    adapter = opened(model)
    loaded, config = load_rpn(first.folder, adapter)
    assert config.shape == rpn_shape(adapter.model)
    assert config.rows == "predicting"
    assert config.training["questions"] == {"heads": 4, "train": 24, "held_out": 4}
    assert settled_rows(config) == "predicting"
    lessons = memorisable(adapter)
    with torch.no_grad():
        (a,) = lessons.logits(loaded, (0,))
        (b,) = lessons.logits(Rpn(adapter.model, config.shape), (0,))
    assert not torch.equal(a, b)

    with pytest.raises(UsageError, match="holds the network of another run"):
        run(options(model, own_task, tmp_path / "a"), replace(SMALL, epochs=3))


def settled_rows(config: Any) -> str:
    return str(settled(get("raw-attn")(), config).rows)


def test_the_demo_learns_to_point(tmp_path: Path) -> None:
    """On held-out pictures the network is nearer to the labels than the copies it began as."""
    plan = DistillOptions(samples=140, epochs=3, batch=16, every=4)
    made = run(options("demo", "demo-train", tmp_path / "out"), plan)
    session = untrained(plan, tmp_path / "other")
    teacher, _ = session.collector.teacher()
    assert teacher.grounding_heads == made.config.grounding_heads
    held = session.collector.read("held_out", session.splits.held_out)
    lessons = session._lessons(session.splits.held_out, held, 0)
    parts = [tuple(range(len(lessons.lessons)))]
    before = measure(session.rpn, lessons, parts, lambda total: total)
    trained, _ = load_rpn(made.folder, session.adapter)
    after = measure(trained, lessons, parts, lambda total: total)
    assert made.config.threshold == after.tau
    assert made.config.training["held_out"]["iou"] == pytest.approx(after.iou, abs=1e-6)
    assert after.iou > before.iou + 0.05
    losses = [point.loss for point in made.config.curve]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)


def untrained(plan: DistillOptions, folder: Path) -> distill_session.Session:
    """A session of the demo that has its labels."""
    from vlmbench.engine.ranks import Ranks
    from vlmbench.models.loading import load_model

    task = load_task("demo-train")
    splits = split_items(task.items(limit=plan.samples, seed=0), 0)
    adapter = Adapter(load_model("demo", device="cpu"))
    session = distill_session.prepared(
        options("demo", "demo-train", folder), plan, [task], splits, Ranks(), adapter
    )
    session.collector.work.open()
    stages = Stages(False)
    teacher, _ = session._teacher(stages)
    session._labelled("held_out", splits.held_out, teacher, True, stages)
    return session


def test_two_processes_are_one_but_for_rounding(tmp_path: Path) -> None:
    """Gradients are those of the whole step: two processes differ from one by rounding alone."""
    plan = ["--samples", "70", "--epochs", "1", "--batch-size", "12", "--accumulate", "2", "--device", "cpu"]
    assert command(["distill", *plan, "--out", str(tmp_path / "one"), "--json"]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "vlmbench", "distill", *plan, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("network: ") == 1
    configs = [json.loads((tmp_path / each / "config.json").read_text()) for each in ("one", "two")]
    for config in configs:
        config["curve"] = [point["step"] for point in config["curve"]]
        config["training"]["held_out"].pop("network")
        assert config["training"]["held_out"].pop("iou") == pytest.approx(0.2, abs=0.2)
        config.pop("threshold")
    assert configs[0] == configs[1]
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / each / WEIGHTS) for each in ("one", "two"))
    for name, value in one.items():
        assert (value - two[name]).abs().max() <= 1e-4, name


# ---- what can be wrong -----------------------------------------------------------------------------------


def test_too_few_labels(tiny_model: Tiny, own_task: Path, tmp_path: Path) -> None:
    reason = r"too few usable labels to train on: \d+ of 24 questions, at least 16 are needed; dropped: \d+ "
    with pytest.raises(UsageError, match=reason):
        run(options(tiny_model("llava"), own_task, tmp_path / "out"), SMALL)
    with pytest.raises(UsageError, match="holds the checkpoint of another run"):
        run(options(tiny_model("llava"), own_task, tmp_path / "out"), replace(SMALL, epochs=1))


def test_a_task_without_images(tiny_model: Tiny, tmp_path: Path) -> None:
    rows = [{"id": "a", "image": None, "question": "why ?", "answer": "so"}]
    task = write_rows(tmp_path, rows, source={"jsonl": "data.jsonl"})
    with pytest.raises(UsageError, match="task own has no images"):
        run(options(tiny_model("llava"), task, tmp_path / "out"), SMALL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--model openai:gpt", "openai:gpt is a served model"),
        ("--task ,", "--task names nothing: got ','"),
        ("--preset papre", "unknown preset 'papre': did you mean 'paper'?"),
        ("--teacher-rows generate", "unknown teacher rows 'generate': did you mean 'generated'?"),
        ("--mixed-precision bf15", "unknown mixed precision 'bf15': did you mean 'bf16'?"),
        ("--lr 2", "--lr must be above 0 and below 1: got 2"),
        ("--heads 3-1", "--heads: cannot read heads '3-1': expected LAYER:HEAD/LAYER:HEAD.."),
        ("--heads 9:0", "--heads: layer 9 does not exist, the language model has 8: 0 to 7"),
        ("--heads 3:1/3:4", "--heads: head 4 does not exist, layer 3 has 4: 0 to 3"),
        ("--task demo,demo-train,demo-canvas,demo-canvas-train --samples 3", "3 is too few for 4 tasks"),
        ("--start 8", "the network must start at a layer from 1 to 7: got 8"),
        ("--start 6 --layers 3", "from layer 6 of 8 the network can have 1 to 2 layers: got 3"),
        ("--task demo-train --samples 7", "7 questions on 1 picture: a network needs at least 3"),
        ("--batch-size 1 --accumulate 2", "--batch-size 1 is too small for --accumulate 2 and 1 process"),
    ],
)
def test_bad_options(arguments: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = [] if "--samples" in arguments else ["--samples", "70"]
    code = command(["distill", *arguments.split(), *few, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def asked(folder: Path, questions: Sequence[str], pictures: Sequence[Any] = (), **spec: Any) -> Path:
    """A task of one question on each of 32 pictures."""
    (folder / "images").mkdir()
    for i in range(33):
        picture(i, (96, 96)).save(folder / "images" / f"{i}.png")
    rows = [
        {
            "id": str(i),
            "images": pictures[i] if pictures else [f"{i}.png"],
            "question": questions[i % len(questions)],
            "answer": "yes",
        }
        for i in range(32)
    ]
    return write_rows(folder, rows, **spec)


def test_one_question_on_every_picture(tiny_model: Tiny, tmp_path: Path, lenient: None) -> None:
    """Nothing to choose heads by: what the message says to do is possible."""
    model, task = tiny_model("llava"), asked(tmp_path, QUESTIONS[:1])
    with pytest.raises(UsageError, match=r"no question to choose attention heads on: .* name the heads with"):
        run(options(model, task, tmp_path / "out"), SMALL)
    made = run(options(model, task, tmp_path / "named"), replace(SMALL, heads="2:0/3:1"))
    assert made.config.grounding_heads == ((2, 0), (3, 1))
    assert made.config.sink_heads == ()
    about = made.config.training["heads"]
    assert isinstance(about, dict)
    assert (about["items"], about["scores"], about["entropy_heads"]) == (0, [], [])
    with pytest.raises(UsageError, match="100% of the visual tokens are taken for attention sinks"):
        run(options(model, task, tmp_path / "paper"), replace(SMALL, heads="2:0", preset="paper"))
    heads = json.loads((tmp_path / "paper" / "checkpoint" / "heads.json").read_text())
    assert heads["sinks"] == [[2, head] for head in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_on_several_pictures(family: str, tiny_model: Tiny, tmp_path: Path, lenient: None) -> None:
    """Of all of them labels are made; two that share a picture are on one side."""
    pictures = [[f"{i}.png", f"{i ^ 1}.png"][: 1 + i // 2 % 2] for i in range(32)]
    task = asked(tmp_path, QUESTIONS, pictures)
    found = run(options(tiny_model(family), task, tmp_path / "out"), SMALL).config.training
    sizes = found["questions"]
    assert isinstance(sizes, dict)
    assert sum(sizes.values()) == 32
    assert found["usable"] == {"train": sizes["train"], "held_out": sizes["held_out"], "dropped": {}}


def test_answers_of_one_token(
    tiny_model: Tiny, tmp_path: Path, lenient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token's own attention is known where it is read again, one step after it was written."""
    monkeypatch.setitem(labels.LABEL_RULES, "llava", LabelRule(floor=0.0, wide=1.1, sinks=1.0))
    task = asked(tmp_path, QUESTIONS, max_new_tokens=1)
    for rows, tokens in (("generated", 2), ("predicting", 1)):
        made = run(options(tiny_model("llava"), task, tmp_path / rows), replace(SMALL, rows=rows))
        assert made.config.training["new_tokens"] == tokens
        assert made.config.training["usable"] == {"train": 24, "held_out": 4, "dropped": {}}


def test_pictures_that_cannot_be_read_are_told(tiny_model: Tiny, tmp_path: Path, lenient: None) -> None:
    pictures = [["broken.png"] if i % 2 else [f"{i}.png"] for i in range(32)]
    task = asked(tmp_path, QUESTIONS, pictures)
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    said = r"too few usable labels to train on: .* dropped: \d+ cannot be asked \(.*broken\.png"
    with pytest.raises(UsageError, match=said):
        run(options(tiny_model("llava"), task, tmp_path / "out"), replace(SMALL, heads="2:0"))
    assert labels.count_reasons(["", "a: one", "a: two", "b"]) == {"a": 2, "b": 1}


def test_what_a_killed_run_may_leave(tiny_model: Tiny, own_task: Path, tmp_path: Path, lenient: None) -> None:
    """A folder without its mark, a network without its weights; what others have put there stays."""
    plan = options(tiny_model("llava"), own_task, tmp_path / "out")
    left = tmp_path / "out" / "checkpoint"
    left.mkdir(parents=True)
    (left / ".run.json.k1lled").write_text("{")
    first = run(plan, SMALL)
    assert not left.exists()
    weights = (first.folder / WEIGHTS).read_bytes()
    (first.folder / WEIGHTS).unlink()
    assert not run(plan, SMALL).was_there
    assert (first.folder / WEIGHTS).read_bytes() == weights
    (first.folder / "config.json").unlink()
    left.mkdir()
    (left / "notes").write_text("mine")
    with pytest.raises(UsageError, match="its folder 'checkpoint' is not of distill: move it"):
        run(plan, SMALL)
    assert [path.name for path in left.iterdir()] == ["notes"]


def test_all_processes_see_whether_heads_are_there(
    tiny_model: Tiny, own_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that looks before they are written takes part in the choice, and so must the others."""
    from vlmbench.engine.ranks import Ranks

    task = load_task(str(own_task))
    splits = split_items(task.items(), 0)
    plan = options(tiny_model("llava"), own_task, tmp_path / "out")
    session = distill_session.prepared(plan, SMALL, [task], splits, Ranks(), opened(tiny_model("llava")))
    session.collector.work.open()
    session._teacher(Stages(False))
    led: list[bool] = []
    monkeypatch.setattr(Ranks, "any", lambda self, holds: True)
    monkeypatch.setattr(Ranks, "lead", lambda self, work: led.append(True))
    session._teacher(Stages(False))
    assert led == [True]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="file is a file; choose another --out"):
        RunFolder(tmp_path / "file", "a").open()
    with pytest.raises(UsageError, match=r"cannot be created \(Not a directory\); choose another --out"):
        RunFolder(tmp_path / "file" / "in", "a").open()


def test_out_of_memory_says_what_to_do(
    tiny_model: Tiny, own_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vlmbench.roi.distilling.teacher.responses", full)
    with pytest.raises(UsageError, match="out of memory: cut each step into more parts by a larger --accum"):
        run(options(tiny_model("llava"), own_task, tmp_path / "out"), SMALL)


def test_large_pictures_are_not_hoarded(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    shower = Shower(opened(tiny_model("llava")), 3)
    monkeypatch.setattr("vlmbench.roi.distilling.showing._PIXELS", 4 * 96 * 96)
    assert len(shower.show([item(str(i), i) for i in range(9)]).shown) == 9
    assert [*shower._pictures] == [f"noise-{i}" for i in range(5, 9)]
    monkeypatch.setattr("vlmbench.roi.distilling.showing._PIXELS", 1)
    shower.show([item("a", 0)])
    assert [*shower._pictures] == ["noise-0"]


def test_a_rule_of_sinks_that_is_named_holds() -> None:
    """Beside a network whose file names another one."""
    config = RpnConfig.model_construct(grounding_heads=((3, 1),), sinks={"rule": "qwen"}, rows="generated")
    for named, rule in (("default", "qwen"), ("llava", "llava")):
        method = settled(get("raw-attn")(sinks=named), config)
        assert (method.sinks, method.heads) == (rule, "3:1")


def test_a_decoder_that_cannot_be_copied(tiny_model: Tiny, own_task: Path, tmp_path: Path) -> None:
    adapter = opened(tiny_model("llava"))
    del adapter.model.base_model.get_decoder().layers[-1].self_attn.q_proj
    task = load_task(str(own_task))
    from vlmbench.engine.ranks import Ranks

    with pytest.raises(UsageError, match="no region proposal network for LlamaDecoderLayer"):
        distill_session.prepared(
            options("x", own_task, tmp_path), SMALL, task, split_items(task.items(), 0), Ranks(), adapter
        )
