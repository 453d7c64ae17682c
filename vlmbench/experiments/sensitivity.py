"""`list pruners --model`: what sensitivity is on this model, measured, and which methods it can serve.

ZOO-Prune (https://arxiv.org/abs/2509.24837) weighs tokens by how strongly the projector answers to them. What
that weight says depends on the projector: it is the same for all tokens behind a linear map, no more than the
inverse size of a token behind a norm and a linear map, and something of its own behind an MLP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vlmbench.errors import UsageError, VlmbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.conditions import Part
    from vlmbench.engine.compute import Answerer
    from vlmbench.engine.prepare import Preparer
    from vlmbench.items import Item
    from vlmbench.models.adapter import Adapter

PICTURES = 4
"""Scenes of the demo that sensitivity is measured on."""

SAME_ORDER = 0.999
"""Spearman's correlation from which on two scores order tokens alike."""

_NEAR = 0.9

Kind = Literal["constant", "1/RMS", "real"]


@dataclass(frozen=True)
class Sensitivity:
    """Means over pictures; correlations are Spearman's, None where the sensitivity is constant."""

    kind: Kind
    exact: bool
    """False where the projector has no closed form and random directions stand in."""
    variation: float
    """Standard deviation over mean, across the tokens of a picture."""
    with_inverse_rms: float | None
    """With 1/RMS of the token at the projector's input."""
    with_norm: float | None
    """With the norm of the token at the projector's output."""
    pictures: int
    tokens: int
    """Of all pictures."""

    def lines(self) -> tuple[str, ...]:
        """What it means, in plain words, with the figures."""
        how = "measured exactly" if self.exact else "measured in random directions"
        over = f"{how} on {self.tokens:,} visual tokens of {self.pictures} rendered scenes"
        if self.kind == "constant":
            return (
                "sensitivity: constant. Every token has the same, so it cannot choose among them: "
                "zoo keeps what divprune keeps",
                f"{over}: coefficient of variation {self.variation:.2g}",
            )
        figures = (
            f"{over}: coefficient of variation {self.variation:.3f}, Spearman {self.with_inverse_rms:.4f} "
            f"with 1/RMS of the projector's input, {self.with_norm:.4f} with the norm of its output"
        )
        if self.kind == "1/RMS":
            return (
                "sensitivity: only 1/RMS of a token at the projector's input. It orders tokens as their "
                "inverse size does: zoo prefers small inputs, and inv-rms does the same without a projector",
                figures,
            )
        near = abs(self.with_inverse_rms or 0.0) >= _NEAR
        more = "but most of its order is that of 1/RMS" if near else "and says more than their inputs' size"
        share = f"{100 * self.variation:.2g} % of its mean"
        return f"sensitivity: real. It differs between tokens, by {share}, {more}", figures


@dataclass(frozen=True)
class Served:
    """One method on this model."""

    method: str
    reason: str | None
    """Why the model cannot serve it; None where it can."""


@dataclass(frozen=True)
class ModelReport:
    """What a model makes of the pruners."""

    model: str
    family: str
    dtype: str
    sensitivity: Sensitivity | None
    without: str
    """Why there is no sensitivity; empty where there is one."""
    served: tuple[Served, ...]


def describe_model(model: str) -> ModelReport:
    """Loads the model and tries every registered method on rendered scenes. Raises UsageError."""
    from vlmbench.engine.compute import Answerer
    from vlmbench.engine.prepare import Preparer
    from vlmbench.engine.sight import Sight
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.loading import load_model
    from vlmbench.prune import PRUNERS
    from vlmbench.tasks.load import load_tasks
    from vlmbench.tasks.scorers import get as get_scorer

    loaded = load_model(model)
    adapter = Adapter(loaded)
    (task,) = load_tasks(["demo"])
    by_picture = {item.images[0].key: item for item in task.items(limit=16 * PICTURES, seed=0)}
    items = sorted(by_picture.values(), key=lambda item: not item.boxes)[:PICTURES]
    lengths = {task.name: 1}
    scorers = {task.name: get_scorer(task.spec.scorer, **task.spec.scorer_params)}
    answerer = Answerer(Sight(adapter), scorers, lengths, "", 0.0)
    preparer = Preparer(adapter, 0, lengths)
    sensitivity, without = None, ""
    try:
        sensitivity = measure(adapter, preparer, task.name, items)
    except VlmbenchError as error:
        without = str(error)
    served = []
    for entry in PRUNERS:
        budget = {"ratio": 0.5} if any(p.name == "ratio" for p in entry.params) else {}
        served.append(Served(entry.name, why_not(answerer, preparer, task.name, items, entry.part(**budget))))
    family = str(adapter.model.config.model_type)
    return ModelReport(loaded.id, family, loaded.dtype, sensitivity, without, tuple(served))


def measure(adapter: Adapter, preparer: Preparer, task: str, items: Sequence[Item]) -> Sensitivity:
    """The sensitivity of every visual token of the items' pictures.

    Raises UsageError for a model whose projector cannot be told, and where no picture can be shown.
    """
    from vlmbench.prune.sensitivity import exact, is_constant

    projector = adapter.projector
    variations, inverse, norms, constant, tokens = [], [], [], [], 0
    for x, z in _tokens(adapter, preparer, task, items):
        s = exact(projector, x)
        x, z = x.float(), z.float()
        tokens += len(s)
        variations.append(float(s.std(correction=0) / s.mean()))
        constant.append(is_constant(s))
        if not constant[-1]:
            rms = x.flatten(1).square().mean(1).sqrt()
            inverse.append(spearman(s, 1 / rms))
            norms.append(spearman(s, z.norm(dim=1)))
    if not constant:
        raise UsageError("no rendered scene could be shown to this model")
    kind: Kind = "real"
    if not inverse:
        kind = "constant"
    elif min(inverse) >= SAME_ORDER:
        kind = "1/RMS"
    return Sensitivity(
        kind,
        projector.form is not None,
        _mean(variations) or 0.0,
        _mean(inverse),
        _mean(norms),
        len(constant),
        tokens,
    )


def spearman(one: Tensor, two: Tensor) -> float:
    """Rank correlation of two scores [n], equal values sharing the mean of their ranks."""
    from scipy.stats import spearmanr

    return float(spearmanr(one.double().cpu().numpy(), two.double().cpu().numpy()).statistic)


def why_not(
    answerer: Answerer, preparer: Preparer, task: str, items: Sequence[Item], part: Part
) -> str | None:
    """Why the model cannot serve a method, in one line; None where one request goes the whole way."""
    from collections import OrderedDict

    from vlmbench.conditions import Condition
    from vlmbench.engine.plan import Request, pruner_of
    from vlmbench.engine.prepare import Settled

    request = Request(task, items[0], Condition(prune=part))
    try:
        pruner = pruner_of(request.condition)
        prepared = preparer.prepare(request)
        if isinstance(prepared, Settled):
            return prepared.detail
        needs = pruner.needs if pruner is not None else frozenset()
        alone = replace(answerer, needs=needs, encodings=OrderedDict())
        (outcome,) = alone.forward([prepared], 1, 1, {"encode": 0.0, "generate": 0.0})
    except VlmbenchError as error:
        return str(error)
    return str(outcome) if isinstance(outcome, Exception) else None


def _tokens(
    adapter: Adapter, preparer: Preparer, task: str, items: Sequence[Item]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(X [n, P, c], Z [n, d]) of each picture, without tokens that no patch made."""
    from vlmbench.conditions import CLEAN
    from vlmbench.engine.plan import Request
    from vlmbench.engine.prepare import Prepared

    for item in items:
        prepared = preparer.prepare(Request(task, item, CLEAN))
        if not isinstance(prepared, Prepared):
            continue
        (features,) = adapter.encode([prepared.row], frozenset({"projector_in"})).features
        for image in features.images:
            if image.projector_in is not None:
                seen = image.grid[:, 1] >= 0
                yield image.projector_in[seen], features.rows[image.start : image.stop][seen]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
