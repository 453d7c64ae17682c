"""The training loop: Accelerate for precision and processes, checkpoints that a killed run goes on from.

Each step's loss is the mean over ALL its labelled tokens, whatever the number of parts and processes that it
is cut into; so that these change the result by rounding alone. Nothing is drawn at random but the order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlmbench.errors import UsageError
from vlmbench.roi.rpn_file import CurvePoint
from vlmbench.seeds import seed_for

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlmbench.roi.distilling.states import Lessons, Part
    from vlmbench.roi.rpn import Rpn

WARM_UP = 0.03
"""Share of the steps."""
CLIP = 1.0
"""Largest norm of all gradients together."""


@dataclass(frozen=True)
class Schedule:
    """AdamW without weight decay, linear warm-up, cosine to 0."""

    epochs: int
    batch: int
    """Questions per step, over all processes."""
    parts: int
    """Into which a step is cut."""
    rate: float
    """Largest learning rate."""
    every: int
    """Steps between two checkpoints, at which held-out maps are measured."""
    seed: int

    def steps(self, n: int) -> list[tuple[Part, ...]]:
        """The parts of each step of all epochs, over n questions. The questions of a step stay together, so
        that what was computed for them serves every epoch; the order of the steps changes."""
        order = _shuffled(n, seed_for(self.seed, "lessons"))
        groups = [_cut(group, self.parts) for group in _cut(order, max(1, n // self.batch))]
        return [
            groups[i]
            for epoch in range(self.epochs)
            for i in _shuffled(len(groups), seed_for(self.seed, "epoch", epoch))
        ]

    def rate_at(self, step: int, steps: int) -> float:
        """Of step `step`, from 0, of `steps`."""
        warm = max(1, math.ceil(WARM_UP * steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


@dataclass(frozen=True)
class Now:
    """Where training stands."""

    step: int
    steps: int
    loss: float
    quality: float | None = None
    """Of held-out maps; None between two measurements."""


def accelerator_of(on_cpu: bool, precision: str) -> Accelerator:
    """For one training. Accelerate remembers the precision of the first one in a process, else."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def train(
    rpn: Rpn,
    lessons: Lessons,
    schedule: Schedule,
    accelerator: Accelerator,
    quality: Callable[[], float],
    state: Path,
    tell: Callable[[Now], None],
) -> tuple[CurvePoint, ...]:
    """Trains `rpn` in place, in float32, on all processes; goes on from the file `state` where there is one,
    and writes it. Returns loss, mean since the point before, and held-out quality.

    Raises UsageError where the loss is not finite.
    """
    rpn.float().requires_grad_(True)
    network, optimiser = accelerator.prepare(
        rpn, torch.optim.AdamW(rpn.parameters(), lr=schedule.rate, weight_decay=0.0)
    )
    plan = schedule.steps(len(lessons.lessons))
    curve = _resume(state, rpn, optimiser, accelerator)
    losses: list[float] = []
    for step in range(curve[-1].step if curve else 0, len(plan)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate_at(step, len(plan))
        losses.append(_step(network, optimiser, lessons, plan[step], accelerator))
        if not math.isfinite(losses[-1]):
            raise UsageError(
                f"the loss is not finite at step {step + 1} of {len(plan)}: give a smaller --lr than "
                f"{schedule.rate:g}, or --mixed-precision no"
            )
        done, measured = step + 1, None
        if done % schedule.every == 0 or done == len(plan):
            measured = quality()
            curve.append(
                CurvePoint(step=done, loss=round(sum(losses) / len(losses), 6), quality=round(measured, 6))
            )
            losses.clear()
            _save(state, rpn, optimiser, accelerator, curve)
        tell(Now(done, len(plan), losses[-1] if losses else curve[-1].loss, measured))
    accelerator.wait_for_everyone()
    return tuple(curve)


def _step(
    network: Any, optimiser: Any, lessons: Lessons, parts: Sequence[Part], accelerator: Accelerator
) -> float:
    """The step's mean loss."""
    cells = max(1, sum(lessons.lessons[i].cells for part in parts for i in part))
    world = accelerator.num_processes
    mine = parts[accelerator.process_index :: world]
    optimiser.zero_grad()
    total = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(mine):
        last = number == len(mine) - 1
        with nullcontext() if last else accelerator.no_sync(network):
            loss = lessons.loss(network, part) / cells
            # processes average their gradients, of what is to be a sum
            accelerator.backward(loss * world)
        total += loss.detach()
    accelerator.clip_grad_norm_(network.parameters(), CLIP)
    optimiser.step()
    return float(accelerator.reduce(total, "sum"))


def _save(
    path: Path, rpn: Rpn, optimiser: Any, accelerator: Accelerator, curve: Sequence[CurvePoint]
) -> None:
    """By the first process; whole or not at all. Tensors with the rest as JSON beside them: nothing that is
    read again can run anything."""
    if accelerator.is_main_process:
        from safetensors.torch import save

        tensors = {f"network.{name}": value for name, value in rpn.state_dict().items()}
        for number, slots in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{slot}": value for slot, value in slots.items()}
        scaler = accelerator.scaler
        told = {
            "scaler": json.dumps(None if scaler is None else scaler.state_dict()),
            "curve": json.dumps([point.model_dump() for point in curve]),
        }
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, told))
        beside.replace(path)
    accelerator.wait_for_everyone()


def _resume(path: Path, rpn: Rpn, optimiser: Any, accelerator: Accelerator) -> list[CurvePoint]:
    """The curve so far; empty where training begins."""
    if not path.exists():
        return []
    from safetensors import safe_open

    network: dict[str, torch.Tensor] = {}
    slots: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, "pt") as file:
        told = file.metadata()
        for key in file.keys():  # noqa: SIM118 - no mapping
            part, _, name = key.partition(".")
            if part == "network":
                network[name] = file.get_tensor(key)
            else:
                number, _, slot = name.partition(".")
                slots.setdefault(int(number), {})[slot] = file.get_tensor(key)
    rpn.load_state_dict(network)
    # the groups hold what the schedule sets at every step
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    scaler = json.loads(told["scaler"])
    if scaler is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(scaler)
    return [CurvePoint(**point) for point in json.loads(told["curve"])]


def _shuffled(n: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _cut(order: Sequence[int], pieces: int) -> tuple[Part, ...]:
    """Into at most so many parts whose sizes differ by one at most."""
    pieces = min(pieces, len(order))
    ends = [len(order) * i // pieces for i in range(pieces + 1)]
    return tuple(tuple(order[a:b]) for a, b in pairwise(ends))
