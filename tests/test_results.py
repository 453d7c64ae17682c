"""The committed results are what this code computes: a small part of each is computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs import run

from vlmbench.experiments.options import RunOptions, TimingPlan
from vlmbench.experiments.prune import PruneOptions
from vlmbench.experiments.prune import run as prune
from vlmbench.experiments.roi import RoiOptions
from vlmbench.experiments.roi import run as look
from vlmbench.packing import unpack_indices
from vlmbench.schema import Cell, Table

RESULTS = Path(__file__).resolve().parents[1] / "results"


def answers(table: Table, cell: Cell) -> dict[str, str | None]:
    block = next(block for block in table.tasks if block.task == cell.task)
    codes = unpack_indices(cell.answer)
    return {
        item: known[code - 1] if code else None
        for item, known, code in zip(block.items, block.answers, codes, strict=True)
    }


def perturbed(out: Path) -> Table:
    families = "shift(dx=2),pad(n=8),rotate(deg=5),phrasing(name=held-out-1),template"
    table: Table = run("demo", "demo", out, families, batch_size=16, limit=21).table
    return table


def pruned(out: Path) -> Table:
    options = RunOptions(limit=21, batch_size=16, out=out, show_progress=False)
    methods = PruneOptions(methods="zoo,divprune,visionzip", ratios="0.9", timing=TimingPlan(0))
    return prune(options, methods).table


def looked(out: Path) -> Table:
    options = RunOptions(limit=21, batch_size=16, out=out, show_progress=False)
    methods = RoiOptions("sd-rpn,raw-attn,rel-attn,oracle,more-pixels", timing=TimingPlan(0))
    return look(options, methods).table


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("demo-stability.json", perturbed),
        ("demo-perturb.json", perturbed),
        ("demo-prune.json", pruned),
        ("demo-roi.json", looked),
    ],
)
def test_results_are_reproduced(name: str, again: Callable[[Path], Table], tmp_path: Path) -> None:
    committed = Table.read(RESULTS / name)
    fresh = again(tmp_path / "run")
    assert fresh.status == "complete"
    assert fresh.identity["revision"] == committed.identity["revision"]  # the table is of the shipped model
    assert set(fresh.tasks[0].items) < set(committed.tasks[0].items)  # limits nest
    old_digest = dict(zip(committed.tasks[0].items, committed.tasks[0].digests, strict=True))
    assert all(
        old_digest[item] == digest
        for item, digest in zip(fresh.tasks[0].items, fresh.tasks[0].digests, strict=True)
    )
    assert fresh.identity.get("rpn") == committed.identity.get("rpn")
    cells = {c.condition: c for c in committed.cells if c.task == fresh.tasks[0].task}
    compared = 0
    for cell in fresh.cells:
        old, new = answers(committed, cells[cell.condition]), answers(fresh, cell)
        margins = dict(zip(fresh.tasks[0].items, cell.min_margin, strict=True))
        for item, answer in new.items():
            compared += answer is not None
            # another machine rounds otherwise, which only a near tie can feel
            assert answer == old[item] or (margins[item] or 0) < 1e-2, (cell.condition, item)
    assert compared > 100


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_results_are_whole(path: Path) -> None:
    table = Table.read(path)
    assert table.status == "complete"
    assert table.environment["packages"]["transformers"]
    assert path.stat().st_size < 10_000_000
