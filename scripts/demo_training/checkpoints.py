"""Resumable training state in one file, replaced atomically."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from demo_training.muon import Optimisers
from demo_training.parallel import rank_and_world


class Checkpoint:
    """Modules, optimisers and the step they have reached."""

    def __init__(self, path: Path, modules: dict[str, nn.Module], *optimisers: Optimisers) -> None:
        self.path, self.modules, self.optimisers = path, modules, optimisers

    def save(self, step: int) -> None:
        if rank_and_world()[0]:
            return
        state = {
            "step": step,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def load(self) -> int:
        """Restore what was saved and return its step; 0 where nothing was."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=False):
            optimiser.load_state_dict(saved)
        return int(state["step"])
