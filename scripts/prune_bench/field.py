"""Every method of the registry at one budget: what it takes, beside the prefill that it saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmbench.engine.timing import interleave
from vlmbench.engine.timing_stages import Ready, apply, encode
from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.before import Told
from vlmbench.prune import PRUNERS, RATIO
from vlmbench.prune.base import Pruner

from .lines import method
from .models import SEED, Case

VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "zoo, sampled": ("zoo", {"estimator": "sampled"}),
    "zoo+cen": ("zoo", {"cen": True}),
    "divprune+cen": ("divprune", {"cen": True}),
}
INSIDE_RATIO = 0.5
"""Of methods that cut inside the language model: what all of them reach in eight layers."""
FREE = frozenset({"projector_in", "text", "evidence"})
"""Needs that a pass through the vision tower serves anyway."""


@dataclass(frozen=True)
class Cost:
    """One method, in milliseconds per repeat."""

    method: str
    inside: bool
    """Whether it cuts inside the language model."""
    kept: float
    """Of the tokens, over the layers."""
    capture: Sequence[float] | None
    """The pass through the vision tower with what the method needs of it, less the plain one; None where it
    needs nothing beside the tower's output."""
    selection: Sequence[float]
    """The method itself."""
    overhead: Sequence[float]
    """Capture, selection, and what the engine does for it: gathering tokens, cutting the prompt."""
    saved: Sequence[float]
    """Of the prefill; inside the language model less what is captured there."""

    @property
    def share(self) -> list[float]:
        return [taken / saved for taken, saved in zip(self.overhead, self.saved, strict=True)]


@dataclass(frozen=True)
class Field:
    case: str
    tokens: int
    keep: int
    prefill: Sequence[float]
    """Of all tokens, in milliseconds."""
    costs: Sequence[Cost]
    left_out: Mapping[str, str]


class Clocked:
    """Stands in for a pruner and adds up the time that it takes to choose."""

    def __init__(self, pruner: Pruner, seconds: Callable[[], float]) -> None:
        self._pruner, self._seconds = pruner, seconds
        self.taken = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pruner, name)

    def select_many(self, contexts: Any, ks: Any) -> Any:
        return self._timed(self._pruner.select_many, contexts, ks)

    def reduce_many(self, contexts: Any, ks: Any) -> Any:
        return self._timed(self._pruner.reduce_many, contexts, ks)

    def _timed(self, choose: Callable[[Any, Any], Any], contexts: Any, ks: Any) -> Any:
        cuda = contexts[0].features.is_cuda
        if cuda:
            torch.cuda.synchronize()
        start = self._seconds()
        made = choose(contexts, ks)
        if cuda:
            torch.cuda.synchronize()
        self.taken += self._seconds() - start
        return made


def measure_field(
    case: Case, keep: int, repeats: int, device: torch.device, seconds: Callable[[], float]
) -> Field:
    """All methods on one prompt with one image, taking turns."""
    adapter = case.adapter(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    row = case.row()
    evidence = torch.zeros(case.tokens, 1)
    evidence[: case.tokens // 8] = 8 / case.tokens
    told = [Told("", (evidence,))]
    pruners = _pruners(keep)
    clocked: dict[str, Any] = {name: Clocked(pruner, seconds) for name, pruner in pruners.items()}
    ready = {name: Ready([row], each, [(SEED,)], told=told) for name, each in clocked.items()}
    ready["full"] = Ready([row])

    def passed(name: str) -> tuple[float, float, float]:
        """Selection, everything before the prefill, and the prefill, without the selection inside it."""
        if name in clocked:
            clocked[name].taken = 0.0
        start = seconds()
        applied = apply(adapter, ready[name], encoded[name])
        inputs = adapter.model_inputs([row], encoded[name], applied)
        adapter.synchronize()
        middle = seconds()
        with adapter.program(inputs, applied):
            adapter.model(**inputs, use_cache=True, logits_to_keep=1)
        adapter.synchronize()
        prefill = seconds() - middle
        chosen = clocked[name].taken if name in clocked else 0.0
        inside = name in pruners and pruners[name].stage == "llm"
        before = middle - start + (chosen if inside else 0)
        return chosen * 1e3, before * 1e3, (prefill - (chosen if inside else 0)) * 1e3

    def encoding(needs: frozenset[str]) -> float:
        start = seconds()
        adapter.encode([row], needs)
        adapter.synchronize()
        return (seconds() - start) * 1e3

    def measure(key: str | frozenset[str]) -> Any:
        return passed(key) if isinstance(key, str) else encoding(key)

    left_out: dict[str, str] = {}
    with torch.inference_mode():
        encoded = {name: encode(adapter, each) for name, each in ready.items()}
        for name in [*ready]:
            try:
                passed(name)
            except (NotApplicableError, UsageError) as reason:
                left_out[name] = str(reason)
                del ready[name]
        needs = {name: _captured(pruners[name]) for name in ready if name != "full"}
        found = interleave([*ready, *{frozenset[str](), *needs.values()}], measure, repeats, SEED)

    full, plain = found["full"], found[frozenset[str]()]
    nothing = statistics.median(before for _, before, _ in full)
    costs = []
    for name, needed in needs.items():
        own = found[name]
        capture = [a - b for a, b in zip(found[needed], plain, strict=True)] if needed else None
        extras = capture or [0.0] * repeats
        overhead = [before - nothing + extra for (_, before, _), extra in zip(own, extras, strict=True)]
        saved = [f[2] - o[2] for f, o in zip(full, own, strict=True)]
        inside = pruners[name].stage == "llm"
        kept = (1 - INSIDE_RATIO) * case.tokens if inside else keep
        selection = [chosen for chosen, _, _ in own]
        costs.append(Cost(name, inside, kept, capture, selection, overhead, saved))
    return Field(case.name, case.tokens, keep, [prefill for _, _, prefill in full], costs, left_out)


def _pruners(keep: int) -> dict[str, Pruner]:
    found = {}
    for entry in PRUNERS:
        if RATIO not in entry.params or entry.derived:
            continue
        pruner = method(entry.name, keep=keep)
        if pruner.stage == "llm":
            pruner = method(entry.name, ratio=INSIDE_RATIO)
        if pruner.stage != "image":
            found[entry.name] = pruner
    return found | {told: method(name, keep=keep, **more) for told, (name, more) in VARIANTS.items()}


def _captured(pruner: Pruner) -> frozenset[str]:
    return frozenset(need for need in pruner.needs - FREE if not need.startswith("llm_"))
