"""The margin's gradient with respect to the visual tokens, on every family: the answer's own margin, and
finite differences of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import picture
from tiny_models import FAMILIES
from torch import Tensor

from vlmbench.models.adapter import Adapter
from vlmbench.models.features import EncoderOutput, ImageFeatures
from vlmbench.models.gradient import MarginGradient, last_states, margin_gradients
from vlmbench.models.inputs import RowInputs
from vlmbench.models.loading import load_model
from vlmbench.models.pruning import Applied

NEW = 3
QUESTIONS = ("What colour is it?", "Is there a blue square above the green triangle?")


def encoded(adapter: Adapter) -> tuple[list[RowInputs], EncoderOutput]:
    pictures = picture(1, (100, 100)), picture(2, (90, 60))
    rows = [adapter.prepare(adapter.render(q, 1), [p], NEW) for q, p in zip(QUESTIONS, pictures, strict=True)]
    return rows, adapter.encode(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_margin_and_gradient(tiny_model: Callable[[str], Path], family: str) -> None:
    adapter = Adapter(load_model(str(tiny_model(family)), dtype="float32", device="cpu"))
    adapter.model.double()
    rows, output = encoded(adapter)
    asked = [p.requires_grad for p in adapter.model.parameters()]
    found = margin_gradients(adapter, rows, output, output.features, NEW)
    assert [p.requires_grad for p in adapter.model.parameters()] == asked
    answers = adapter.answer(rows, output, Applied(output.features), NEW)
    for one, answer in zip(found, answers, strict=True):
        assert one.margin == pytest.approx(answer.min_margin, abs=2e-4)
    _check_differences(adapter, rows[:1], output, found[0])
    with torch.no_grad():
        states = last_states(adapter, rows, output, output.features).to(adapter.model.dtype)
        logits = adapter.model.get_output_embeddings()(states)
        cap = getattr(adapter.model.config.get_text_config(), "final_logit_softcapping", None)
        probabilities = (cap * (logits / cap).tanh() if cap else logits).softmax(-1)
    for row, answer in zip(probabilities, answers, strict=True):  # the first token is read from them
        assert float(row.max()) == pytest.approx(answer.prob, abs=1e-4)


def _check_differences(
    adapter: Adapter, rows: list[RowInputs], output: EncoderOutput, found: MarginGradient
) -> None:
    """A step along a random direction changes the margin as its gradient says."""
    whole = output.features[0]
    generator = torch.Generator().manual_seed(0)
    size = 2e-5 * float(whole.rows.norm())
    direction = torch.randn(whole.rows.shape, generator=generator)
    # mostly along the gradient: elsewhere the change drowns in rounding
    direction = direction / direction.norm() + found.gradient[0] / found.gradient[0].norm()
    direction = direction / direction.norm()
    margins = [_margin(adapter, rows, output, whole, sign * size * direction) for sign in (1, -1)]
    slope = float((found.gradient[0] * direction).sum())
    assert (margins[0] - margins[1]) / (2 * size) == pytest.approx(slope, rel=0.05)
    moved = replace(whole, rows=whole.rows + size * direction)
    assert found.forecast(whole, moved) == pytest.approx(found.margin + size * slope, abs=1e-4)
    assert found.forecast(whole, replace(whole, rows=whole.rows[:-1])) is None


def _margin(
    adapter: Adapter, rows: list[RowInputs], output: EncoderOutput, whole: ImageFeatures, step: Tensor
) -> float:
    moved = replace(whole, rows=whole.rows + step)
    return adapter.answer(rows, output, Applied((moved,)), NEW)[0].min_margin
