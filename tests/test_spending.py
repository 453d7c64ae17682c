"""What a cell tells of its visual tokens and cost, from records written by hand."""

from __future__ import annotations

import pytest

from vlmbench.metrics.cost import LlmShape, kv_bytes, prefill_macs
from vlmbench.metrics.spending import cost, tokens
from vlmbench.report.pruning import _tokens
from vlmbench.schema import Record, State

LLM = LlmShape(layers=5, width=8, q_width=8, kv_width=8, ffn=16, gated=True, vocabulary=50)
CUTS = [[50, 50, 20, 20, 4], [30, 30, 16, 16, 8]]
"""Of two requests, with two cuts each."""


def record(visual: int, layers: list[int] | None) -> Record:
    return Record(
        task="t",
        item="i",
        condition="c",
        key="k",
        state=State.PARSED,
        prompt_tokens=visual + 10,
        visual_tokens=visual,
        layer_tokens=layers,
    )


def test_tokens_are_told_before_between_and_behind_the_cuts() -> None:
    records = [record(layers[0], layers) for layers in CUTS]
    found = tokens(LLM, records)
    assert found is not None
    assert (found.before, found.entered, found.average, found.last) == (40, 40, pytest.approx(24.4), 6)
    assert found.layers == [40, 40, 18, 18, 6]
    assert _tokens(found) == "24 (6)"
    lengths = [[10 + n for n in layers] for layers in CUTS]
    assert cost(LLM, 2, records) == {
        "prefill_macs": sum(prefill_macs(LLM, each) for each in lengths) / 2,
        "kv_bytes": sum(kv_bytes(LLM, each, 2) for each in lengths) / 2,
    }


def test_tokens_cut_before_the_model_and_not_at_all() -> None:
    for layers, last in ((None, 40), ([8] * 5, 8)):
        found = tokens(LLM, [record(40, layers)])
        assert found is not None
        assert (found.before, found.entered, found.average, found.last) == (40, last, last, last)
        assert _tokens(found) == str(last)
    assert tokens(LLM, [record(0, None).model_copy(update={"visual_tokens": None})]) is None
