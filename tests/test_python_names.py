"""The Python names that others rely on, and the README's example of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_table import small_table

import vlmbench
from vlmbench.errors import UsageError
from vlmbench.prune.base import Context
from vlmbench.report.printing import markdown
from vlmbench.schema import Table

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "load",
    "pruning",
    "run",
    "compare",
    "prune.get",
    "perturb.get",
    "tasks.scorers.get",
    "Table.read",
    "Table.to_pandas",
    "Table.to_markdown",
)


@pytest.mark.parametrize("name", [name for name in NAMES if "." in name])
def test_a_name_is_there_after_a_plain_import(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import vlmbench; print(callable(vlmbench.{name}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_scorers_are_there_whatever_was_imported_before() -> None:
    script = "import vlmbench.tasks.load; print(vlmbench.tasks.scorers.get('vqa')('a', ['a'] * 3))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 1


def test_what_is_listed_is_there() -> None:
    assert {name for name in NAMES if "." not in name} <= set(vlmbench.__all__)
    assert all(hasattr(vlmbench, name) for name in vlmbench.__all__)


def test_a_pruner_a_perturbation_and_a_scorer_by_name() -> None:
    features = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 3).float()
    grid = torch.tensor([[0, 0, column] for column in range(4)])
    kept = vlmbench.prune.get("divprune")().select(Context(features, grid), 3)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [0, 2, 3]  # the copy of token 0 goes
    assert vlmbench.prune.get("zoo")(ratio=0.9).ratio == 0.9
    image = Image.effect_noise((12, 9), 50).convert("RGB")
    moved, transform = vlmbench.perturb.get("shift")(image, dx=2, dy=0, seed=0)
    assert moved.crop((2, 0, 12, 9)).tobytes() == image.crop((0, 0, 10, 9)).tobytes()
    assert transform is not None
    assert vlmbench.tasks.scorers.get("vqa")("two", ["2", "2", "3"]) == pytest.approx(2 / 3)


def test_a_table_as_markdown_and_as_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    table = small_table()
    assert table.to_markdown() == markdown(table)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"^to_pandas needs pandas, .*: pip install pandas$"):
        table.to_pandas()
    monkeypatch.undo()
    pytest.importorskip("pandas")
    table = Table.read(ROOT / "results" / "demo-perturb.json")
    frame = table.to_pandas()
    assert list(frame["condition"]) == [cell.condition for cell in table.cells]
    lows = [cell.metrics["flip_rate"].low for cell in table.cells if "flip_rate" in cell.metrics]
    known = [low for low in lows if low is not None]
    assert frame["flip_rate.low"].dropna().tolist() == known
    assert len(known) > 50


def test_the_readmes_example_runs_as_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## From Python")[1]
    code = section.split("```python\n")[1].split("```")[0]
    for folder in ("results", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["verdict"].ok  # type: ignore[attr-defined]
    assert names["score"] == pytest.approx(2 / 3)
    assert list(tmp_path.glob("runs/*/table.json"))
