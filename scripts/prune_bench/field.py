"""Every method of the registry at one budget: what it takes, beside the prefill that it saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch

from vlmbench.engine.timing import interleave
from vlmbench.engine.timing_stages import Ready, apply, encode
from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.before import Told
from vlmbench.prune import PRUNERS, RATIO

from .lines import Line, line, method
from .models import SEED, Case

SLOWEST_MS = 10.0
"""Aimed at for a selection of 64 of 576 on a CPU."""


def bench_field(
    case: Case, keep: int, repeats: int, device: torch.device, seconds: Callable[[], float]
) -> Iterator[Line]:
    """Per method, before the language model: the method itself, and that as a share of the prefill saved;
    inside it: the prefill as a share of the full one, the method in it."""
    section = f"field: {case.name}, {keep} of {case.tokens} tokens, batch 1"
    adapter = case.adapter(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    row = case.row()
    evidence = torch.zeros(case.tokens)
    evidence[: case.tokens // 8] = 8 / case.tokens
    ready = {"full": Ready([row])}
    for entry in PRUNERS:
        pruner = method(entry.name, keep=keep) if RATIO in entry.params else None
        if pruner is not None and pruner.stage != "image" and not entry.derived:
            ready[entry.name] = Ready([row], pruner, [(SEED,)], told=[Told("", (evidence,))])

    def measure(name: str) -> tuple[float, float]:
        start = seconds()
        applied = apply(adapter, ready[name], encoded[name])
        inputs = adapter.model_inputs([row], encoded[name], applied)
        adapter.synchronize()
        middle = seconds()
        with adapter.program(inputs, applied):
            adapter.model(**inputs, use_cache=True, logits_to_keep=1)
        adapter.synchronize()
        return (middle - start) * 1e3, (seconds() - middle) * 1e3

    with torch.inference_mode():
        encoded = {name: encode(adapter, each) for name, each in ready.items()}
        for name in [*ready]:
            try:
                measure(name)
            except (NotApplicableError, UsageError) as reason:
                print(f"  {name}: left out: {reason}")
                del ready[name]
        found = interleave([*ready], measure, repeats, SEED)
    plain = statistics.median(assembling for assembling, _ in found["full"])
    yield from line(section, "full: prefill", [prefill for _, prefill in found["full"]], "ms")
    for name, each in ready.items():
        pairs = list(zip(found[name], found["full"], strict=True))
        if each.pruner is None:
            continue
        if each.pruner.stage == "llm":
            share = [(own[0] + own[1]) / (full[0] + full[1]) for own, full in pairs]
            yield from line(section, f"{name}: prefill / full, method included", share)
            continue
        taken = [own[0] - plain for own, _ in pairs]
        saved = [full[1] - own[1] for own, full in pairs]
        yield from line(section, f"{name}: method", taken, "ms", aim=SLOWEST_MS)
        yield from line(
            section, f"{name}: method / prefill saved", [t / s for t, s in zip(taken, saved, strict=True)]
        )
