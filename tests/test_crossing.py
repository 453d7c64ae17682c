"""Image and question perturbed together: pairs, and every figure against a count of single records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_table import small_table

from vlmbench.conditions import CLEAN, Condition, Part
from vlmbench.errors import UsageError
from vlmbench.experiments.crossing import crossed
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions, run, variations
from vlmbench.items import Item
from vlmbench.metrics.bootstrap import bootstrap_sums
from vlmbench.metrics.crossing import crossing_metrics, crossings
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.resamples import Resamples
from vlmbench.metrics.significance import holm, mcnemar, sign_flip
from vlmbench.metrics.tabulate import TaskResult, Variation, tabulate
from vlmbench.metrics.tested import with_tests
from vlmbench.report.crossing import crossing_sections
from vlmbench.report.printing import markdown_sections
from vlmbench.report.view import _tested_section
from vlmbench.schema import Record, State, Summary

IMAGES = [Part("shift", label=f"shift(dx={i})") for i in range(5)] + [Part("pad"), Part("crop")]
QUESTIONS = [Part("case"), Part("polite", label="polite(r=1)"), Part("polite", label="polite(r=2)")]


@given(size=st.integers(1, 40), seed=st.integers(0, 99))
def test_families_take_turns(size: int, seed: int) -> None:
    pairs = crossed(IMAGES, QUESTIONS, size, seed)
    assert len(set(pairs)) == len(pairs) == min(size, len(IMAGES) * len(QUESTIONS))
    assert pairs == crossed(IMAGES, QUESTIONS, 99, seed)[:size]  # sizes nest
    met = [(image.name, question.name) for image, question in pairs]
    assert len(set(met)) == min(size, 6)  # three image families, two question families


def test_both_parts_of_a_pair_are_also_run_alone() -> None:
    options = PerturbOptions(families="shift,pad,polite", cross=True, cross_size=9, prune="none,zoo@0.9")
    found = variations(options, seed=3)
    pairs = dict(crossings(found))
    assert {pruner: len(mine) for pruner, mine in pairs.items()} == {"": 9, "zoo(ratio=0.9)": 9}
    for crossing in (c for mine in pairs.values() for c in mine):
        both, clean = found[crossing.both].condition, found[crossing.clean].condition
        assert found[crossing.both].reference == clean.id
        assert found[crossing.image].condition == Condition(image=both.image, prune=both.prune)
        assert found[crossing.question].condition == Condition(question=both.question, prune=both.prune)
    with pytest.raises(UsageError, match="no question perturbation is asked for"):
        variations(PerturbOptions(families="shift", cross=True))


def test_pairs_are_of_questions_that_reach_the_model(tmp_path: Path) -> None:
    """The demo has no options and reads no case: with all rules asked for, every crossed pair still counts
    for some item, and where nothing is left to cross the run does not start."""
    options = RunOptions(limit=14, batch_size=8, out=tmp_path / "run", show_progress=False)
    table = run(options, PerturbOptions(families="shift(dx=3)", rewrite="rules", repeats=0, cross=True)).table
    crossed_cells = [c for c in table.cells if c.axis == "cross"]
    names = {c.parts["question"]["name"] for c in crossed_cells}
    assert {"polite", "punctuation", "contraction"} <= names
    assert not names & {"case", "whitespace", "options_rotate", "option_labels", "quotes"}
    assert crossed_cells
    assert all(c.n for c in crossed_cells)
    with pytest.raises(UsageError, match="of 3 asked for, none does"):
        run(
            replace(options, out=tmp_path / "none"),
            PerturbOptions(families="shift(dx=3),case", repeats=0, cross=True),
        )


def outcomes(seed: int, n: int, pairs: int) -> tuple[Outcomes, list[Variation]]:
    """Clean, then x, y and xy of each pair, with missing, unparsed and soft-scored records."""
    rng = np.random.default_rng(seed)
    plan = [Variation(CLEAN)]
    for p in range(pairs):
        x, y = Part("shift", label=f"shift(dx={p})"), Part("polite", label=f"polite(r={p})")
        plan += [
            Variation(Condition(image=x), "image", "shift", "", "clean"),
            Variation(Condition(question=y), "question", "polite", "", "clean"),
            Variation(Condition(question=y, image=x), "cross", "shift x polite", "", "clean"),
        ]
    shape = n, len(plan)
    states = [State.PARSED] * 6 + [State.UNPARSED, State.ERROR]
    state = np.array([STATES.index(states[i]) for i in rng.integers(0, 8, shape).ravel()]).reshape(shape)
    parsed = state == STATES.index(State.PARSED)
    counts = np.array([STATES[code].counts for code in state.ravel()]).reshape(shape)
    made = Outcomes(
        answer=np.where(parsed, rng.integers(0, 3, shape), -1),
        state=state,
        score=np.where(counts, rng.choice([0.0, 0.4, 1.0], shape), np.nan),
        tie=np.zeros(shape, bool),
        prob=np.full(n, np.nan),
        cluster=rng.integers(0, max(2, n // 3), n),
        reference=np.array([-1] + [0] * (len(plan) - 1)),
        unchanged=np.zeros(shape, bool),
    )
    return made, plan


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 12), pairs=st.integers(1, 3))
def test_figures_equal_a_count(seed: int, n: int, pairs: int) -> None:
    made, plan = outcomes(seed, n, pairs)
    mine = next(iter(crossings(plan)))[1]
    metrics = crossing_metrics(made, mine)

    def known(i: int, j: int) -> bool:
        return STATES[made.state[i, j]].counts

    def flip(i: int, j: int) -> bool:
        both = {STATES[made.state[i, 0]], STATES[made.state[i, j]]} == {State.PARSED}
        return both and made.answer[i, 0] != made.answer[i, j]

    cells = [
        (i, c) for c in mine for i in range(n) if all(known(i, j) for j in (0, c.both, c.image, c.question))
    ]
    if not cells:
        assert metrics == {}
        return
    alone = [flip(i, c.image) or flip(i, c.question) for i, c in cells]
    both = [flip(i, c.both) for i, c in cells]
    expected = {
        "flip_rate": np.mean(both),
        "flip_rate_image": np.mean([flip(i, c.image) for i, c in cells]),
        "flip_rate_question": np.mean([flip(i, c.question) for i, c in cells]),
        "hidden_flips": np.mean([b and not a for a, b in zip(alone, both, strict=True)]),
        "undone_flips": np.mean([a and not b for a, b in zip(alone, both, strict=True)]),
        "accuracy_interaction": np.mean(
            [
                made.score[i, c.both] - made.score[i, c.image] - made.score[i, c.question] + made.score[i, 0]
                for i, c in cells
            ]
        ),
    }
    interaction = 0.0
    for c in mine:
        rows = [i for i, other in cells if other is c]
        if rows:
            xy, x, y = (np.mean([flip(i, j) for i in rows]) for j in (c.both, c.image, c.question))
            interaction += len(rows) / len(cells) * (xy - (1 - (1 - x) * (1 - y)))
    expected["flip_interaction"] = interaction
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(value, abs=1e-12), name


def test_error_of_the_interaction_equals_the_bootstrap() -> None:
    made, plan = outcomes(5, 900, 2)
    mine = next(iter(crossings(plan)))[1]
    found = crossing_metrics(made, mine)["flip_interaction"]
    drawn = crossing_metrics(made, mine, resamples=Resamples(made.cluster, 2000))["flip_interaction"]
    columns = []
    for c in mine:
        used = np.logical_and.reduce([made.pairs[:, j] for j in (c.both, c.image, c.question)])
        columns += [used, *(made.flipped[:, j] & used for j in (c.both, c.image, c.question))]
    sums = bootstrap_sums(np.stack(columns, 1).astype(float), made.cluster, b=2000).reshape(-1, 2, 4)
    n, xy, x, y = np.moveaxis(sums, 2, 0)
    replicates = ((xy - n + (n - x) * (n - y) / n).sum(1)) / n.sum(1)
    assert found.se == pytest.approx(replicates.std(), rel=0.06)
    assert drawn.se == pytest.approx(replicates.std(), rel=0.06)
    assert (drawn.low, drawn.high) == pytest.approx((found.low, found.high), abs=0.006)


def test_families_are_tested_and_corrected() -> None:
    made, _ = outcomes(7, 60, 2)
    one, many = Summary(task="t", group={"family": "x"}, metrics={}), Summary(task="t", group={}, metrics={})
    found = with_tests(made, [(one, [1]), (many, [1, 2, 4])])
    scored = made.scored_pairs[:, 1]
    right = made.score > 0.5
    assert found[0].counts == {
        "b": int((scored & right[:, 0] & ~right[:, 1]).sum()),
        "c": int((scored & ~right[:, 0] & right[:, 1]).sum()),
    }
    columns = [1, 2, 4]
    change = np.where(made.scored_pairs[:, columns], made.score[:, columns] - made.score[:, [0]], np.nan)
    total = np.where(np.isnan(change).all(1), np.nan, np.nansum(change, axis=1))
    assert found[1].metrics["accuracy_p"].value == sign_flip(total, made.cluster).p
    p = [f.metrics["accuracy_p"].value for f in found]
    assert [f.metrics["accuracy_p_holm"].value for f in found] == pytest.approx(holm(p).tolist())
    nothing = with_tests(made, [(one, [])])
    assert nothing == [one]


def test_the_test_that_made_p_is_named() -> None:
    """McNemar where pairs are independent; signs of images where items share one or have several variants,
    there b and c stay counts of pairs."""
    made, _ = outcomes(7, 60, 2)
    whole = replace(made, score=np.where(np.isnan(made.score), np.nan, made.score > 0.5))
    alone = replace(whole, cluster=np.arange(60))
    one = Summary(task="t", group={"axis": "image", "family": "shift"}, metrics={})
    single, several = with_tests(alone, [(one, [1]), (one, [1, 2])])
    expected = mcnemar(single.counts["b"], single.counts["c"])
    assert (single.test, single.metrics["accuracy_p"].value) == (expected.method, expected.p)
    assert several.test.startswith("sign-flip")
    shared, soft = with_tests(whole, [(one, [1])])[0], with_tests(made, [(one, [1])])[0]
    assert shared.test.startswith("sign-flip")
    assert soft.test == "paired-bootstrap"
    assert (shared.counts["b"], shared.counts["c"]) == (single.counts["b"], single.counts["c"])

    def printed(*families: Summary) -> str:
        return markdown_sections(_tested_section(SimpleNamespace(task="t"), families))  # type: ignore[arg-type]

    assert "mid-p" in expected.method or "McNemar" in printed(single)
    assert "McNemar" not in printed(shared, several)
    assert "sign flips over whole images" in printed(shared, several)
    assert "pairs (item, variant)" in printed(shared)
    assert "bootstrap: paired" in printed(soft)


def test_excess_of_crossed_pairs_and_rows_by_question_family() -> None:
    """Repeats flip one answer in ten; the pairs flip all."""
    part = {"shift": Part("shift"), "pad": Part("pad"), "polite": Part("polite"), "case": Part("case")}
    plan = [Variation(CLEAN), Variation(Condition(repeat=1), "repeat", "repeat", "1", "clean")]
    plan += [Variation(Condition(image=part[n]), "image", n, "", "clean") for n in ("shift", "pad")]
    plan += [Variation(Condition(question=part[n]), "question", n, "", "clean") for n in ("polite", "case")]
    for x, y in (("shift", "polite"), ("pad", "polite"), ("pad", "case")):
        both = Condition(question=part[y], image=part[x])
        plan.append(Variation(both, "cross", f"{x} x {y}", "", "clean"))
    items = [Item(f"i{i}", "q?", (), ("a",), cluster=f"c{i}") for i in range(10)]
    records = {}
    for i, item in enumerate(items):
        for v in plan:
            flips = v.axis == "cross" or (v.axis == "repeat" and i == 0)
            records[item.id, v.condition.id] = Record(
                task="t",
                item=item.id,
                condition=v.condition.id,
                key="k",
                state=State.PARSED,
                answer="b" if flips else "a",
                score=float(not flips),
            )
    block = (
        small_table()
        .tasks[0]
        .model_copy(
            update={
                "task": "t",
                "items": [i.id for i in items],
                "clusters": [i.cluster for i in items],
                "digests": [],
                "answers": [],
                "n_total": 10,
            }
        )
    )
    done = tabulate(TaskResult(block, items, plan, records))
    groups = [s for s in done.summaries if "cross" in s.group]
    assert [(s.group, s.counts["pairs"]) for s in groups] == [
        ({"cross": "shift"}, 1),
        ({"cross": "pad"}, 2),
        ({"cross": "polite", "by": "question"}, 2),
        ({"cross": "case", "by": "question"}, 1),
        ({"cross": "all"}, 3),
    ]
    for summary in groups:
        assert summary.metrics["excess_flip_rate"].value == pytest.approx(0.9)
        assert summary.metrics["excess_flip_rate"].low is not None
    table = small_table().model_copy(
        update={"tasks": [done.block], "cells": done.cells, "summaries": done.summaries}
    )
    (section,) = crossing_sections(table, done.block)
    assert [row[0] for row in section.rows] == ["shift", "pad", "x polite", "x case", "all"]
    assert {row[section.columns.index("over")] for row in section.rows} == {"+90.0"}


@given(size=st.integers(1, 60), seed=st.integers(0, 99))
def test_no_family_waits_long_for_its_turn(size: int, seed: int) -> None:
    """While pairs of families are new, no family is met two times more often than another of its axis."""
    images = [Part(f"image-{i}", label=f"image-{i}(k={k})") for i in range(7) for k in range(i + 1)]
    questions = [Part(f"question-{i}") for i in range(4)]
    for axis, families in ((0, 7), (1, 4)):
        pairs = crossed(images, questions, min(size, 28), seed)
        met = Counter(pair[axis].name for pair in pairs)
        least = min(met.values()) if len(met) == families else 0
        assert max(met.values()) - least <= 2
