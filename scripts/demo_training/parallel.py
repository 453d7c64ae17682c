"""Data-parallel training: one process per core, one exchange of gradients per step.

On CPUs this beats one process with as many threads: the operations of a thin model are too short to share,
and on a machine that others use, every one of them would wait for the slower thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn


def start() -> tuple[int, int]:
    """Join the processes of `python -m torch.distributed.run`, if any. Returns rank and world size."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return int(os.environ.get("RANK", "0")), world


def rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def same_start(modules: Iterable[nn.Module]) -> None:
    """Give every process the weights of the first."""
    if dist.is_initialized():
        for module in modules:
            for tensor in module.parameters():
                dist.broadcast(tensor.data, 0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Mean over the processes, in place, in one exchange."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
