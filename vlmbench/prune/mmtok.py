"""MMTok: the tokens that together cover both the words of the prompt and the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.prune.base import Batched, Context
from vlmbench.prune.coverage import cover_many
from vlmbench.prune.given import given
from vlmbench.prune.greedy import check_finite, of_tile, unit_length
from vlmbench.prune.rows import gram
from vlmbench.prune.tiles import of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class MMTok(Batched):
    """Greedy maximum coverage of words and visual tokens by the kept ones.

    A kept token covers a word by P = softmax(cos(text, Z) / text_temperature) and another visual token by
    Q = softmax(cos(X, X) / image_temperature), softmax over the tile's tokens; what counts is the best cover
    of each of the m words and n tokens: rows [P / m; alpha Q / n]. Each tile gets an equal share of the
    budget. The patches of a token are averaged.

    Based on MMTok (https://arxiv.org/abs/2508.18264). On purpose: all words of the prompt count, where the
    authors leave out stop words.

    Parameters: ratio, keep, positions (see Pruner); alpha, text_temperature, image_temperature. Reads
    features [N, d], grid [N, 3], projector_in [N, P, c] and text [T, d].
    """

    text_dependent: ClassVar[bool] = True

    alpha: float = 0.5
    """Weight of the image's own coverage."""
    text_temperature: float = 0.02
    """The authors take .01 for Qwen2.5-VL."""
    image_temperature: float = 0.2

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in", "text"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        rows: list[Tensor] = []
        for ctx, own in zip(contexts, tiles, strict=True):
            text, x = given(ctx, "text", "mmtok"), given(ctx, "projector_in", "mmtok")
            check_finite(ctx.features, "visual features")
            rows += [self.rows(text, of_tile(ctx.features, m), of_tile(x, m)) for m, _ in own]
        return of_images(tiles, cover_many(rows, [share for own in tiles for _, share in own]))

    def rows(self, text: Tensor, features: Tensor, x: Tensor) -> Tensor:
        """[m + n, n]: n times [P / m; alpha Q / n] for m words [m, d] and the n tokens of a tile."""
        words, n = len(text), len(features)
        length = torch.linalg.vector_norm(features.float(), dim=-1).clamp(min=1e-12)
        p = torch.mm(unit_length(text[None])[0] / self.text_temperature, features.float().T)
        unit = unit_length((x.float().mean(1) if x.shape[1] > 1 else x[:, 0])[None])[0]
        rows = unit.new_empty(words + n, n)
        torch.softmax(p / length, -1, out=rows[:words]).mul_(n / max(words, 1))
        torch.softmax(gram(unit).div_(self.image_temperature), -1, out=rows[words:]).mul_(self.alpha)
        return rows
