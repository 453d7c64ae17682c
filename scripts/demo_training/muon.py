"""Muon for the 2-D hidden weights, AdamW for the rest.

Based on Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/). Own version because thin
models have many matrices of few shapes: all of one shape are orthogonalised in one batched product, in
fp32, which on a CPU is several times faster than one by one in bf16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from demo_training.parallel import average_gradients


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrices; stack [n, rows, columns]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised. `params`: 2-D weights only."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.02
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.to(p.dtype), alpha=-scale)


class Optimisers:
    """The two optimisers as one: hidden matrices to Muon, embeddings, heads, norms and biases to AdamW."""

    def __init__(
        self, hidden: nn.Module | list[nn.Module], everything: list[nn.Module], adam: float, muon: float
    ) -> None:
        modules = hidden if isinstance(hidden, list) else [hidden]
        matrices = {id(p): p for m in modules for p in m.parameters() if p.ndim == 2 and p.requires_grad}
        rest = {
            id(p): p for m in everything for p in m.parameters() if id(p) not in matrices and p.requires_grad
        }
        self.parameters = [*matrices.values(), *rest.values()]
        self.parts: list[torch.optim.Optimizer] = [
            Muon(list(matrices.values()), lr=muon),
            torch.optim.AdamW(list(rest.values()), lr=adam, betas=(0.9, 0.98), weight_decay=0.02),
        ]
        self.base = [muon, adam]

    def step(self, factor: float, clip: float = 1.0) -> None:
        """One update with both learning rates scaled by `factor`; gradients are averaged over
        the processes, clipped, then cleared."""
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        for part, base in zip(self.parts, self.base, strict=True):
            for group in part.param_groups:
                group["lr"] = base * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def trapezoid(step: int, steps: int, warm_up: int = 60, decay: float = 0.35) -> float:
    """Learning-rate factor: short warm-up, flat, then linear to .02 over the last share `decay`."""
    left = (steps - step) / max(1.0, decay * steps)
    return min(1.0, (step + 1) / warm_up, 0.02 + 0.98 * max(0.0, left))
