"""The state of one `generate` call that is pruned inside the language model, and what its hooks do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models.inside_left import ImageSpan, InsideLog, Left, without_features
from vlmbench.models.inside_needs import Needs, next_attention
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
from vlmbench.prune.base import Context, Pruner, Reduced
from vlmbench.prune.contract import check_reduced, check_selection, private


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
        self.pruner, self.log = pruner, log
        self.compact, self.decoder, self.windows = compact, decoder, windows
        self.rows = len(images)
        self.images = [
            Left(row, i, span, log.cuts[row][i], span.index, torch.arange(len(span.index)))
            for row, spans in enumerate(images)
            for i, span in enumerate(spans)
        ]
        self.places = sorted({cut.layer for left in self.images for cut in left.cuts})
        self.needs = Needs(pruner.needs, decoder, self.places)
        self.segments: dict[int, Segment] = {}
        """Layer -> the sequence that it works on, once it has read the prompt."""
        self.shifts: dict[tuple[int, Any], Tensor] = {}
        """(first layer of the segment, rotary arguments) -> what compact ids of new tokens are less by."""
        self.rotaries: dict[Any, tuple[Any, Tensor]] = {}
        """Rotary arguments -> (its output, position ids) of the pass under way."""
        self.current: Segment | None = None
        self.prompt = 0
        ends = [[int(span.index.max()) + 1 for span in spans if len(span.index)] for spans in images]
        self.ends = [max(row, default=0) for row in ends]
        """Per row: the column behind its last image."""

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
        if hidden.shape[0] != self.rows:
            raise UsageError(
                f"pruning inside the language model: {self.rows} prompts but {hidden.shape[0]} "
                "sequences; use num_beams=1 and num_return_sequences=1"
            )
        if getattr(cache, "is_compileable", False):
            raise UsageError("pruning inside the language model with a static cache: use the dynamic cache")
        cached = int(cache.get_seq_length(layer))
        if cached == 0:
            self._read(layer, named)
        else:
            self._check_decoding(layer, cached, int(hidden.shape[1]))
        segment = self.segments[layer]
        if cached and layer == segment.start:
            segment.made.clear()
        self._fit(segment, named, cached)
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
            if self.prompt < max(self.ends):
                raise UsageError(
                    f"pruning inside the language model: images end at column {max(self.ends)} of a prompt "
                    f"of {self.prompt}; give columns of the padded prompt and leave prefill_chunk_size unset"
                )
            self.current = whole(named.get("attention_mask"), named["hidden_states"])
            device = self.current.index.device
            self.images = [
                replace(left, columns=left.columns.to(device), origin=left.origin.to(device))
                for left in self.images
            ]
        refuse_window(layer, self.windows[layer], self.prompt)
        if layer in self.places:
            named["hidden_states"] = self._cut(layer, named)
        self.segments[layer] = self.current
        entered = [0] * self.rows
        for left in self.images:
            entered[left.row] += len(left.columns) + left.span.beside
        self.log.entered[layer] = entered

    def _cut(self, layer: int, named: dict[str, Any]) -> Tensor:
        """Selects or merges; [B, W, d] -> [B, W', d]."""
        assert self.current is not None
        hidden: Tensor = named["hidden_states"]
        segment, stays, dropped = self.current, self.current.valid.clone(), [0] * self.rows
        chosen = self._choose(layer, named)
        if self.pruner.merges:
            hidden = hidden.clone()
            segment = replace(segment, origin=segment.positions.clone(), made={})
        images = []
        for i, before in enumerate(self.images):
            left = before
            if i in chosen:
                answer = chosen[i]
                if isinstance(answer, Reduced):
                    left = before.merged(answer)
                    hidden[left.row, left.columns.to(hidden.device)] = answer.features.to(hidden)
                    places = left.span.index[left.origin.to(left.span.index.device)]
                    segment.positions[left.row, left.columns] = places.to(segment.positions.device)
                else:
                    left = before.selected(answer)
                self.log.said[left.row][left.image][layer] = without_features(answer)
                stays[left.row, before.columns] = False
                stays[left.row, left.columns] = True
                dropped[left.row] += len(before.columns) - len(left.columns)
                self.log.kept[left.row][left.image] = left.origin.sort().values.cpu()
                self.log.share[left.row][left.image] = left.share()
            images.append(left)
        self.current, order = segment.cut(stays, dropped, layer)
        moved = torch.zeros_like(stays, dtype=torch.long)
        moved.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        self.images = [replace(left, columns=moved[left.row, left.columns]) for left in images]
        return hidden.gather(1, order.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))

    def _choose(self, layer: int, named: dict[str, Any]) -> dict[int, Tensor | Reduced]:
        """What the method says of each image that is cut here, by its place in `images`."""
        assert self.current is not None
        hidden: Tensor = named["hidden_states"]
        seen = self.needs.inner(layer, hidden, self.current, self._next_attention(layer, named))
        keeps: dict[int, int] = {}
        contexts: list[Context] = []
        text: dict[int, Tensor] = {}
        for i, left in enumerate(self.images):
            keep = left.keep(layer)
            if keep is None:
                continue
            keeps[i] = keep
            if left.row not in text:
                text[left.row] = self._text(left.row)
            contexts.append(
                Context(
                    features=hidden[left.row, left.columns.to(hidden.device)],
                    grid=left.span.grid[left.origin.to(left.span.grid.device)],
                    llm=seen.of(left, text[left.row]),
                    seed=left.span.seed,
                )
            )
        self.needs.done(layer)
        ks = list(keeps.values())
        given = private(self.pruner, contexts)
        if self.pruner.merges:
            made = self.pruner.reduce_many(given, ks)
            for ctx, k, reduced in zip(contexts, ks, made, strict=True):
                check_reduced(self.pruner, reduced, k, ctx.n)
            return dict(zip(keeps, made, strict=True))
        found = self.pruner.select_many(given, ks)
        for ctx, k, indices in zip(contexts, ks, found, strict=True):
            check_selection(self.pruner, indices, k, ctx.n)
        return dict(zip(keeps, found, strict=True))

    def _next_attention(self, layer: int, named: dict[str, Any]) -> Tensor | None:
        if "llm_next_attention" not in self.pruner.needs:
            return None
        assert self.current is not None
        arguments = dict(named)
        if self.current.start:  # behind a cut the model's mask and positions, those of the prompt, do not fit
            self._fit(self.current, arguments, cached=0)
        return next_attention(self.decoder.layers[layer], arguments)

    def _text(self, row: int) -> Tensor:
        """[T]: columns of the text tokens behind the row's last image, of all where none is."""
        assert self.current is not None
        behind, width = self.prompt - self.ends[row], self.current.width
        if (
            behind
        ):  # padding stands in front and no text is dropped: they are the last columns in every segment
            return torch.arange(width - behind, width, device=self.current.index.device)
        text = self.current.valid[row].clone()
        for left in self.images:
            if left.row == row:
                text[left.columns] = False
        return text.nonzero()[:, 0]

    def _fit(self, segment: Segment, named: dict[str, Any], cached: int) -> None:
        """Sets `attention_mask`, `position_embeddings` and `position_ids` for the segment's tokens."""
        implementation = str(self.decoder.config._attn_implementation)
        hidden, mask = named["hidden_states"], named.get("attention_mask")
        if cached:
            made = segment.once("mask", None, lambda: decode_mask(segment, cached, hidden, implementation))
        else:
            made = segment.once("mask", mask, lambda: prefill_mask(segment, mask, hidden, implementation))
        named["attention_mask"] = made
        self._place(segment, named, cached == 0, "flash" in implementation)

    def _place(self, segment: Segment, named: dict[str, Any], reading: bool, flash: bool) -> None:
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
            named["position_ids"] = segment.once("ids", ids, lambda: take_ids(ids, segment.positions))

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
