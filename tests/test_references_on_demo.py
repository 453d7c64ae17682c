"""The authors' code beside ours on tensors of the embedded demo model, which the tests compute again.

The fixtures hold what their code kept; `what` says which function of theirs ran on which tensors. Those of
FasterVLM and VisPruner are in test_prune_encoder_methods.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import vlmbench.demo
from vlmbench.demo.task import rows
from vlmbench.engine.recorder import Recorder
from vlmbench.models.adapter import Adapter
from vlmbench.models.before import Told
from vlmbench.models.loading import load_model
from vlmbench.prune import get
from vlmbench.prune.base import Context, Pruner

REFERENCES = Path(__file__).parent / "data" / "references"
DEMO = Path(vlmbench.demo.__file__).parent / "model"


def recorded(name: str) -> list[Any]:
    cases = json.loads((REFERENCES / f"{name}.json").read_text("utf-8"))["demo"]["cases"]
    short = ("keep", "a", "share", "budget")
    return [
        pytest.param(case, id=" ".join([case["item"], *(f"{k}={case[k]}" for k in short if k in case)]))
        for case in cases
    ]


@cache
def adapter() -> Adapter:
    return Adapter(load_model(str(DEMO), dtype="float32", device="cpu"))


@cache
def context(name: str, row: int) -> Context:
    """What a method is given of a row of the demo's test split."""
    (item,) = rows(60, "test").read(["id", "question"], [row])
    image = rows(60, "test").images(row, ())[0].load()
    prompt = adapter().render(item["question"], 1)
    prepared = adapter().prepare(prompt, [image], 1)
    recorder = Recorder(get(name)(keep=72))
    encoded = adapter().encode([prepared], recorder.needs)
    pruner = cast("Pruner", recorder)
    told = [Told(item["question"])]
    applied = adapter().apply(pruner, [prepared], encoded.features, [(0,)], told=told).served()
    adapter().answer([prepared], encoded, applied, 1)
    ((ctx, _, _),) = recorder.chosen or recorder.reduced
    return ctx


@pytest.mark.parametrize("case", recorded("cdpruner"))
def test_cdpruner_llm(case: dict[str, Any]) -> None:
    """Their determinantal point process, under the relevance by the language model's own words. On purpose
    the lowest index wins where gains are less than 1e-6 apart, theirs by rounding errors."""
    kept = get("cdpruner-llm")().select(context("cdpruner-llm", case["row"]), case["keep"]).tolist()
    assert set(kept) ^ set(case["kept"]) == set(case.get("tied", ()))
    assert len(kept) == len(case["kept"])


@pytest.mark.parametrize("case", recorded("mmtok"))
def test_mmtok(case: dict[str, Any]) -> None:
    """On purpose unlike their whole method: here theirs reads the question's stop words too."""
    assert get("mmtok")().select(context("mmtok", case["row"]), case["keep"]).tolist() == case["kept"]


@pytest.mark.parametrize("case", recorded("hiprune"))
def test_hiprune(case: dict[str, Any]) -> None:
    """No anchor lies at the border here, where ours differ on purpose: see test_prune_encoder_methods."""
    kept = get("hiprune")(a=case["a"]).select(context("hiprune", case["row"]), case["keep"])
    assert kept.tolist() == case["kept"]


@pytest.mark.parametrize("case", recorded("prumerge"))
def test_prumerge(case: dict[str, Any]) -> None:
    """On purpose ours stand in raster order; neighbours `all` as in their code."""
    ctx = context("prumerge", case["row"])
    kept, features = case["kept"], torch.tensor(case["features"])
    count = "adaptive" if case["share"] is None else "budget"
    k = ctx.n if count == "adaptive" else len(features)
    new = get("prumerge")(count=count, neighbours="all").reduce(ctx, k)
    assert new.position_from[:-1].tolist() == sorted(kept)
    in_raster = [*np.argsort(kept).tolist(), len(kept)]
    torch.testing.assert_close(new.features[:, 0, ::32], features[in_raster], atol=1e-4, rtol=0)


def walked(ctx: Context, pivots: list[int], each: int) -> list[int]:
    """DART as its paper says it, pivots in this order; text behind the image's tokens."""
    assert ctx.llm is not None
    states = ctx.llm.norm(torch.cat([ctx.features, ctx.llm.text])).float()
    kept = [pivot for pivot in pivots if pivot < ctx.n]
    for pivot in pivots:
        cosine = torch.cosine_similarity(states[pivot], states[: ctx.n], dim=-1)
        cosine[kept] = torch.inf
        kept += cosine.argsort()[:each].tolist()
    return sorted(kept)


@pytest.mark.parametrize("case", recorded("dart"))
def test_dart(case: dict[str, Any]) -> None:
    """On purpose our pivots go in the order of the sequence, theirs as Python walks a set, which matters
    where two pivots want the same token; and their count is kept only without `exact_budget`."""
    ctx, each = context("dart", case["row"]), case["budget"] // 8
    ours = get("dart")(exact_budget=False).select(ctx, len(case["kept"])).tolist()
    assert ours == case["kept"] == walked(ctx, sorted(case["pivots"]), each)
    assert case["as_is"] == walked(ctx, case["pivots"], each)
