"""The state of one `generate` call that is pruned inside the language model, and what its hooks do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.inside_refuse import refuse_window
from vlmbench.models.inside_rows import (
    Segment,
    compact_ids,
    decode_mask,
    prefill_mask,
    take_ids,
    take_rotary,
    whole,
)
from vlmbench.prune.base import Context, Cut, Inner, Pruner


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """The visual tokens of one image in a left-padded prompt."""

    index: Tensor
    """[n] int64, ascending: their columns."""
    grid: Tensor
    """[n, 3] int: tile, row, column of each."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class InsideLog:
    """What was pruned; complete once `generate` has read the prompt. Rows are those of the batch."""

    entered: list[list[int]]
    """[layers][rows]: visual tokens that entered each layer."""
    kept: list[list[Tensor]]
    """Per row and image: indices into the image's tokens that are left after the last cut, ascending."""
    cuts: list[list[tuple[Cut, ...]]] = field(default_factory=list)
    """Per row and image: the schedule, by layer."""


def rotary_of(decoder: Any) -> nn.Module:
    rotary: nn.Module | None = getattr(decoder, "rotary_emb", None)
    if rotary is None:
        raise UsageError(f"{type(decoder).__name__} has no rotary_emb to renumber: use positions 'original'")
    return rotary


class Run:
    """The state of one `generate` call."""

    def __init__(
        self,
        pruner: Pruner,
        images: Sequence[Sequence[ImageSpan]],
        log: InsideLog,
        compact: bool,
        decoder: Any,
        windows: Sequence[int | None],
    ) -> None:
        self.pruner, self.images, self.log = pruner, images, log
        self.compact, self.decoder, self.windows = compact, decoder, windows
        self.attention: dict[int, Tensor] = {}
        """Cut layer -> [B, W], of the last prompt token in the layer before it."""
        self.segments: dict[int, Segment] = {}
        """Layer -> the sequence that it works on, once it has read the prompt."""
        self.shifts: dict[tuple[int, Any], Tensor] = {}
        """(first layer of the segment, rotary arguments) -> what compact ids of new tokens are less by."""
        self.rotaries: dict[Any, tuple[Any, Tensor]] = {}
        """Rotary arguments -> (its output, position ids) of the pass under way."""
        self.current: Segment | None = None
        self.columns: list[list[Tensor]] = [[image.index for image in row] for row in images]
        """Per row and image: where the tokens that are left stand in `current`."""
        self.prompt = 0
        self.needed = max(int(image.index.max()) + 1 for row in images for image in row if len(image.index))

    def after_rotary(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        named = {**dict(zip(("x", "position_ids", "layer_type"), args, strict=False)), **kwargs}
        self.rotaries[named.get("layer_type")] = (output, named["position_ids"])

    def before_layer(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The layer's arguments for the tokens that are left. hidden_states: [B, S, d]."""
        named = {"hidden_states": args[0], **kwargs} if args else dict(kwargs)
        hidden, cache = named["hidden_states"], named.get("past_key_values")
        if cache is None:
            raise UsageError("pruning inside the language model without a cache: use use_cache=True")
        if hidden.shape[0] != len(self.images):
            raise UsageError(
                f"pruning inside the language model: {len(self.images)} prompts but {hidden.shape[0]} "
                "sequences; use num_beams=1 and num_return_sequences=1"
            )
        if getattr(cache, "is_compileable", False):
            raise UsageError("pruning inside the language model with a static cache: use the dynamic cache")
        cached = int(cache.get_seq_length(layer))
        implementation = str(self.decoder.config._attn_implementation)
        if cached == 0:
            self._read(layer, named)
            segment, hidden, mask = self.segments[layer], named["hidden_states"], named.get("attention_mask")
            named["attention_mask"] = segment.once(
                "mask", mask, lambda: prefill_mask(segment, mask, hidden, implementation)
            )
        else:
            self._check_decoding(layer, cached, int(hidden.shape[1]))
            segment = self.segments[layer]
            if layer == segment.start:
                segment.made.clear()
            named["attention_mask"] = segment.once(
                "mask", None, lambda: decode_mask(segment, cached, hidden, implementation)
            )
        self._place(segment, named, cached == 0, "flash" in implementation)
        return (named.pop("hidden_states"),), named

    def _check_decoding(self, layer: int, cached: int, new: int) -> None:
        if layer not in self.segments:
            raise UsageError("pruning inside the language model with filled past_key_values: pass none")
        if new != 1:
            raise UsageError(
                "pruning inside the language model: several tokens after the prompt; use neither assisted "
                "decoding nor prefill_chunk_size"
            )
        refuse_window(layer, self.windows[layer], self.prompt + cached - self.segments[layer].width + 1)

    def _read(self, layer: int, named: dict[str, Any]) -> None:
        """While the prompt is read: cuts before this layer; sets `hidden_states`."""
        if layer in self.segments:
            raise UsageError("prune_inside serves one generate call: enter it anew for the next")
        if self.current is None:
            self.prompt = int(named["hidden_states"].shape[1])
            if self.prompt < self.needed:
                raise UsageError(
                    f"pruning inside the language model: images end at column {self.needed} of a prompt of "
                    f"{self.prompt}; give columns of the padded prompt and leave prefill_chunk_size unset"
                )
            self.current = whole(named.get("attention_mask"), named["hidden_states"])
            self.columns = [[c.to(self.current.index.device) for c in row] for row in self.columns]
        refuse_window(layer, self.windows[layer], self.prompt)
        if any(cut.layer == layer for row in self.log.cuts for cuts in row for cut in cuts):
            named["hidden_states"] = self._cut(layer, named["hidden_states"])
        self.segments[layer] = self.current
        self.log.entered[layer] = [sum(len(columns) for columns in row) for row in self.columns]

    def _cut(self, layer: int, hidden: Tensor) -> Tensor:
        """Selects; [B, W, d] -> [B, W', d]."""
        assert self.current is not None
        chosen = self._select(layer, hidden)
        stays, dropped = self.current.valid.clone(), [0] * len(self.images)
        for (row, i), selected in chosen.items():
            columns, left = self.columns[row][i], self.log.kept[row][i]
            keep = selected.to(columns.device)
            stays[row, columns] = False
            stays[row, columns[keep]] = True
            dropped[row] += len(columns) - len(keep)
            self.columns[row][i] = columns[keep]
            self.log.kept[row][i] = left[selected.to(left.device)]
        self.current, order = self.current.cut(stays, dropped, layer)
        moved = torch.zeros_like(stays, dtype=torch.long)
        moved.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        self.columns = [[moved[b, columns] for columns in row] for b, row in enumerate(self.columns)]
        return hidden.gather(1, order.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))

    def _select(self, layer: int, hidden: Tensor) -> dict[tuple[int, int], Tensor]:
        """(row, image) -> indices into its tokens that are left, for all images that are cut here."""
        contexts, keeps, places = [], [], []
        for row, schedules in enumerate(self.log.cuts):
            for i, cuts in enumerate(schedules):
                keep = next((cut.keep for cut in cuts if cut.layer == layer), None)
                if keep is None:
                    continue
                image, columns, left = self.images[row][i], self.columns[row][i], self.log.kept[row][i]
                seen = self.attention.get(layer)
                inner = Inner(
                    layer=layer,
                    layers=len(self.decoder.layers),
                    text=self._text(row, hidden),
                    norm=self.decoder.norm,
                    attention=None if seen is None else seen[row, columns.to(seen.device)],
                )
                contexts.append(
                    Context(
                        features=hidden[row, columns.to(hidden.device)],
                        grid=image.grid[left.to(image.grid.device)],
                        llm=inner,
                        seed=image.seed,
                    )
                )
                keeps.append(keep)
                places.append((row, i))
        chosen = self.pruner.select_many(contexts, keeps)
        return dict(zip(places, chosen, strict=True))

    def _text(self, row: int, hidden: Tensor) -> Tensor:
        """[T, d]: of the text tokens behind the row's last image, of all where none is."""
        assert self.current is not None
        valid = self.current.valid[row]
        visual = torch.cat(self.columns[row])
        text = valid.clone()
        text[visual] = False
        behind = text.clone()
        behind[: int(visual.max()) + 1 if len(visual) else 0] = False
        chosen = behind if behind.any() else text
        return hidden[row, chosen.to(hidden.device)]

    def _place(self, segment: Segment, named: dict[str, Any], reading: bool, flash: bool) -> None:
        """Sets `position_embeddings` and `position_ids` for the segment's tokens."""
        cos, sin = named["position_embeddings"]
        if self.compact:
            named["position_embeddings"] = segment.once(
                "rotary", cos, lambda: self._renumbered(segment, cos, named["hidden_states"], reading)
            )
        elif reading:
            named["position_embeddings"] = segment.once(
                "rotary",
                cos,
                lambda: (take_rotary(cos, segment), take_rotary(sin, segment)),
            )
        ids = named.get("position_ids")
        if ids is None:
            return
        if flash:
            # which would take a gap in the ids for the border between two packed sequences
            named["position_ids"] = None
        elif reading:
            named["position_ids"] = segment.once("ids", ids, lambda: take_ids(ids, segment))

    def _renumbered(self, segment: Segment, cos: Tensor, hidden: Tensor, reading: bool) -> Any:
        found = [(k, ids) for k, (output, ids) in self.rotaries.items() if output[0] is cos]
        if not found:
            raise UsageError(
                f"{type(self.decoder).__name__} changes its rotary embedding: use positions 'original'"
            )
        kind, ids = found[0]
        key = (segment.start, kind)
        if reading:
            ids, self.shifts[key] = compact_ids(ids, segment)
        else:
            ids = ids - self.shifts[key]
        # not through __call__, which would come back to `after_rotary`
        forward = rotary_of(self.decoder).forward
        return forward(hidden, ids) if kind is None else forward(hidden, ids, kind)
