"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: images of any size; 2 x 2 patches that lie in a row make a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmbench.models.families.base import Family, Layout, Picture, mlp, norm, raster

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


class Qwen(Family):
    """Norm per patch, then Linear, GELU, Linear over the patches of a token."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tower(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.visual
        return found

    def receiver(self, model: Any) -> nn.Module:
        found: nn.Module = model.base_model.visual.merger
        return found

    def layout(self, model: Any, vision: Mapping[str, Tensor], pooled: Any, counts: Sequence[int]) -> Layout:
        device, config = pooled[0].device, model.config.vision_config
        side: int = config.spatial_merge_size
        window = self._window(config)
        pictures: list[Picture] = []
        orders: list[Tensor] = []
        units: list[int] = []
        token = 0
        for frames, high, wide in vision["image_grid_thw"].tolist():
            rows, columns = high // side, wide // side
            grid = torch.cat([raster(rows, columns, device, t) for t in range(frames)])
            pictures.append(
                Picture(grid, slice(token, token + len(grid)), slice(len(units), len(units) + frames))
            )
            orders.append(token + _position_in_windows(grid, window, rows, columns))
            token += len(grid)
            units += [high * wide] * frames
        within = torch.arange(side * side, device=device)
        members = torch.cat(orders)[:, None] * side * side + within
        return Layout(tuple(pictures), tuple(units), members)

    def form(self, model: Any) -> Form | None:
        part: Any = self.receiver(model)
        first, act, last = part.mlp
        return mlp(first, act, last, norm(part.ln_q))

    def project(self, model: Any, x: Tensor) -> Tensor:
        projected: Tensor = self.receiver(model)(x.flatten(0, 1))
        return projected

    def middle(self, model: Any, layers: int) -> int:
        """Of Qwen2.5's layers that see more than one window, the nearest, of two as near the deeper: index 15
        of 32. (Its last layer sees the whole image in all released checkpoints.)"""
        index = super().middle(model, layers)
        whole = getattr(model.config.vision_config, "fullatt_block_indexes", None) or [index]
        return int(min(whole, key=lambda layer: (abs(layer - index), -layer)))

    def smallest_cut(self, model: Any) -> int:
        # deepstack features are added to the visual tokens of the first layers, which must all be there
        return max(1, len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ()))

    def _window(self, config: Any) -> int:
        """Tokens along one side of a window in whose order Qwen2.5's tower works; 0 for raster order."""
        if self.name != "qwen2_5_vl":
            return 0
        return int(config.window_size // config.spatial_merge_size // config.patch_size)


class Qwen3(Qwen):
    """The same with other names; its further mergers feed layers inside the language model."""

    def form(self, model: Any) -> Form | None:
        part: Any = self.receiver(model)
        return mlp(part.linear_fc1, part.act_fn, part.linear_fc2, norm(part.norm))


def _position_in_windows(grid: Tensor, window: int, rows: int, columns: int) -> Tensor:
    """[n]: where the tower keeps each token of a raster, whose windows it puts one after the other."""
    frame, row, column = grid.unbind(1)
    if not window:
        return torch.arange(len(grid), device=grid.device)
    down, across = -(-rows // window), -(-columns // window)
    order = torch.argsort((frame * down + row // window) * across + column // window, stable=True)
    return torch.argsort(order)
