"""What sensitivity is on a family, measured on the model itself, and which methods the model can serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vlmbench.cli.app import run as command
from vlmbench.experiments.sensitivity import ModelReport, Sensitivity, describe_model, spearman

Tiny = Callable[[str], Path]


@pytest.fixture(scope="module")
def report(tiny_model: Tiny) -> Callable[[str], ModelReport]:
    known: dict[str, ModelReport] = {}

    def of(family: str) -> ModelReport:
        if family not in known:
            known[family] = describe_model(str(tiny_model(family)))
        return known[family]

    return of


@pytest.mark.parametrize(
    ("family", "kind"), [("llava", "real"), ("gemma3", "1/RMS"), ("paligemma", "constant")]
)
def test_families_are_told_apart(family: str, kind: str, report: Callable[[str], ModelReport]) -> None:
    found = report(family).sensitivity
    assert found is not None
    assert (found.kind, found.exact, found.pictures) == (kind, True, 4)
    first, figures = found.lines()
    assert first.startswith(f"sensitivity: {'only 1/RMS' if kind == '1/RMS' else kind}")
    assert f"on {found.tokens:,} visual tokens of 4 rendered scenes" in figures
    if kind == "constant":
        assert found.variation < 1e-4
        assert found.with_inverse_rms is None
    else:
        assert found.variation > 0.01
        assert found.with_inverse_rms is not None
        assert (found.with_inverse_rms >= 0.999) == (kind == "1/RMS")


def test_methods_that_lack_something_say_what(report: Callable[[str], ModelReport]) -> None:
    served = {each.method: each.reason for each in report("llava").served}
    for name in ("zoo", "divprune", "visionzip", "random", "identity", "blind", "swapped"):
        assert served[name] is None, name
    assert "fixed resolution" in (served["downsample"] or "")


def test_ranks_share_ties() -> None:
    one = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert spearman(one, one.square()) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)


def test_a_sensitivity_that_almost_is_1_over_rms_is_not_called_more() -> None:
    near = Sensitivity("real", True, 0.16, 0.95, -0.1, 4, 144).lines()[0]
    far = Sensitivity("real", True, 0.16, 0.2, -0.1, 4, 144).lines()[0]
    assert near.endswith("but most of its order is that of 1/RMS")
    assert far.endswith("and says more than their inputs' size")


def test_the_command_prints_both(tiny_model: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["list", "pruners", "--model", str(tiny_model("paligemma"))]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "sensitivity: constant" in printed
    assert "divprune yes" in printed
    assert "downsample no" in printed


def test_a_model_goes_with_pruners_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["list", "tasks", "--model", "demo"]) == 2
    assert "--model goes with `list pruners` only" in capsys.readouterr().err
