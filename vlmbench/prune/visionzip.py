"""VisionZip: keeps what the vision encoder attends to, merges the rest into a few contextual tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlmbench.prune.alike import alike
from vlmbench.prune.base import Batched, Context, Reduced, Stage
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite, first_max, of_tile
from vlmbench.prune.tiles import Share, tile_shares


@dataclass(frozen=True, kw_only=True)
class VisionZip(Batched):
    """Dominant tokens by encoder attention, contextual tokens merged from the others.

    Of k tokens round(5k / 32) are contextual. The dominant ones are the class token, where the encoder has
    one, and the most attended patches. Of the rest, evenly strided targets take in the others, each the one
    with the most similar key: target + mean(joined). Order: class token, dominant, contextual. Each tile gets
    an equal share of the budget and has its own class token.

    Based on VisionZip (https://arxiv.org/abs/2412.04467).

    Parameters: ratio, keep, positions (see Pruner). Reads projector_in [N, P, c], attention [N], keys
    [N, d_k] and extra [E, P, c], of which each tile's first is its class token.
    """

    stage: ClassVar[Stage] = "encoder"
    merges: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in", "attention", "keys"})

    def reduce_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Reduced]:
        patches = given_many(contexts, "projector_in", "visionzip")
        attention = given_many(contexts, "attention", "visionzip")
        keys = [normalize(each.float(), dim=-1) for each in given_many(contexts, "keys", "visionzip")]
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        extra = [ctx.extra for ctx in contexts if ctx.extra is not None]
        check_all_finite(extra, "outputs of the vision encoder")
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        extras = [0 if ctx.extra is None else len(ctx.extra) // ctx.tiles for ctx in contexts]
        units = [(image, members, share) for image, own in enumerate(tiles) for members, share in own]
        zipped: dict[int, _Zipped] = {}
        for group in alike((len(members), share, extras[i] > 0) for i, members, share in units):
            image, _, share = units[group[0]]
            own_attention = torch.stack([of_tile(attention[i], m) for i, m, _ in (units[u] for u in group)])
            own_keys = torch.stack([of_tile(keys[i], m) for i, m, _ in (units[u] for u in group)])
            made = _zip(own_attention, own_keys, share, extras[image] > 0)
            zipped |= zip(group, zip(*made, strict=True), strict=True)
        parts = iter(zipped[unit] for unit in range(len(units)))
        return [
            _joined(ctx, patch, own, count, [next(parts) for _ in own])
            for ctx, patch, own, count in zip(contexts, patches, tiles, extras, strict=True)
        ]


_Zipped = tuple[Tensor, Tensor, Tensor]
"""source [k], position_from [k] and weights [k, n (+ 1 for the class token)] of one tile."""


def _joined(
    ctx: Context, patches: Tensor, tiles: Sequence[Share], extras: int, zipped: Sequence[_Zipped]
) -> Reduced:
    """An image of its tiles, which have `extras` tokens beside their own each."""
    everything = patches if ctx.extra is None else torch.cat([patches, ctx.extra])
    sources, positions, rows = [], [], []
    numbers = torch.unique(ctx.grid[:, 0]).tolist()
    for number, (members, _), (source, position, weights) in zip(numbers, tiles, zipped, strict=True):
        class_token = ctx.n + number * extras
        where = torch.cat([members, members.new_tensor([class_token] if extras else [])])
        row = weights.new_zeros(len(weights), len(everything)).index_copy_(1, where, weights)
        sources.append(torch.where(source < 0, -1, members[source]))
        positions.append(members[position])
        rows.append(row)
    weights = torch.cat(rows)
    features = weights @ everything.flatten(1).float()
    return Reduced(
        features=features.to(patches.dtype).view(-1, *patches.shape[1:]),
        source=torch.cat(sources),
        weights=weights,
        position_from=torch.cat(positions),
    )


def contextual_count(k: int) -> int:
    """Of k tokens: 30 of 192, 20 of 128 and 10 of 64, as in the paper."""
    return math.floor(5 * k / 32 + 0.5)


def _zip(attention: Tensor, keys: Tensor, k: int, has_class: bool) -> _Zipped:
    """Of B tiles: source [B, k], position_from [B, k] and weights [B, k, n (+ 1 for the class token)], from
    attention [B, n] and keys [B, n, d_k]."""
    tiles, n = attention.shape
    weights = keys.new_zeros(tiles, k, n + has_class)
    if k == 0:
        none = torch.empty(tiles, 0, dtype=torch.long, device=attention.device)
        return none, none, weights
    contextual = contextual_count(k)
    order = attention.argsort(dim=1, descending=True, stable=True)
    dominant = order[:, : k - contextual - has_class].sort(1).values
    rest = order[:, k - contextual - has_class :].sort(1).values
    step = max(1, rest.shape[1] // max(1, contextual))
    targets = rest[:, ::step][:, :contextual]
    own = torch.cat([dominant, targets], dim=1)
    weights[:, int(has_class) :].scatter_(2, own[..., None], 1)
    source = own
    if contextual and rest.shape[1] > contextual:
        place = torch.arange(rest.shape[1])
        other = place[(place % step != 0) | (place >= step * contextual)].to(rest.device)
        others = rest[:, other]
        joins = first_max(_rows(keys, others) @ _rows(keys, targets).mT)
        joined = weights.new_zeros(tiles, contextual, len(other)).scatter_(1, joins[:, None], 1)
        size = joined.sum(2, keepdim=True)
        share = joined / size.clamp(min=1)
        weights[:, k - contextual :].scatter_(2, others[:, None].expand_as(share), share)
        source = torch.cat([dominant, torch.where(size[..., 0] == 0, targets, -1)], dim=1)
    if not has_class:
        return source, own, weights
    weights[:, 0, n] = 1
    unused = torch.ones(tiles, n, dtype=torch.uint8, device=own.device).scatter_(1, own, 0)
    first = unused.argmax(1, keepdim=True)
    return torch.cat([torch.full_like(first, -1), source], 1), torch.cat([first, own], 1), weights


def _rows(values: Tensor, at: Tensor) -> Tensor:
    """[B, r, d]: the rows `at` [B, r] of values [B, n, d]."""
    return values.gather(1, at[..., None].expand(-1, -1, values.shape[-1]))
