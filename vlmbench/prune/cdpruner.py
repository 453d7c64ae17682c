"""CDPruner: tokens that differ from each other given the question, by a determinantal point process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import Batched, Context
from vlmbench.prune.centred import SAME, centred
from vlmbench.prune.dpp import dpp
from vlmbench.prune.given import given
from vlmbench.prune.greedy import greedy_many, of_tile
from vlmbench.prune.tiles import of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class Conditional(Batched):
    """Base of both: what a token has to do with the question x diversity, as the volume of the chosen.

    r = minmax(-relevance) over the image, then per tile, each with an equal share of the budget, greedy MAP
    of the determinantal point process with L = diag(r) cos(Z) diag(r). The minus is the authors': CLIP's
    patches are less similar to a text where they show it.

    On purpose unlike the authors' code: tokens that add nothing, as duplicates do, are chosen by relevance
    and not by rounding errors; relevances that are equal but for rounding count as one.
    """

    text_dependent: ClassVar[bool] = True

    cen: bool = False
    """The plug-in of `prune.centred`: cosines of centred features, relevance x unusualness."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in"} if self.cen else ())

    def relevance(self, ctx: Context) -> Tensor:
        """[N]: cosine of each token to the question."""
        raise self._lacks("relevance")

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        features: list[Tensor] = []
        scores: list[Tensor | None] = []
        for ctx, own in zip(contexts, tiles, strict=True):
            quality = _scaled(-self.relevance(ctx).float())
            patches = given(ctx, "projector_in", "cdpruner(cen=true)") if self.cen else None
            for m, _ in own:
                feature, score = of_tile(ctx.features, m), None if quality is None else quality[m]
                if patches is not None:
                    feature, score = centred(feature, score, of_tile(patches, m))
                features.append(feature)
                scores.append(score)
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(features, scores, shares, dpp))


@dataclass(frozen=True, kw_only=True)
class CDPruner(Conditional):
    """Relevance by CLIP x diversity.

    Relevance is the cosine between a patch and the question in the joint space of CLIP, whose text tower
    comes from the checkpoint that the model's vision tower is from. Its cost is part of the method's.

    Based on CDPruner (https://arxiv.org/abs/2506.10967); see `Conditional`.

    Parameters: ratio, keep, positions (see Pruner); clip, cen. Reads features [N, d], grid [N, 3] and
    relevance [N], with cen also projector_in [N, P, c].
    """

    clip: str = ""
    """Folder or hub id of the CLIP checkpoint."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"clip_relevance", "projector_in"}

    def relevance(self, ctx: Context) -> Tensor:
        if ctx.relevance is None and not self.clip:
            raise NotApplicableError(
                "cdpruner needs clip_relevance, from the text tower of the model's CLIP checkpoint: "
                "--method 'cdpruner(clip=openai/clip-vit-large-patch14-336)', or use cdpruner-llm"
            )
        return given(ctx, "clip_relevance", "cdpruner", instead="cdpruner-llm")


@dataclass(frozen=True, kw_only=True)
class CDPrunerLLM(Conditional):
    """Relevance by the language model's own words x diversity.

    Relevance is the cosine between a projected token and the mean input embedding of the prompt's text: for
    models that have no text tower. Its results are not CDPruner's and never stand beside them.

    Based on CDPruner (https://arxiv.org/abs/2506.10967); see `Conditional`.

    Parameters: ratio, keep, positions (see Pruner); cen. Reads features [N, d], grid [N, 3] and text [T, d],
    with cen also projector_in [N, P, c].
    """

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"text"}

    def relevance(self, ctx: Context) -> Tensor:
        text = given(ctx, "text", "cdpruner-llm").float()
        features = ctx.features.float()
        length = torch.linalg.vector_norm(features, dim=-1).clamp(min=1e-12)
        if not len(text):
            return torch.zeros_like(length)
        words = torch.nn.functional.normalize(text.mean(0), dim=-1)
        found: Tensor = torch.mv(features, words) / length
        return found


def _scaled(value: Tensor) -> Tensor | None:
    """[N] in [0, 1], as CDPruner's code scales; None where all are equal."""
    low, high = value.aminmax()
    if high - low <= SAME:
        return None
    return (value - low + 1e-6) / (high - low)
