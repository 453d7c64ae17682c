"""Several models together: the two-way bootstrap, and `show` of several runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import run, write_task
from typer.testing import CliRunner

from vlmbench.cli.app import app
from vlmbench.comparison.pooled import pooled
from vlmbench.errors import NotComparableError
from vlmbench.metrics.bootstrap import cluster_bootstrap, two_way_bootstrap
from vlmbench.table_io import read_table


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
        ratio = num[rows].sum(0) / den[rows].sum(0)
        replicates.append(ratio[rng.integers(0, k, k)].mean())
    assert found.se == pytest.approx(np.std(replicates), rel=0.06)
    assert found.low == pytest.approx(np.percentile(replicates, 2.5), abs=0.015)
    images_alone = cluster_bootstrap(num.mean(1)[:, None], den.mean(1)[:, None], cluster, b).se[0]
    assert found.se is not None
    assert found.se > images_alone


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
        pooled([("a", read_table(Path(folders[0]))), ("b", table.model_copy(update={"tasks": [block]}))])
