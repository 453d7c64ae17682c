"""What pruners ask the vision encoder for, taken while it runs: hooks and taps live for that call alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlmbench.errors import UsageError
from vlmbench.models import families
from vlmbench.models.families import Layout, Picture
from vlmbench.models.features import ImageTokens
from vlmbench.models.taps import AttentionCall, attention_tap

SERVED = frozenset({"projector_in", "attention", "keys"})
"""The names of `prune.base.NEEDS` that the vision side can serve."""

_CHUNK = 1 << 24
"""Attention weights held at once."""


class Capture:
    """For one call of `get_image_features`: record while it runs, then ask for the images."""

    def __init__(self, model: Any, needs: frozenset[str]) -> None:
        self._model = model
        self._needs = needs & SERVED
        self._family = families.of(model)
        self._inputs: list[Tensor] = []
        self._attention: list[Tensor] = []
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records what runs inside. Raises UsageError where the family cannot serve a need."""
        with ExitStack() as stack:
            if "projector_in" in self._needs:
                hook = self._family.receiver(self._model).register_forward_pre_hook(self._receive)
                stack.callback(hook.remove)
            if self._needs & {"attention", "keys"}:
                stack.enter_context(attention_tap((self._family.attention(self._model),), self._observe))
            yield

    def _receive(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0]
        self._inputs.append(x.reshape(-1, x.shape[-1]))

    def _observe(self, _: nn.Module, call: AttentionCall) -> None:
        outside = self._family.class_tokens(self._model)
        for part in call.parts():
            if "attention" in self._needs:
                seen, queries = received(part, from_class_token=bool(outside))
                self._attention.append(seen[:, outside:].flatten())
                self._queries.append(queries[:, outside:].flatten())
            if "keys" in self._needs:
                self._keys.append(part.key.float().mean(1)[:, outside:].flatten(0, 1))

    def images(
        self, vision: Mapping[str, Tensor], output: Any, counts: Sequence[int]
    ) -> list[tuple[ImageTokens, ...]]:
        """Per request, from the encoder's arguments and output; `counts[i]` placeholders are request i's."""
        layout = self._family.layout(self._model, vision, output.pooler_output, counts)
        x = self._projector_in(layout, sum(counts))
        attention, keys = self._tokens(layout, self._mean_attention(layout)), None
        if self._keys:
            keys = self._tokens(layout, torch.cat(self._keys))
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
                        _of(picture, x),
                        _of(picture, attention),
                        _of(picture, keys),
                        None if extra is None else extra[picture.units],
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

    def _mean_attention(self, layout: Layout) -> Tensor | None:
        """[patches]: what each got from the rows that count, as a mean over those of its own tile."""
        if not self._attention:
            return None
        seen = torch.cat(self._attention)
        if seen.shape[0] != sum(layout.units):
            raise self._misfit(f"{seen.shape[0]} patches in the encoder, {sum(layout.units)} expected")
        if self._family.class_tokens(self._model):
            return seen
        lengths = torch.tensor(layout.units, device=seen.device)
        sums = torch.cat(self._queries).cumsum(0)[lengths.cumsum(0) - 1]
        rows = sums.diff(prepend=sums.new_zeros(1))
        return seen / rows.repeat_interleave(lengths, output_size=seen.shape[0]).clamp(min=1)

    def _tokens(self, layout: Layout, patches: Tensor | None) -> Tensor | None:
        """[patches, ..] -> [M, ..], the mean over the patches of each projector output."""
        if patches is None:
            return None
        patches = patches.to(layout.device)
        return patches if layout.members is None else patches[layout.members].mean(1)

    def _misfit(self, what: str) -> UsageError:
        return UsageError(f"{self._family.name}: visual tokens cannot be traced to patches ({what})")


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


def _of(picture: Picture, values: Tensor | None) -> Tensor | None:
    """The rows of one image's tokens; zeros for newline tokens."""
    if values is None or isinstance(picture.source, slice):
        return values if values is None else values[picture.source]
    rows = values[picture.source.clamp(min=0)]
    newline = (picture.source < 0).view(-1, *[1] * (values.ndim - 1))
    return rows.masked_fill(newline, 0)
