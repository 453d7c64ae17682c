"""What the checks share: requests, methods at a budget, and answers whose logits are seen on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vlmbench.conditions import Part
from vlmbench.engine.prepare import Preparer
from vlmbench.engine.recorder import Recorder
from vlmbench.models.before import Told
from vlmbench.models.features import EncoderOutput, ImageFeatures, VisualInput
from vlmbench.models.pruning import Applied
from vlmbench.prune import PRUNERS
from vlmbench.seeds import seed_for

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.models.adapter import Adapter
    from vlmbench.models.decoding import Generation
    from vlmbench.models.inputs import RowInputs
    from vlmbench.prune.base import Pruner

RATIOS = (0.25, 0.5, 0.9)

SHARE = {"float32": 2e-5, "float16": 5e-3, "bfloat16": 3e-2}
"""Of the largest logit: what another order of additions may change, per dtype."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One request: a rendered prompt with its images."""

    key: str
    prompt: str
    images: tuple[Image.Image, ...]
    row: RowInputs
    question: str
    """The bare one, without options and instruction."""


@dataclass(frozen=True)
class Method:
    """A pruner as it was asked for; without a budget of its own it is checked at those of the bench."""

    part: Part

    @property
    def name(self) -> str:
        return self.part.label

    @property
    def stage(self) -> str:
        return self._build().stage

    @property
    def merges(self) -> bool:
        return self._build().merges

    @property
    def has_positions(self) -> bool:
        return "positions" in self.part.parameters

    def budgets(self, ratios: Sequence[float]) -> list[Pruner]:
        """At its own budget, else at each of `ratios`; once where it has none."""
        given = self.part.parameters
        if "ratio" not in given or given["ratio"] or given.get("keep"):
            return [self._build()]
        return [self._build(ratio=ratio) for ratio in ratios]

    def keeping_all(self) -> Pruner:
        return self._build(ratio=0.0, keep=0)

    def seeds(self, run_seed: int, sample: Sample, images: int) -> tuple[int, ...]:
        draw = PRUNERS.get(self.part.name).draw_key(self.part)
        return tuple(seed_for(run_seed, sample.key, i, *draw) for i in range(images))

    def _build(self, **changes: Any) -> Pruner:
        known = self.part.parameters
        part = replace(self.part, params=tuple({**known, **_only(changes, known)}.items()))
        return cast("Pruner", PRUNERS.get(part.name).build(part))


def _only(changes: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name in known}


@dataclass(frozen=True, eq=False)
class Answers:
    """What B rows answered: the text, and the logits behind it."""

    logits: Tensor
    """[T, B, V] float32, on the CPU."""
    generations: Sequence[Generation]

    def steps(self, row: int) -> Tensor:
        """[t, V]: of the tokens that the row's answer is made of."""
        return self.logits[: self.generations[row].new_tokens, row]

    @property
    def scale(self) -> float:
        return max(1.0, float(self.logits.abs().max()))


def _region(features: ImageFeatures) -> tuple[Tensor, ...]:
    """Evidence for methods that must be told the region: one box, the left half of each image's grid."""
    columns = [image.grid[:, 2] for image in features.images]
    return tuple((column < column.max() / 2).float()[:, None] for column in columns)


def difference(one: Answers, row: int, other: Answers, other_row: int) -> float:
    """Largest absolute difference of logits, as long as both rows go on with the same tokens."""
    worst = 0.0
    for a, b in zip(one.steps(row), other.steps(other_row), strict=False):
        gap = (a - b).abs().max()
        worst = max(worst, float("inf") if bool(gap.isnan()) else float(gap))
        if int(a.argmax()) != int(b.argmax()):
            break
    return worst


@contextmanager
def watching(model: Any) -> Iterator[list[Tensor]]:
    """The logits [B, V] of the last column of every forward pass inside."""
    seen: list[Tensor] = []

    def see(module: Any, args: Any, output: Any) -> None:
        seen.append(output.logits[:, -1].detach().to("cpu", torch.float32, copy=True))

    handle = model.register_forward_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class Pruned:
    """One batch under a method, by the adapter's own way, with everything that an oracle must know."""

    pruner: Recorder
    rows: Sequence[RowInputs]
    seeds: Sequence[tuple[int, ...]]
    encoded: EncoderOutput
    visual: Sequence[ImageFeatures | VisualInput]
    newline: str
    answers: Answers


@dataclass(frozen=True, eq=False)
class Bench:
    """A model and a few requests. Encodings and answers are kept: methods and checks share them."""

    adapter: Adapter
    samples: tuple[Sample, ...]
    ratios: tuple[float, ...] = RATIOS
    max_new_tokens: int = 4
    newline: str = "counted"
    seed: int = 0
    encodings: dict[frozenset[str], EncoderOutput] = field(default_factory=dict, repr=False)
    runs: dict[str, Pruned] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> list[RowInputs]:
        return [sample.row for sample in self.samples]

    @cached_property
    def plain(self) -> Answers:
        """Of the full model, on an encoding that captures nothing."""
        encoded = self.adapter.encode(self.rows)
        return self.answer(self.rows, encoded, Applied(encoded.features))

    @cached_property
    def singles(self) -> tuple[Bench, ...]:
        """The requests one by one."""
        return tuple(replace(self, samples=(sample,), encodings={}, runs={}) for sample in self.samples)

    def limit(self, answers: Answers) -> float:
        """The largest difference of logits that rounding explains."""
        return SHARE.get(self.adapter.loaded.dtype, SHARE["bfloat16"]) * answers.scale

    def encode(self, needs: frozenset[str]) -> EncoderOutput:
        if needs not in self.encodings:
            self.encodings[needs] = self.adapter.encode(self.rows, needs)
        return self.encodings[needs]

    def answer(self, rows: Sequence[RowInputs], encoded: EncoderOutput, applied: Applied) -> Answers:
        with watching(self.adapter.model) as seen:
            generations = self.adapter.answer(rows, encoded, applied, self.max_new_tokens)
        return Answers(torch.stack(seen), generations)

    def run(self, method: Method, pruner: Pruner) -> Pruned:
        """`run_again`, once for all checks."""
        key = f"{method.name} {pruner}"
        if key not in self.runs:
            self.runs[key] = self.run_again(method, pruner)
        return self.runs[key]

    def run_again(self, method: Method, pruner: Pruner, fresh: bool = False) -> Pruned:
        """The whole way: encode (anew where `fresh`), prune, answer.

        Raises NotApplicableError or UsageError where the method cannot serve the model.
        """
        bench = self.smaller(pruner) if pruner.stage == "image" else self
        rows = bench.rows
        encoded = self.adapter.encode(rows, pruner.needs) if fresh else bench.encode(pruner.needs)
        seeds = [
            method.seeds(self.seed, sample, len(features.images))
            for features, sample in zip(encoded.features, self.samples, strict=True)
        ]
        recorder = Recorder(pruner)
        told = [
            Told(sample.question, _region(features))
            for sample, features in zip(self.samples, encoded.features, strict=True)
        ]
        applied = self.adapter.apply(
            cast("Pruner", recorder), rows, encoded.features, seeds, self.newline, told
        ).served()
        answers = self.answer(rows, encoded, applied)
        visual = cast("Sequence[ImageFeatures | VisualInput]", applied.visual)
        return Pruned(recorder, rows, seeds, encoded, visual, self.newline, answers)

    def smaller(self, pruner: Pruner) -> Bench:
        """The requests with the images that a method of stage `image` makes. Raises NotApplicableError."""
        preparer = Preparer(self.adapter, self.seed, {})
        samples = []
        for sample in self.samples:
            images = preparer.smaller(sample.images, pruner)
            row = self.adapter.prepare(sample.prompt, images, self.max_new_tokens)
            samples.append(replace(sample, images=images, row=row))
        return replace(self, samples=tuple(samples), encodings={}, runs={})
