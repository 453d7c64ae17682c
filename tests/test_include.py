"""Perturbations of third parties: one that fails on an item leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runs import write_task

from vlmbench.cli.app import run as vlmbench
from vlmbench.engine.store import read_records
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.text import QUESTIONS
from vlmbench.schema import State, Table

MINE = """
from dataclasses import dataclass
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.text import QUESTIONS
from vlmbench.perturb.transforms import Affine
from vlmbench.registry import Entry

@dataclass(frozen=True)
class Narrow:
    def risks(self):
        return frozenset()

    def __call__(self, image, seed):
        return {56: (image.rotate(180), Affine((1, 0, 0, 0, 1, 0), image.size, image.size))}[image.width]

@dataclass(frozen=True)
class Cats:
    def __call__(self, item, seed):
        return item.changed(question={True: "is there a cat ?"}["cat" in item.question])

IMAGES.add(Entry("narrow", Narrow, "fails on wide pictures"))
QUESTIONS.add(Entry("cats", Cats, "fails without a cat"))
"""


@pytest.mark.parametrize(
    ("name", "failing"), [("narrow", {"1-0", "1-1", "2-0", "2-1"}), ("cats", {"0-0", "1-0", "2-0"})]
)
def test_what_fails_in_somebody_s_code_is_the_item_s_error(
    name: str, failing: set[str], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    mine = tmp_path / f"mine_{name}.py"
    mine.write_text(MINE)
    task, out = write_task(tmp_path), tmp_path / "run"
    words = ["perturb", "--model", str(tiny_model("llava")), "--task", str(task), "--perturb", name]
    try:
        assert vlmbench([*words, "--include", str(mine), "--repeats", "0", "--out", str(out)]) == 3
        found = {item: r for (_, item, condition), r in read_records(out).items() if condition == name}
        assert {item for item, record in found.items() if record.state is State.ERROR} == failing
        details = {record.detail for record in found.values() if record.state is State.ERROR}
        assert all(detail.startswith("perturbation") and "failed: KeyError" in detail for detail in details)
        assert Table.read(out).status == "partial"
    finally:
        IMAGES._entries.pop("narrow")
        QUESTIONS._entries.pop("cats")
