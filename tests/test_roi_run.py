"""`vlmbench roi` and the crossings: whose network is read, and what stands against what."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import write_task

from vlmbench.cli.app import run as command
from vlmbench.conditions import Condition
from vlmbench.engine.store import read_records
from vlmbench.errors import ExitCode, UsageError
from vlmbench.experiments.networks import SHIPPED
from vlmbench.experiments.options import RunOptions, TimingPlan
from vlmbench.experiments.perturb import PerturbOptions
from vlmbench.experiments.perturb import run as perturb
from vlmbench.experiments.perturb import variations as perturbed
from vlmbench.experiments.prune import PruneOptions
from vlmbench.experiments.prune import run as prune
from vlmbench.experiments.roi import RoiOptions, run
from vlmbench.models.adapter import Adapter
from vlmbench.models.loading import load_model
from vlmbench.roi import get
from vlmbench.roi.rpn import Rpn, RpnShape
from vlmbench.roi.rpn_file import RpnConfig, base_model, save_rpn
from vlmbench.roi.settled import settled
from vlmbench.schema import State
from vlmbench.tasks.load import load_task

Tiny = Callable[[str], Path]
UNTIMED = TimingPlan(0)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


def make_network(model: Path, folder: Path, threshold: float = 0.3) -> RpnConfig:
    """Untrained."""
    adapter = Adapter(load_model(str(model), device="cpu"))
    shape = RpnShape(1, 1, norm=True, rotary=False)
    config = RpnConfig(
        base=base_model(adapter),
        start=1,
        layers=1,
        norm=True,
        rotary=False,
        threshold=threshold,
        training={"task": "own"},
        grounding_heads=((1, 0),),
    )
    save_rpn(folder, Rpn(adapter.model, shape), config)
    return config


def options(model: Path | str, task: Path, out: Path, **more: Any) -> RunOptions:
    return RunOptions(str(model), str(task), out=out, batch_size=4, show_progress=False, **more)


def test_the_network_of_a_run(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    """The one that is named, else the one that lies beside the weights; which one is part of the identity."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llava"), model)
    method = RoiOptions("sd-rpn,raw-attn", timing=UNTIMED)
    with pytest.raises(UsageError, match="sd-rpn needs a region proposal network of model: make one with"):
        run(options(model, task, tmp_path / "none"), method)
    make_network(model, tmp_path / "rpn", threshold=0.3)
    named = run(options(model, task, tmp_path / "named", rpn=tmp_path / "rpn"), method)
    make_network(model, model / SHIPPED, threshold=0.6)
    own = run(options(model, task, tmp_path / "own"), method)
    assert own.table.identity["revision"] == named.table.identity["revision"]
    assert own.table.identity["rpn"] != named.table.identity["rpn"]
    for result, tau in ((named, "0.3"), (own, "0.6")):
        assert any(f"layers 1 to 1, tau {tau}; teacher's heads 1:0" in note for note in result.table.notes)
        assert any(
            "own: the network was distilled on questions of this task" in n for n in result.table.notes
        )
    # a network that was never trained finds something above .3, since sigmoid(0) is .5
    regions = [r.roi for (_, _, c), r in read_records(tmp_path / "named").items() if c == "sd-rpn"]
    assert any(region is not None and region.box is not None for region in regions)
    with pytest.raises(UsageError, match="no method of this run reads a network"):
        run(options(model, task, tmp_path / "vain", rpn=tmp_path / "rpn"), RoiOptions("center"))
    with pytest.raises(UsageError, match="of family llava, but"):
        run(options(tiny_model("qwen2_vl"), task, tmp_path / "other", rpn=tmp_path / "rpn"), method)
    bare = run(options(tiny_model("llava"), task, tmp_path / "bare"), RoiOptions(timing=UNTIMED))
    assert not {"sd-rpn", "confidence"} & {cell.condition for cell in bare.table.cells}
    assert any("sd-rpn and confidence are left out" in note for note in bare.table.notes)


def test_what_a_network_settles(tiny_model: Tiny, tmp_path: Path) -> None:
    config = make_network(tiny_model("llava"), tmp_path)
    assert settled(get("sd-rpn")(), config) == get("sd-rpn")(tau=0.3, rule="components")
    planar = config.model_copy(update={"rotary": True})
    assert settled(get("sd-rpn")(tau=0.1), planar) == get("sd-rpn")(tau=0.1, rule="surrounding")
    assert settled(get("raw-attn")(), config).heads == "1:0"  # type: ignore[attr-defined]
    assert settled(get("raw-attn")(heads="0:1"), config).heads == "0:1"  # type: ignore[attr-defined]
    for name in ("confidence", "replace"):
        inner = settled(get(name)(method="sd-rpn"), config).inner  # type: ignore[attr-defined]
        assert inner == get("sd-rpn")(tau=0.3, rule="components")
    assert settled(get("center")(), config) == get("center")()


def test_a_second_look_crosses_with_perturbations_and_pruners(
    tiny_model: Tiny, task: Path, tmp_path: Path
) -> None:
    """Each counts against the same model on the unchanged input, unpruned where the pruner is what varies."""
    model = tiny_model("llava")
    plan = PerturbOptions(
        families="shift(dx=2)", repeats=1, roi="none,center", prune="none,divprune@0.5", rewrite="none"
    )
    varied = {v.condition.id: v for v in perturbed(plan)}
    assert varied["shift(dx=2)+center+divprune(ratio=0.5)"].reference == "center+divprune(ratio=0.5)"
    assert varied["center+divprune(ratio=0.5)"].reference == "center"
    assert varied["center"].reference == "clean"
    result = perturb(options(model, task, tmp_path / "perturb"), plan)
    assert result.table.status == "complete"
    assert {cell.condition for cell in result.table.cells} == varied.keys()
    assert all(cell.n == cell.n_expected for cell in result.table.cells)
    budgets = PruneOptions("divprune,fastv(K=1)", ratios="0.25", roi="center", timing=UNTIMED)
    pruned = prune(options(model, task, tmp_path / "prune"), budgets)
    cells = {cell.condition: cell for cell in pruned.table.cells}
    assert pruned.table.status == "complete"
    assert cells["center+divprune(ratio=0.25)"].reference == "center"
    assert cells["center+identity"].metrics["flip_rate"].value == 0
    # what shows another picture has no region in it
    assert {cells[name].reference for name in ("blind", "swapped", "downsample(ratio=0.25)")} == {"clean"}
    tokens = {
        name: next(r.visual_tokens for (_, _, c), r in read_records(tmp_path / "prune").items() if c == name)
        for name in ("clean", "center", "center+divprune(ratio=0.25)")
    }
    assert (tokens["center"] or 0) > (tokens["clean"] or 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["roi", "--method", "sd-rp"], "unknown RoI method 'sd-rp': did you mean 'sd-rpn'"),
        (["roi", "--method", ","], "--method names nothing"),
        (["roi", "--method", "center(share=2)"], "share must be in"),
        (["roi", "--rpn", "nowhere"], "nowhere: no region proposal network: config.json is missing"),
        (["roi", "--timing-repeats", "2"], "at least 5"),
        (["roi", "--model", "openai:gpt"], "served model"),
        (["perturb", "--roi", "sd-rpn", "--model", "openai:gpt"], "served model"),
        (["perturb", "--roi", "center", "--forecast"], "leave out --roi center"),
        (["prune", "--roi", "centre"], "unknown RoI method 'centre': did you mean 'center'"),
    ],
)
def test_what_cannot_be_meant(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command([*arguments, "--out", str(tmp_path / "run")]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_no_region_is_the_plain_model(tiny_model: Tiny, task: Path, tmp_path: Path) -> None:
    """Named or not, `none` is the reference itself."""
    result = run(options(tiny_model("llava"), task, tmp_path / "run"), RoiOptions("none", timing=UNTIMED))
    assert [cell.condition for cell in result.table.cells] == [Condition().id]

    assert {r.state for r in read_records(tmp_path / "run").values()} <= {State.PARSED, State.EMPTY}


@pytest.mark.parametrize("experiment", ["perturb", "prune", "roi"])
def test_a_bare_command_asks_a_part_of_the_demo(experiment: str) -> None:
    for name in ("demo", "demo-canvas"):
        limit = load_task(name).spec.default_limit
        assert isinstance(limit, dict)
        assert limit[experiment] <= 105
