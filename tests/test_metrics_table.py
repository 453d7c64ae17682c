"""Figures as a table holds them: each model's own floor, kappa of closed labels, answers that nearly flip,
and intervals of resamples in place of the formula's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import write_task
from test_metrics import make
from test_table import small_table

from vlmbench.conditions import CLEAN, Condition, Part
from vlmbench.engine.store import read_records
from vlmbench.errors import UsageError
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.perturb import run as perturb
from vlmbench.items import Item
from vlmbench.metrics.agreement import fleiss_kappa
from vlmbench.metrics.kappa import kappa_estimate
from vlmbench.metrics.nearness import nearness
from vlmbench.metrics.resamples import Resamples
from vlmbench.metrics.tabulate import Tabulated, TaskResult, Variation, tabulate
from vlmbench.report.view import sections
from vlmbench.schema import Record, State, Summary

ZOO = Part("zoo", label="zoo(ratio=0.9)")
SHIFT, CASE = Part("shift"), Part("case")


def varied(prune: Part | None = None, frozen: bool = False) -> list[Variation]:
    """One model's input as it is, two repeats, an image and a question perturbation."""
    clean = Condition(prune=prune)
    found = [Variation(clean, "prune", "zoo", "0.9", "clean") if prune else Variation(CLEAN)]
    found += [
        Variation(Condition(prune=prune, repeat=i), "repeat", "repeat", str(i), clean.id) for i in (1, 2)
    ]
    found.append(Variation(Condition(prune=prune, image=SHIFT), "image", "shift", "1", clean.id))
    found.append(Variation(Condition(prune=prune, question=CASE), "question", "case", "", clean.id))
    if frozen:
        mask = Part("zoo", (("mask", "frozen"),), "zoo(mask=frozen,ratio=0.9)")
        found.append(Variation(Condition(prune=mask, image=SHIFT), "image", "shift", "1", clean.id))
    return found


def done(
    plan: Sequence[Variation], items: Sequence[Item], answer: Callable[[int, Variation], str], **more: int
) -> Tabulated:
    records = {}
    for i, item in enumerate(items):
        for v in plan:
            text = answer(i, v)
            records[item.id, v.condition.id] = Record(
                task="t",
                item=item.id,
                condition=v.condition.id,
                key="k",
                state=State.PARSED,
                answer=text,
                score=float(text == item.answers[0]),
                prob=0.9,
                prob_margin=0.05 + 0.01 * (i % 20),
            )
    names, images = [item.id for item in items], [item.cluster for item in items]
    update = {"items": names, "clusters": images, "digests": [], "answers": [], "n_total": len(items)}
    return tabulate(
        TaskResult(small_table().tasks[0].model_copy(update=update), items, plan, records, **more)
    )


def test_excess_is_over_the_models_own_repeats() -> None:
    """The pruned model's repeats flip three answers in ten, the full model's none; its frozen tokens are held
    against the same repeats."""
    plan = [*varied(), *varied(ZOO, frozen=True)]
    items = [Item(f"i{i}", "q?", (), ("a",), cluster=f"c{i}") for i in range(10)]

    def answer(i: int, v: Variation) -> str:
        if v.axis == "repeat":
            return "b" if v.condition.prune and i < 3 else "a"
        return "b" if v.axis in ("image", "prune") and i < 5 else "a"

    # flips of the pruned model count against its own answers: b under `prune`, so its repeats are not a
    table = done(plan, items, answer)
    for cell in table.cells:
        v = next(v for v in plan if v.condition.id == cell.condition)
        excess = cell.metrics.get("excess_flip_rate")
        if v.axis in ("clean", "repeat"):
            assert excess is None
            continue
        mine = cell.condition if v.axis == "prune" else v.reference
        floors = [c for c in table.cells if c.axis == "repeat" and c.reference == mine]
        floor = np.mean([c.metrics["flip_rate"].value for c in floors])
        assert floor == pytest.approx(0.2 if v.condition.prune else 0)
        assert excess is not None
        assert excess.value == pytest.approx(cell.metrics["flip_rate"].value - floor), cell.condition
    full = next(c for c in table.cells if c.axis == "image" and c.reference == "clean")
    assert full.metrics["excess_flip_rate"].value == pytest.approx(0.5)


def summary(table: Tabulated, **group: str) -> Summary:
    return next(s for s in table.summaries if s.group == group)


def kappa_items(n: int, options: Callable[[int], tuple[str, ...]] = lambda i: ()) -> list[Item]:
    return [
        Item(f"i{i}", "q?", (), ("yes",), cluster=f"c{i // 2}", category="ab"[i % 2], options=options(i))
        for i in range(n)
    ]


def test_kappa_stands_beside_agreement_where_labels_are_closed() -> None:
    def answer(i: int, v: Variation) -> str:
        return ("yes", "no")[(i % 3 == 0) ^ (v.axis == "image" and i % 4 == 0)]

    table = done(varied(), kappa_items(24), answer)
    columns = [0, 3, 4]  # clean, image, question
    label = np.array([[("yes", "no").index(answer(i, varied()[j])) for j in columns] for i in range(24)])
    expected = fleiss_kappa(label, np.ones(label.shape, bool))
    everything = summary(table, axis="all")
    assert everything.metrics["fleiss_kappa"].value == pytest.approx(expected)
    assert everything.metrics["agreement"].value > expected
    for name, mask in (("a", slice(0, None, 2)), ("b", slice(1, None, 2))):
        mine = fleiss_kappa(label[mask], np.ones(label[mask].shape, bool))
        assert summary(table, axis="all", category=name).metrics["fleiss_kappa"].value == pytest.approx(mine)
    whole = small_table().model_copy(
        update={"tasks": [table.block], "cells": table.cells, "summaries": table.summaries}
    )
    grid = next(s for s in sections(whole) if s.title.endswith("by category"))
    at = grid.columns.index("kappa")
    assert grid.columns[at - 1] == "agree"
    assert [row[at] for row in grid.rows] == [
        f"{summary(table, axis='all', category=c).metrics['fleiss_kappa'].value:.2f}" for c in "ab"
    ]


def test_labels_that_are_not_closed_have_no_kappa() -> None:
    def free(i: int, v: Variation) -> str:
        return f"text {i}" if v.axis != "image" else f"other {i}"

    def index(i: int, v: Variation) -> str:
        return str((i + (v.axis == "image")) % 3)

    shown = ("red", "green", "blue")
    for items, answer, closed in (
        (kappa_items(24), free, False),
        (kappa_items(24), index, True),
        (kappa_items(8), index, False),  # three labels on eight items
        (kappa_items(24, lambda i: shown), index, True),
        (
            kappa_items(24, lambda i: (f"option {i}", "green", "blue")),
            index,
            False,
        ),  # an index into own lists
    ):
        table = done(varied(), items, answer)
        assert ("fleiss_kappa" in summary(table, axis="all").metrics) is closed


def test_the_error_of_kappa_is_that_of_resamples() -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(150), 2)
    first = rng.integers(0, 3, (300, 1))
    moved = rng.random((300, 5)) < rng.beta(0.4, 2, 150)[cluster][:, None]
    label = np.where(moved, rng.integers(0, 3, (300, 5)), first)
    given = rng.random(label.shape) < 0.9
    found = kappa_estimate(label, given, cluster)
    assert found.value == pytest.approx(fleiss_kappa(label, given))
    replicates = []
    for _ in range(600):
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(0, 150, 150)])
        replicates.append(fleiss_kappa(label[rows], given[rows]))
    assert found.se == pytest.approx(np.std(replicates), rel=0.1)
    drawn = kappa_estimate(label, given, cluster, Resamples(cluster, 2000))
    assert drawn.se == pytest.approx(np.std(replicates), rel=0.1)
    assert (drawn.low, drawn.high) == pytest.approx((found.low, found.high), abs=0.02)
    same = kappa_estimate(np.repeat(first, 4, 1), np.ones((300, 4), bool), cluster)
    assert (same.value, same.high) == (pytest.approx(1), 1)
    assert same.low < 0.99
    assert kappa_estimate(np.zeros((9, 3), int), np.ones((9, 3), bool), np.arange(9)).value is None


def test_near_flips_hold_their_answer_by_less_than_a_tenth() -> None:
    """Variants: held by .09, held by .15, flipped at .05, margin unknown."""
    outcomes = make([[0, 0], [0, 0], [0, 1], [0, 0]])
    margin = np.array([[0.9, 0.09], [0.5, 0.15], [0.3, 0.05], [0.4, np.nan]])
    found = nearness(outcomes, np.array([1]), margin)
    assert {name: figure.n for name, figure in found.items()} == dict.fromkeys(found, 3)
    assert found["near_flip_rate"].value == pytest.approx(1 / 3)
    assert found["prob_margin"].value == pytest.approx((0.09 + 0.15 + 0.05) / 3)
    assert found["prob_margin_change"].value == pytest.approx((-0.81 - 0.35 - 0.25) / 3)
    assert nearness(outcomes, np.array([1]), np.full((4, 2), np.nan)) == {}


def test_a_table_of_resamples_agrees_with_the_formula_and_leaves_its_values() -> None:
    rng = np.random.default_rng(3)
    fragile = rng.beta(0.5, 2, 200)
    items = [Item(f"i{i}", "q?", (), ("0",), cluster=f"c{i // 3}", category="k") for i in range(600)]
    plan = varied()
    first = rng.random(600) < 0.3
    answers = {
        v.condition.id: np.where(
            rng.random(600)
            < fragile[np.arange(600) // 3] * (0.3 if v.axis == "repeat" else v.axis != "clean"),
            ~first,
            first,
        )
        for v in plan
    }

    def answer(i: int, v: Variation) -> str:
        return str(int(answers[v.condition.id][i]))

    plain, drawn = (done(plan, items, answer, bootstrap=b, seed=5) for b in (0, 4000))
    assert drawn == done(plan, items, answer, bootstrap=4000, seed=5)
    pairs = [(one.metrics, two.metrics) for one, two in zip(plain.cells, drawn.cells, strict=True)]
    pairs += [(one.metrics, two.metrics) for one, two in zip(plain.summaries, drawn.summaries, strict=True)]
    moved = 0
    for one, two in pairs:
        for name, figure in one.items():
            other = two[name]
            assert (figure.value, figure.n) == (other.value, other.n)
            if not figure.se or name.startswith("accuracy_p"):
                assert figure == other
                continue
            moved += figure.se != other.se
            assert other.se == pytest.approx(figure.se, rel=0.08), name
            assert (other.low, other.high) == pytest.approx((figure.low, figure.high), abs=0.6 * figure.se), (
                name
            )
    assert moved > 100


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(UsageError, match="--bootstrap must be 0 or at least 200: got 20"):
        PerturbOptions(bootstrap=20)


def test_another_number_of_visual_tokens_is_told(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Where the model takes pictures of any size, a border makes more of them and a shift does not."""
    task = write_task(tmp_path, images=3, per_image=1)
    options = RunOptions(str(tiny_model("qwen2_5_vl")), str(task), out=tmp_path / "run", show_progress=False)
    table = perturb(options, PerturbOptions(families="pad(n=32),shift(dx=2)", repeats=1)).table
    records = read_records(tmp_path / "run")
    seen = {key: record.visual_tokens or 0 for key, record in records.items()}
    told = {cell.condition: cell.metrics.get("visual_tokens_change") for cell in table.cells}
    more = [seen["own", f"{i}-0", "pad(n=32)"] - seen["own", f"{i}-0", "clean"] for i in range(3)]
    assert min(more) > 0
    change = told.pop("pad(n=32)")
    assert change is not None
    assert (change.value, change.n) == (pytest.approx(np.mean(more)), 3)
    assert not any(told.values())
    (section,) = (s for s in sections(table) if s.title.endswith("visual tokens"))
    assert section.rows == (("image", "pad(n=32)", f"{np.mean(more):+.1f}", "3"),)
