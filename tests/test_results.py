"""The committed results are what this code computes: a small part of each is computed again."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import run

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


def test_demo_perturb_is_reproduced(tmp_path: Path) -> None:
    committed = Table.read(RESULTS / "demo-perturb.json")
    families = "shift(dx=2),pad(n=8),rotate(deg=5),phrasing(name=held-out-1),template"
    fresh = run("demo", "demo", tmp_path / "run", families, batch_size=16, limit=21).table
    assert fresh.status == "complete"
    assert fresh.identity["revision"] == committed.identity["revision"]  # the table is of the shipped model
    assert set(fresh.tasks[0].items) < set(committed.tasks[0].items)  # limits nest
    old_digest = dict(zip(committed.tasks[0].items, committed.tasks[0].digests, strict=True))
    assert all(
        old_digest[item] == digest
        for item, digest in zip(fresh.tasks[0].items, fresh.tasks[0].digests, strict=True)
    )
    cells = {cell.condition: cell for cell in committed.cells}
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
