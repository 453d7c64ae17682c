"""MMTok: the tokens that together cover both the words of the question and the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.prune.base import Batched, Context
from vlmbench.prune.coverage import cover_many
from vlmbench.prune.given import given_many
from vlmbench.prune.greedy import check_all_finite, of_tile
from vlmbench.prune.rows import gram
from vlmbench.prune.tiles import of_images, tile_shares

_OWN, _OTHERS = {"qwen2_5_vl": 0.01}, 0.02
"""The authors' `text_temperature` by family."""

_LEAST = 1e-4


@dataclass(frozen=True, kw_only=True)
class MMTok(Batched):
    """Greedy maximum coverage of words and visual tokens by the kept ones.

    A kept token covers a word by P = softmax(cos(text, Z) / text_temperature) and another visual token by
    Q = softmax(cos(X, X) / image_temperature), softmax over the tile's tokens; what counts is the best cover
    of each of the m words and n tokens: rows [P / m; alpha Q / n]. Each tile gets an equal share of the
    budget. The patches of a token are averaged.

    Based on MMTok (https://arxiv.org/abs/2508.18264). On purpose: all of the question's tokens count, as they
    stand in the prompt, where the authors leave out stop words and tokenise the rest word by word.

    Parameters: ratio, keep, positions (see Pruner); alpha, text_temperature, image_temperature. Reads
    features [N, d], grid [N, 3], projector_in [N, P, c] and text [T, d].
    """

    text_dependent: ClassVar[bool] = True

    alpha: float = 0.5
    """Weight of the image's own coverage."""
    text_temperature: float = 0.0
    """0 is the authors': .01 for Qwen2.5-VL, .02 for all others."""
    image_temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.text_temperature < _LEAST:
            raise UsageError(
                f"mmtok: text_temperature must be 0 or at least {_LEAST}: got {self.text_temperature}"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in", "text"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        rows: list[Tensor] = []
        texts, xs = given_many(contexts, "text", "mmtok"), given_many(contexts, "projector_in", "mmtok")
        check_all_finite([ctx.features for ctx in contexts], "visual features")
        for ctx, own, text, x in zip(contexts, tiles, texts, xs, strict=True):
            settings = self.resolved(ctx.family)
            rows += [settings.rows(text, of_tile(ctx.features, m), of_tile(x, m)) for m, _ in own]
        check_all_finite(rows, "similarities of the visual features")  # squares may overflow
        return of_images(tiles, cover_many(rows, [share for own in tiles for _, share in own]))

    def resolved(self, family: str) -> MMTok:
        """With a temperature in place of 0."""
        return self if self.text_temperature else replace(self, text_temperature=_OWN.get(family, _OTHERS))

    def rows(self, text: Tensor, features: Tensor, x: Tensor) -> Tensor:
        """[m + n, n]: n times [P / m; alpha Q / n] for m words [m, d] and the n tokens of a tile.

        A column is contiguous in memory, which is how `cover` reads it.
        """
        words, n = len(text), len(features)
        length = torch.linalg.vector_norm(features.float(), dim=-1).clamp(min=1e-12)
        meaning = torch.nn.functional.normalize(text.float(), dim=-1, eps=1e-12)
        p = torch.mm(meaning / self.text_temperature, features.float().T)
        patches = x.float().mean(1) if x.shape[1] > 1 else x[:, 0].float()
        inverse = 1 / torch.linalg.vector_norm(patches, dim=-1).clamp(min=1e-12)
        rows: Tensor = inverse.new_empty(n, words + n).T
        rows[:words] = torch.softmax(p / length, -1).mul_(n / max(words, 1))
        # cosines and their softmax in place; no cosine exceeds that of a token to itself
        q = gram(patches, out=rows[words:].T)
        q.mul_(inverse[:, None]).mul_(inverse / self.image_temperature)
        q.sub_(q.diagonal().clone()).exp_()
        q.mul_(self.alpha / q.sum(0))
        return rows
