"""Stage 0: train the vision tower on the dense pretext."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionModel

from demo_training.checkpoints import Checkpoint
from demo_training.data import Views
from demo_training.muon import Optimisers, trapezoid
from demo_training.parallel import rank_and_world, same_start, wait
from demo_training.pretext import PretextHeads, patch_truth


def run(
    vision: CLIPVisionModel, views: Views, out: Path, steps: int, batch: int, seed: int,
    device: torch.device, resume: bool, learning_rate: float = 1.0,
) -> PretextHeads:  # fmt: skip
    """Train `vision` in place; returns the heads, which stage B uses again."""
    heads = PretextHeads(vision.config.hidden_size).to(device)
    optimisers = Optimisers(
        vision.encoder, [vision, heads], adam=1.5e-3 * learning_rate, muon=4.5e-3 * learning_rate
    )
    checkpoint = Checkpoint(out / "vision.safetensors", {"vision": vision, "heads": heads}, optimisers)
    step = checkpoint.load() if resume else 0
    same_start([vision, heads])
    rank, world = rank_and_world()
    batch //= world
    start, recent = time.monotonic(), dict[str, float]()
    while step < steps:
        if step % 200 == 0:
            views.refresh()
        random = np.random.RandomState((seed, 0, step, rank))
        masters = random.randint(0, len(views), batch)
        pixels, objects, masks = (
            t.to(device, non_blocking=True) for t in views.batch(masters, random.randint(0, 2, batch))
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = vision(pixels, output_hidden_states=True).hidden_states
        loss, report = heads(hidden, patch_truth(objects, masks))
        loss.backward()
        optimisers.step(trapezoid(step, steps))
        step += 1
        for name, value in {"loss": loss.item(), **report}.items():
            recent[name] = recent.get(name, value) * 0.98 + value * 0.02
        if step % 100 == 0 and rank == 0:
            pace = (time.monotonic() - start) / 100
            line = " ".join(f"{name} {value:.3f}" for name, value in recent.items())
            print(f"{time.strftime('%H:%M:%S')} vision {step}/{steps} {pace:.3f} s/step {line}", flush=True)
            start = time.monotonic()
        if step % 1000 == 0 or step == steps:
            checkpoint.save(step)
    wait()
    return heads
