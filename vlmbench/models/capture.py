"""What pruners ask the vision encoder for, taken while it runs: hooks and taps live for that call alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models import families
from vlmbench.models.families import Layout, Picture, Where
from vlmbench.models.features import ImageTokens
from vlmbench.models.taps import AttentionCall, attention_tap

_LAYERS: dict[str, Where] = {
    "attention": "features",
    "keys": "features",
    "received_attention": "features",
    "middle_attention": "middle",
    "last_attention": "last",
    "last_keys": "last",
}
"""The layer of the tower that a need is read in."""

SERVED = frozenset({"projector_in", *_LAYERS})
"""The names of `prune.base.NEEDS` that the vision side can serve."""

_FROM_ALL_ROWS = frozenset({"received_attention", "middle_attention"})
"""Attention that is read in the rows of all queries even where there is a class token."""

_CHUNK = 1 << 24
"""Attention weights held at once."""


class Capture:
    """For one call of `get_image_features`: record while it runs, then ask for the images."""

    def __init__(self, model: Any, needs: frozenset[str]) -> None:
        self._model = model
        self._needs = needs & SERVED
        self._family = families.of(model)
        self._inputs: list[Tensor] = []
        self._seen: dict[str, list[Tensor]] = {need: [] for need in sorted(self._needs & _LAYERS.keys())}
        self._queries: dict[str, list[Tensor]] = {need: [] for need in self._seen}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records what runs inside. Raises UsageError where the family cannot serve a need."""
        with ExitStack() as stack:
            if "projector_in" in self._needs:
                hook = self._family.receiver(self._model).register_forward_pre_hook(self._receive)
                stack.callback(hook.remove)
            tapped: dict[nn.Module, list[str]] = {}
            for need in self._seen:
                module = self._family.attention(self._model, _LAYERS[need])
                tapped.setdefault(module, []).append(need)
            if tapped:
                stack.enter_context(
                    attention_tap(tapped, lambda module, call: self._observe(tapped[module], call))
                )
            yield

    def _receive(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0]
        self._inputs.append(x.reshape(-1, x.shape[-1]))

    def _observe(self, needs: Sequence[str], call: AttentionCall) -> None:
        outside = self._family.class_tokens(self._model)
        for part in call.parts():
            for need in needs:
                if need.endswith("keys"):
                    keys = part.key.float().mean(1) if need == "keys" else joined(part).key[:, 0].float()
                    self._seen[need].append(keys[:, outside:].flatten(0, 1))
                    continue
                heads = joined(part) if need == "last_attention" else part
                from_class_token = bool(outside) and need not in _FROM_ALL_ROWS
                seen, queries = received(heads, from_class_token)
                self._seen[need].append(seen[:, outside:].flatten())
                self._queries[need].append(queries[:, outside:].flatten())

    def images(
        self, vision: Mapping[str, Tensor], output: Any, counts: Sequence[int]
    ) -> list[tuple[ImageTokens, ...]]:
        """Per request, from the encoder's arguments and output; `counts[i]` placeholders are request i's."""
        layout = self._family.layout(self._model, vision, output.pooler_output, counts)
        x = self._projector_in(layout, sum(counts))
        read = {need: self._tokens(layout, self._patches(layout, need)) for need in self._seen}
        extra = None if x is None else self._family.extra(self._model, output)
        extra = None if extra is None else extra.to(layout.device)
        pending = list(reversed(layout.pictures))
        found: list[tuple[ImageTokens, ...]] = []
        for count in counts:
            start, images = 0, []
            while start < count and pending:
                picture = pending.pop()
                images.append(
                    ImageTokens(
                        start,
                        start + picture.count,
                        picture.grid,
                        projector_in=None if x is None else _of(picture, x),
                        extra=None if extra is None else extra[picture.units],
                        **{need: _of(picture, values) for need, values in read.items()},
                    )
                )
                start += picture.count
            if start != count:
                raise self._misfit(f"{count} placeholders, {start} visual tokens")
            found.append(tuple(images))
        return found

    def _projector_in(self, layout: Layout, total: int) -> Tensor | None:
        """[M, P, c], one row per projector output."""
        if "projector_in" not in self._needs:
            return None
        flat = torch.cat(self._inputs).to(layout.device)
        outputs = sum(layout.units) if layout.members is None else len(layout.members)
        if flat.shape[0] == outputs:
            return flat[:, None]
        if layout.members is None or flat.shape[0] != sum(layout.units):
            raise self._misfit(f"{flat.shape[0]} projector inputs for {outputs} outputs")
        return flat[layout.members]

    def _patches(self, layout: Layout, need: str) -> Tensor:
        """[patches, ..]: keys, or the attention that each got from the rows that count, as a mean over those
        of its own tile."""
        seen = torch.cat(self._seen[need])
        if seen.shape[0] != sum(layout.units):
            raise self._misfit(f"{seen.shape[0]} patches in the encoder, {sum(layout.units)} expected")
        outside = self._family.class_tokens(self._model)
        if not self._queries[need] or (outside and need not in _FROM_ALL_ROWS):
            return seen
        lengths = torch.tensor(layout.units, device=seen.device)
        sums = torch.cat(self._queries[need]).cumsum(0)[lengths.cumsum(0) - 1]
        rows = sums.diff(prepend=sums.new_zeros(1)) + outside
        return seen / rows.repeat_interleave(lengths, output_size=seen.shape[0]).clamp(min=1)

    def _tokens(self, layout: Layout, patches: Tensor) -> Tensor:
        """[patches, ..] -> [M, ..], the mean over the patches of each projector output."""
        patches = patches.to(layout.device)
        return patches if layout.members is None else patches[layout.members].mean(1)

    def _misfit(self, what: str) -> UsageError:
        return UsageError(f"{self._family.name}: visual tokens cannot be traced to patches ({what})")


def joined(call: AttentionCall) -> AttentionCall:
    """The same layer as one head of all their widths, with the scaling of that width and no soft cap."""
    owners = call.query.shape[1] // call.key.shape[1]
    query, key = (
        heads.transpose(1, 2).flatten(2)[:, None]
        for heads in (call.query, call.key.repeat_interleave(owners, dim=1))
    )
    mask = call.mask[:, :1] if call.mask is not None and call.mask.ndim == 4 else call.mask
    options = {name: value for name, value in call.options.items() if name != "softcap"}
    return replace(call, query=query, key=key, mask=mask, scaling=query.shape[-1] ** -0.5, options=options)


def received(call: AttentionCall, from_class_token: bool) -> tuple[Tensor, Tensor]:
    """[B, K] float32: attention that each key gets, summed over heads and over the query rows that count;
    [B, K] bool: these rows, all that no mask hides, or none but the first where that is a class token."""
    batch, heads, queries, _ = call.query.shape
    keys = call.key.shape[2]
    if from_class_token:
        rows = torch.zeros((batch, keys), dtype=torch.bool, device=call.key.device)
        return call.weights(slice(0, 1)).sum((1, 2)), rows
    counted = call.visible()
    total = torch.zeros((batch, keys), device=call.key.device)
    high = max(1, min(queries, _CHUNK // (batch * keys)))
    deep = max(1, _CHUNK // (batch * keys * high))
    for head in range(0, heads, deep):
        for row in range(0, queries, high):
            weights = call.weights(slice(row, row + high), slice(head, head + deep))
            total += torch.einsum("bhqk,bq->bk", weights, counted[:, row : row + high].float())
    return total, counted


def _of(picture: Picture, values: Tensor) -> Tensor:
    """The rows of one image's tokens; zeros for newline tokens."""
    if isinstance(picture.source, slice):
        return values[picture.source]
    rows = values[picture.source.clamp(min=0)]
    newline = (picture.source < 0).view(-1, *[1] * (values.ndim - 1))
    return rows.masked_fill(newline, 0)
