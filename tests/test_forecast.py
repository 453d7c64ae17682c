"""Forecast flips and drift: figures against definitions, and the pass against the records beside it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmbench.engine.inspection import FILE, Look
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.perturb import run as perturb
from vlmbench.metrics.forecast import SHARES, Pairs, drift_metrics, forecast_metrics
from vlmbench.metrics.ranking import auroc
from vlmbench.models.energy import dirichlet_energy
from vlmbench.schema import Table
from vlmbench.table_io import read_table


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40))
def test_forecast_figures(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    forecast = np.where(rng.random(n) < 0.2, np.nan, rng.integers(-3, 4, n).astype(float))
    pairs = Pairs(rng.random(n) < 0.4, forecast, rng.normal(size=n), rng.random(n), rng.integers(0, 5, n))
    found = forecast_metrics(pairs)
    known = np.flatnonzero(~np.isnan(forecast))
    if not len(known):
        assert found == {}
        return
    flipped = pairs.flipped[known]
    if flipped.any() and not flipped.all():
        wins = [
            (forecast[i] < forecast[j]) + 0.5 * (forecast[i] == forecast[j])
            for i, j in itertools.product(known[flipped], known[~flipped])
        ]
        assert found["auroc_forecast"].value == pytest.approx(np.mean(wins))
        margin = auroc(-pairs.margin[known], flipped)
        assert found["auroc_margin"].value == pytest.approx(margin)
        assert found["auroc_gain"].value == pytest.approx(np.mean(wins) - margin)
    # the mean over all orders of equal forecasts, by drawing many
    share, draws = 0.25, []
    for _ in range(400):
        order = known[np.lexsort((rng.random(len(known)), forecast[known]))]
        whole, rest = divmod(share * len(known), 1)
        taken = pairs.flipped[order[: int(whole)]].sum()
        draws.append(taken + (rest * pairs.flipped[order[int(whole)]] if rest else 0))
    if flipped.any():
        assert found["found@0.25"].value == pytest.approx(np.mean(draws) / flipped.sum(), abs=0.12)
    values = [found[f"found@{s:g}"].value for s in SHARES]
    assert values == sorted(values, key=lambda v: v or 0)


def test_drift_is_a_share_of_the_distance_between_images() -> None:
    nan = float("nan")
    columns = (
        np.array(x) for x in ([0.1, 0.3, nan], [0.5, 0.3, 0.9], [nan] * 3, [0.5, nan, -0.5], [0, 1, 2])
    )
    found = drift_metrics(*columns)
    assert found["state_drift"].value == pytest.approx(0.2)
    assert found["state_drift_share"].value == pytest.approx(0.4 / 0.8)
    assert found["energy_change"].value == pytest.approx(0.0)
    assert "feature_drift" not in found


def test_energy_by_brute_force() -> None:
    grid = torch.tensor(
        [[t, r, c] for t in range(2) for r in range(3) for c in range(4)] + [[-1, -1, -1]] * 2
    )[torch.randperm(26, generator=torch.Generator().manual_seed(1))]
    rows = torch.randn(26, 5, generator=torch.Generator().manual_seed(2))
    real = [i for i in range(26) if grid[i, 1] >= 0]
    apart = [
        float(((rows[i] - rows[j]) ** 2).sum())
        for i, j in itertools.combinations(real, 2)
        if grid[i, 0] == grid[j, 0] and int((grid[i, 1:] - grid[j, 1:]).abs().sum()) == 1
    ]
    size = float((rows[real] ** 2).sum(1).mean())
    assert dirichlet_energy(rows, grid) == pytest.approx(np.mean(apart) / size, rel=1e-5)
    assert dirichlet_energy(torch.ones(4, 2), torch.tensor([[0, 0, i] for i in range(4)])) == 0
    assert dirichlet_energy(rows[:1], grid[real][:1]) is None


def looked(out: Path, limit: int = 21) -> Table:
    options = RunOptions(limit=limit, batch_size=8, out=out, show_progress=False)
    plan = PerturbOptions(
        families="shift(dx=1),rotate(deg=5),pad(n=8),phrasing(name=held-out-1)",
        repeats=0,
        forecast=True,
        drift=True,
    )
    table: Table = perturb(options, plan).table
    return table


def test_pass_agrees_with_the_records_and_resumes(tmp_path: Path) -> None:
    table = looked(tmp_path)
    block, clean = table.tasks[0], table.cells[0]
    lines = (tmp_path / FILE).read_text().splitlines()
    looks = {look.item: look for look in map(Look.model_validate_json, lines)}
    assert list(looks) == block.items
    margins = dict(zip(block.items, clean.min_margin, strict=True))
    for item, look in looks.items():
        assert look.margin == pytest.approx(margins[item], rel=0.02)  # a table keeps half a percent
        assert look.forecast.keys() <= {"shift(dx=1)", "rotate(deg=5)", "pad(n=8)"}
        assert "phrasing(name=held-out-1)" in look.state_drift
    # nothing is looked at twice, a cut line again; figures are the same (times aside)
    (tmp_path / FILE).write_text("\n".join([*lines[:-2], lines[-2][:40]]))
    again = looked(tmp_path)
    kept = (tmp_path / FILE).read_text().splitlines()
    assert kept[: len(lines) - 2] == lines[:-2]
    for one, two in zip(table.summaries, again.summaries, strict=True):
        assert one.group == two.group
        for name, figure in one.metrics.items():
            assert two.metrics[name].value == pytest.approx(figure.value, abs=1e-3), (one.group, name)
    groups = [s.group for s in read_table(tmp_path / "table.json").summaries]
    assert {"forecast": "all"} in groups
    assert {"drift": "all", "axis": "question"} in groups
    assert json.loads(lines[0])["milliseconds"].keys() == {"encode", "backward", "state", "variant"}
