"""What a prefill waits for: the launching of its operations, memory, or arithmetic; measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

LAUNCH, MEMORY, COMPUTE, UNKNOWN = "launch", "memory", "compute", "unknown"

LAUNCH_SHARE = 0.8
"""Launch-bound: the CPU is still launching after this share of the time that the device needs."""

NEAR = 0.5
"""On a CPU a resource that works at less than this share of its rate is not what the prefill waits for."""


@dataclass(frozen=True)
class Probe:
    """What the device reaches in this process, now, in the model's dtype."""

    flops: float
    """Per second, of one large matrix product."""
    bytes: float
    """Per second read and written by one large copy."""


def bound_of(
    seconds: float, macs: float | None, weight_bytes: float, probe: Probe, launch_share: float | None
) -> str:
    """`launch`, `memory` or `compute` for a prefill of `seconds`; `unknown` where its MACs are not known.

    macs: of the whole batch, 2 FLOPs each; weight_bytes: what has to be read at least once. launch_share:
    time until the CPU had launched everything / time until the device was done; None on a CPU, which
    launches and computes in one: there a prefill that is near neither rate waits for its many small calls.
    """
    if launch_share is not None and launch_share >= LAUNCH_SHARE:
        return LAUNCH
    if macs is None:
        return UNKNOWN
    compute = 2 * macs / probe.flops / seconds
    memory = weight_bytes / probe.bytes / seconds
    if launch_share is None and max(compute, memory) < NEAR:
        return LAUNCH
    return COMPUTE if compute >= memory else MEMORY


@torch.inference_mode()
def measure_probe(device: torch.device, dtype: torch.dtype) -> Probe:
    """Best of a few tries: a rate that others on the machine disturbed would flatter every prefill."""
    cuda = device.type == "cuda"
    side, count = (8192, 1 << 28) if cuda else (1024, 1 << 24)
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    flops = 2 * side**3 / _fastest(lambda: a @ b, device)
    source = torch.zeros(count, device=device, dtype=dtype)
    target = torch.zeros_like(source)
    moved = 2 * source.numel() * source.element_size()
    return Probe(flops, moved / _fastest(lambda: target.copy_(source), device))


def launch_share(run: Callable[[], object], device: torch.device) -> float | None:
    """Time until the CPU has launched `run` / time until the device is done with it; None without a device.

    A step of `run` that waits for the device counts as launching: nothing else is launched meanwhile.
    """
    if device.type != "cuda":
        return None
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    begin.record()
    start = time.perf_counter()
    run()
    launched = time.perf_counter() - start
    end.record()
    end.synchronize()
    milliseconds = float(begin.elapsed_time(end))
    return launched * 1e3 / max(milliseconds, 1e-6)


def _fastest(run: Callable[[], object], device: torch.device, tries: int = 4) -> float:
    """Seconds of the fastest try behind a warm-up."""
    times = []
    for _ in range(tries + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
