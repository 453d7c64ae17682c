"""Several models together: the two-way bootstrap, and `show` of several runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from runs import run, write_task
from test_predict import small_table
from typer.testing import CliRunner

from vlmbench.cli.app import app
from vlmbench.cli.app import run as command
from vlmbench.comparison.pooled import pooled
from vlmbench.errors import NotComparableError
from vlmbench.metrics.bootstrap import cluster_bootstrap, two_way_bootstrap
from vlmbench.metrics.estimate import wilson
from vlmbench.table_io import dump_table, read_table


def test_two_way_by_explicit_draws() -> None:
    rng = np.random.default_rng(1)
    n, k, b = 40, 4, 4000
    cluster = np.repeat(np.arange(10), 4)
    rate = np.clip(0.3 + 0.15 * rng.normal(size=k) + 0.1 * rng.normal(size=10)[cluster][:, None], 0, 1)
    den = rng.integers(1, 5, (n, k)).astype(float)
    num = rng.binomial(den.astype(int), rate).astype(float)
    found = two_way_bootstrap(num, den, cluster, b)
    assert found.value == pytest.approx((num.sum(0) / den.sum(0)).mean())
    replicates = []
    for _ in range(b):
        rows = np.concatenate([np.flatnonzero(cluster == c) for c in rng.integers(0, 10, 10)])
        replicates.append((num[rows].sum(0) / den[rows].sum(0)).mean())
    of_images = np.var(replicates) * 10 / 9
    of_models = np.var(num.sum(0) / den.sum(0), ddof=1) / k
    assert found.se == pytest.approx((of_images + of_models) ** 0.5, rel=0.03)
    images_alone = cluster_bootstrap(num.mean(1)[:, None], den.mean(1)[:, None], cluster, b).se[0]
    assert found.se is not None
    assert found.se > images_alone


def test_a_model_that_a_resample_lacks_is_left_out_of_its_mean() -> None:
    """Both flip half of everything, on every image; the second has pairs on two of ten images alone. Counted
    as a rate of 0 wherever those two are not drawn, it would spread the mean over .25."""
    cluster, num, den = np.arange(10), np.ones((10, 2)), np.full((10, 2), 2.0)
    num[2:, 1] = den[2:, 1] = 0
    found = two_way_bootstrap(num, den, cluster, 500)
    assert found.value == 0.5
    assert found.se == pytest.approx(0, abs=1e-9)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 2))  # and they agree: no certainty


def test_no_flip_in_any_model_is_no_certainty() -> None:
    found = two_way_bootstrap(np.zeros((30, 3)), np.full((30, 3), 4), np.arange(30) // 2, 200)
    assert (found.value, found.se, found.low) == (0, 0, 0)
    assert found.high == pytest.approx(wilson(0, 15)[1])


@pytest.mark.parametrize(("k", "most"), [(2, 1), (3, 0.98), (5, 0.98), (10, 0.98)])
def test_pooled_intervals_cover_the_rate_of_the_population_of_models(k: int, most: float) -> None:
    """Models differ by .8 and images by 1 on the scale of log odds, 40 images of 8 variants. With two models
    the interval is conservative."""
    rng = np.random.default_rng(k)
    middle = np.log(0.15 / 0.85)

    def rates(models: np.ndarray, images: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(middle + 0.8 * models + images)))

    truth = rates(rng.normal(size=400_000), rng.normal(size=400_000)).mean()
    hits = 0
    for seed in range(600):
        rate = rates(rng.normal(size=k)[None], rng.normal(size=40)[:, None])
        num = rng.binomial(8, rate)
        found = two_way_bootstrap(num, np.full(num.shape, 8), np.arange(40), 300, seed)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 600 <= most


def test_models_without_pairs_and_single_ones() -> None:
    num, den, cluster = np.array([[1.0, 0], [0, 0], [1, 0]]), np.array([[2.0, 0]] * 3), np.arange(3)
    alone = two_way_bootstrap(num[:, :1], den[:, :1], cluster, 500)
    assert two_way_bootstrap(num, den, cluster, 500) == alone
    assert alone.value == pytest.approx(1 / 3)
    assert two_way_bootstrap(num[:, 1:], den[:, 1:], cluster, 500).value is None


def test_show_pools_runs_of_several_models(tmp_path: Path, tiny_model) -> None:  # type: ignore[no-untyped-def]
    task = write_task(tmp_path / "task", images=4)
    folders = []
    for family in ("llava", "qwen2_vl"):
        run(tiny_model(family), task, tmp_path / family, "shift(dx=2),pad(n=8),polite", repeats=0)
        folders.append(str(tmp_path / family))
    rows = pooled([(name, read_table(Path(name))) for name in folders])
    assert [(row.axis, row.family) for row in rows][:3] == [
        ("image", ""),
        ("image", "pad"),
        ("image", "shift"),
    ]
    for row in rows:
        assert (row.items, row.left_out) == (8, (0, 0))
        for table, estimate in zip(map(read_table, map(Path, folders)), row.models, strict=True):
            group = {"axis": row.axis} | ({"family": row.family} if row.family else {})
            own = next(s for s in table.summaries if s.group == group)
            assert estimate.value == pytest.approx(own.metrics["flip_rate"].value, abs=1e-5)
    done = CliRunner().invoke(app, ["show", *folders, "--format", "md"])
    assert done.exit_code == 0, done.output
    assert "flip rate by model" in done.output
    other = write_task(tmp_path / "other", images=2)
    run(tiny_model("llava"), other, tmp_path / "o", "pad(n=8)", repeats=0)
    table = read_table(tmp_path / "o")
    block = table.tasks[0].model_copy(update={"task": "another"})
    with pytest.raises(NotComparableError, match="no task"):
        pooled([("a", read_table(Path(folders[1]))), ("b", table.model_copy(update={"tasks": [block]}))])


def test_items_that_not_every_run_has_are_left_out_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    block = {"items": [f"i{k}" for k in range(90, 104)]}
    tables = {
        "long": small_table(rng, np.full(98, 0.3), revision="sha256:a"),
        "short": small_table(rng, np.full(14, 0.3), revision="sha256:b", **block),
    }
    for name, table in tables.items():
        (tmp_path / f"{name}.json").write_text(dump_table(table), encoding="utf-8")
    runs = [str(tmp_path / f"{name}.json") for name in tables]
    rows = pooled(list(tables.items()))
    assert {(row.items, row.left_out) for row in rows} == {(8, (90, 6))}
    assert all(row.pooled.n == 8 for row in rows)
    done = CliRunner().invoke(app, ["show", *runs, "--format", "md"])
    assert "8 items in common; left out, for another run lacks them: 90 of A, 6 of B" in done.output
    assert re.search(r"\| image +\| all +\| +8 +\|", done.output), done.output


def test_one_model_twice_is_not_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = small_table(np.random.default_rng(0), np.full(20, 0.3))
    (tmp_path / "a.json").write_text(dump_table(table), encoding="utf-8")
    run_path = str(tmp_path / "a.json")
    assert command(["show", run_path, run_path]) == 4
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "are the same weights (small, sha256:small); give every model once" in told
