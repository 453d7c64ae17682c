"""Drawn answers: the law of the draw, and that batching does not change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.perturb import run as perturb
from vlmbench.models.decoding import Draw, _Watch
from vlmbench.packing import unpack_indices
from vlmbench.schema import Table


def test_draws_follow_the_softmax() -> None:
    logits, temperature, n = torch.tensor([1.0, 0.2, -0.5, -2.0, 0.9]), 0.7, 4000
    watch = _Watch([Draw(temperature, seed) for seed in range(n)])
    drawn = watch(torch.zeros(n, 1), logits.expand(n, -1)).argmax(-1)
    expected = (logits / temperature).softmax(-1).double() * n
    counts = torch.bincount(drawn, minlength=5)
    assert stats.chisquare(counts.numpy(), expected.numpy() * n / expected.sum().item()).pvalue > 1e-3
    assert watch.first is not None
    assert torch.allclose(watch.first[:, 0], logits.softmax(-1)[drawn])


def test_rows_without_a_draw_stay_greedy() -> None:
    scores = torch.randn(3, 50)
    watch = _Watch([None, Draw(5.0, 1), None])
    noisy = watch(torch.zeros(3, 1), scores)
    assert torch.equal(noisy[[0, 2]], scores[[0, 2]])
    assert not torch.equal(noisy[1], scores[1])
    again = watch(torch.zeros(3, 1), scores)  # the next step has noise of its own
    assert not torch.equal(again[1], noisy[1])


def sampled(out: Path, batch_size: int, samples: int, temperature: float) -> Table:
    options = RunOptions(limit=14, batch_size=batch_size, out=out, show_progress=False)
    plan = PerturbOptions(suite="none", rewrite="none", repeats=0, samples=samples, temperature=temperature)
    table: Table = perturb(options, plan).table
    return table


@pytest.mark.parametrize("batch_size", [1, 5])
def test_draws_do_not_depend_on_the_batch(batch_size: int, tmp_path: Path) -> None:
    whole = sampled(tmp_path / "a", 16, 3, 1.5)
    other = sampled(tmp_path / "b", batch_size, 3, 1.5)
    ties = {(c.condition, i) for t in (whole, other) for c in t.cells for i in c.tie}
    differ = {
        (one.condition, i)
        for one, two in zip(whole.cells, other.cells, strict=True)
        for i, codes in enumerate(zip(*(texts(t, c) for t, c in ((whole, one), (other, two))), strict=True))
        if codes[0] != codes[1]
    }
    assert differ <= ties
    draws = [texts(whole, cell) for cell in whole.cells if cell.axis == "sample"]
    assert len(draws) == 3
    assert draws[0] != draws[1]  # each draw has noise of its own


def test_a_cold_draw_is_the_greedy_answer(tmp_path: Path) -> None:
    table = sampled(tmp_path / "cold", 16, 1, 1e-6)
    clean, drawn = table.cells
    assert texts(table, clean) == texts(table, drawn)
    assert np.isclose(drawn.metrics["flip_rate"].value or 0, 0)


def texts(table: Table, cell: object) -> list[str | None]:
    block = table.tasks[0]
    codes = unpack_indices(cell.answer)  # type: ignore[attr-defined]
    return [known[code - 1] if code else None for known, code in zip(block.answers, codes, strict=True)]
