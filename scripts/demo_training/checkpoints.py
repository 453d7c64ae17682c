"""Resumable training state in one file, replaced atomically: safetensors, what is no tensor as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

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
        tensors: dict[str, Tensor] = {}
        shape = json.dumps(_take_out(state, tensors))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"state": shape})
        partial.replace(self.path)

    def load(self) -> int:
        """Restore what was saved and return its step; 0 where nothing was."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = _put_back(json.loads(file.metadata()["state"]), tensors)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=False):
            optimiser.load_state_dict(saved)
        return int(state["step"])


def _take_out(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The nested value with a name in place of each tensor. Optimisers number their entries, and JSON has no
    such keys: a dictionary is a list of pairs."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone().contiguous()  # tied weights share memory, which files do not
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _take_out(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_out(part, tensors) for part in value]}
    return {"value": value}


def _put_back(value: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "pairs" in value:
        return {key: _put_back(part, tensors) for key, part in value["pairs"]}
    if "list" in value:
        return [_put_back(part, tensors) for part in value["list"]]
    return value["value"]
