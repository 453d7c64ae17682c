"""One `generate` call under `pruning`: the seeds of its images, and the prompt that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.models.features import ImageFeatures, VisualInput
from vlmbench.models.shrink import Kept, keep_columns, kept_positions


class Prompt:
    """Takes visual tokens out of the sequence at the door of the model's forward.

    `generate` itself keeps the whole prompt, so whatever reads it there (max_length, stopping criteria,
    logits processors, streamers, the caller) sees nothing of the pruning.
    """

    def __init__(self, image_token: int, visual: Sequence[VisualInput | None], compact: bool) -> None:
        self._image_token = image_token
        self._visual = visual
        self._compact = compact
        self._width = 0
        """Columns of the whole prompt, once it was read."""
        self._valid: Tensor | None = None
        """[B, S'] bool of what is left of it; None without padding."""
        self._left = 0
        """S'."""
        self._cache: Any = None
        self._shift: Tensor | int = 0
        """[.., B, 1]: what compact position ids of new tokens are less by."""

    def shrink(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of one forward of `generate`, without what was pruned."""
        ids = named["input_ids"]
        if len(ids) != len(self._visual):
            raise UsageError(
                f"pruning: {len(self._visual)} prompts but {len(ids)} sequences; use num_beams=1 and "
                "num_return_sequences=1"
            )
        # without a cache, every step reads the prompt again
        whole = not self._width or ids.shape[1] > self._width
        if whole:
            return self._read(named)
        # a logits processor's own pass (classifier-free guidance) has its own cache and no image
        if self._cache is None or named.get("past_key_values") is not self._cache:
            return dict(named)
        return self._decode(named)

    def _read(self, named: Mapping[str, Any]) -> dict[str, Any]:
        ids, mask = named["input_ids"], named.get("attention_mask")
        self._width, self._cache = self._width or ids.shape[1], named.get("past_key_values")
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        places = (ids == self._image_token) & valid
        places[:, self._width :] = False
        visual = self._on(ids.device)
        kept, padded = self._kept(places, valid, visual)
        self._left = kept.index.shape[1]
        self._valid = kept.valid if padded else None
        fill = {"input_ids": int(self._image_token == 0)}
        shrunk = {
            key: kept.take(value, fill.get(key, 0))
            if isinstance(value, Tensor) and value.shape == ids.shape and key != "position_ids"
            else value
            for key, value in named.items()
        }
        shrunk["attention_mask"] = kept.valid.long() if padded else None
        if named.get("position_ids") is not None:
            ids = named["position_ids"].expand(*named["position_ids"].shape[:-2], *valid.shape)
            new = kept_positions(ids, kept, places, visual, self._compact)
            shrunk["position_ids"] = self._renumbered(ids, new, valid) if self._compact else new
        return shrunk

    def places(self, places: Tensor, mask: Tensor | None) -> Tensor:
        """[B, S'] bool: the placeholders that are left, where they stand in the shorter prompt; `places`
        [B, S]: those of the whole one."""
        valid = torch.ones_like(places) if mask is None else mask.bool().to(places.device)
        kept, _ = self._kept(places, valid, self._on(places.device))
        return kept.take(places)

    def _on(self, device: torch.device) -> list[VisualInput | None]:
        """A model spread over devices encodes on another one."""
        return [
            part and replace(part, keep=part.keep.to(device), position_from=part.position_from.to(device))
            for part in self._visual
        ]

    def _kept(self, places: Tensor, valid: Tensor, visual: Sequence[VisualInput | None]) -> tuple[Kept, bool]:
        """And whether a row is padded. Raises UsageError where nothing is left of one."""
        stay = torch.tensor([0 if part is None else len(part.keep) for part in visual])
        left = (valid.sum(1).cpu() - places.sum(1).cpu() + stay).tolist()
        if not min(left):
            raise UsageError("pruning leaves a prompt without any token: add text to it")
        return keep_columns(places, valid, visual, max(left)), min(left) < max(left)

    def _renumbered(self, positions: Tensor, new: Tensor, valid: Tensor) -> Tensor:
        """Compact ids that begin where a row began, which with PaliGemma is 1."""
        first = positions.masked_fill(~valid, torch.iinfo(positions.dtype).max).amin(-1, keepdim=True)
        new = new + (first if first.ndim == 2 else first.amin(0, keepdim=True))
        self._shift = positions[..., -1:] - new[..., -1:]
        return new

    def _decode(self, named: Mapping[str, Any]) -> dict[str, Any]:
        step = dict(named)
        new = self._cache.get_seq_length() + named["input_ids"].shape[1] - self._left
        step["attention_mask"] = None
        if self._valid is not None:
            step["attention_mask"] = torch.nn.functional.pad(self._valid.long(), (0, new), value=1)
        if named.get("position_ids") is not None:
            step["position_ids"] = named["position_ids"] - self._shift
        return step


def fingerprints(vision: Mapping[str, Tensor], visual: Sequence[ImageFeatures]) -> list[list[int]]:
    """A number per request and image that follows the image's pixels alone, not what shares its batch.

    Zeros do not count: they are what processors pad tiles and pictures with. Where the pixels of an image
    cannot be told from those of others, its place in the request stands in.
    """
    tiles = [[int(image.grid[:, 0].max()) + 1 for image in request.images] for request in visual]
    parts = _pixels(vision, [n for request in tiles for n in request])
    if parts is None:
        return [list(range(len(request))) for request in tiles]
    sums = iter(torch.stack([_checksum(part) for part in parts]).tolist())
    return [[next(sums) for _ in request] for request in tiles]


def _pixels(vision: Mapping[str, Tensor], tiles: Sequence[int]) -> Sequence[Tensor] | None:
    """Per image, in order; `tiles` that each was cut into."""
    pixels, grid = vision["pixel_values"], vision.get("image_grid_thw")
    if grid is not None:
        parts: Sequence[Tensor] = torch.split(pixels, grid.prod(-1).tolist())
        return parts if len(parts) == len(tiles) else None
    used = pixels[pixels.flatten(1).any(1)]
    if len(used) == len(tiles):
        return list(used)
    return torch.split(used, list(tiles)) if len(used) == sum(tiles) else None


def _checksum(pixels: Tensor) -> Tensor:
    """[] int64, of the bits and the order of what is not zero; integers, so exact on every device."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    values = pixels[pixels != 0]
    bits = values.view(kinds[values.element_size()]).long()
    place = torch.arange(1, len(bits) + 1, device=bits.device)
    return (bits * (place * 0x5851F42D4C957F2D + 0x14057B7EF767814F)).sum()
