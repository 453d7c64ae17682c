"""Reading the rendered chunks: memory-mapped, indexed by master and view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo_training.views import CHUNK, finished_chunks, unpack_masks


class Views:
    """All finished chunks of a folder; `refresh` picks up those that were finished since."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self.images: list[NDArray[np.uint8]] = []
        self.objects: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.uint8]] = []
        self.refresh()

    def refresh(self) -> None:
        # Finished chunks are always a prefix: the renderer goes in order.
        for chunk in finished_chunks(self.folder)[len(self.images) : self.limit]:
            for name, arrays in (("images", self.images), ("objects", self.objects), ("masks", self.masks)):
                arrays.append(np.load(self.folder / f"chunk-{chunk:04d}-{name}.npy", mmap_mode="r"))  # type: ignore[attr-defined]

    def __len__(self) -> int:
        """Number of masters; a master's index is also its scene's seed minus the first seed."""
        return CHUNK * len(self.images)

    def batch(self, masters: NDArray[np.int64], views: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """pixels [n, 3, S, S] as the processor gives them, objects [n, 6, 6], masks [n, 2, S/2, S/2]."""
        pairs = [(int(m) // CHUNK, int(m) % CHUNK, int(v)) for m, v in zip(masters, views, strict=True)]
        images = np.stack([self.images[c][row, v] for c, row, v in pairs])
        objects = np.stack([self.objects[c][row, v] for c, row, v in pairs])
        masks = unpack_masks(np.stack([self.masks[c][row, v] for c, row, v in pairs]))
        return to_pixels(torch.from_numpy(images)), torch.from_numpy(objects), torch.from_numpy(masks)

    def objects_of(self, masters: NDArray[np.int64]) -> Tensor:
        """Objects of the whole view, [n, 6, 6]."""
        return torch.from_numpy(np.stack([self.objects[int(m) // CHUNK][int(m) % CHUNK, 0] for m in masters]))


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [n, S, S, 3] -> float [n, 3, S, S] in [-1, 1], what the saved processor computes."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()
