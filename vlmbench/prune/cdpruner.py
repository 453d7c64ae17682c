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
from vlmbench.prune.given import given_many
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

    def relevances(self, contexts: Sequence[Context]) -> list[Tensor]:
        """[N] of each image: cosine of each token to the question."""
        raise self._lacks("relevances")

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles = [tile_shares(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        features: list[Tensor] = []
        scores: list[Tensor | None] = []
        relevances = self.relevances(contexts)
        patches = given_many(contexts, "projector_in", "cdpruner(cen=true)") if self.cen else None
        for image, own in enumerate(tiles):
            quality = _scaled(-relevances[image].float())
            for m, _ in own:
                features.append(of_tile(contexts[image].features, m))
                scores.append(of_tile(quality, m))
                if patches is not None:
                    features[-1], scores[-1] = centred(features[-1], scores[-1], of_tile(patches[image], m))
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

    def relevances(self, contexts: Sequence[Context]) -> list[Tensor]:
        if not self.clip and any(ctx.relevance is None for ctx in contexts):
            raise NotApplicableError(
                "cdpruner needs clip_relevance, from the text tower of the model's CLIP checkpoint: "
                "--method 'cdpruner(clip=openai/clip-vit-large-patch14-336)', or use cdpruner-llm"
            )
        return given_many(contexts, "clip_relevance", "cdpruner", instead="cdpruner-llm")


@dataclass(frozen=True, kw_only=True)
class CDPrunerLLM(Conditional):
    """Relevance by the language model's own words x diversity.

    Relevance is the cosine between a projected token and the mean input embedding of the question's tokens:
    for models that have no text tower. Its results are not CDPruner's and never stand beside them.

    Based on CDPruner (https://arxiv.org/abs/2506.10967); see `Conditional`.

    Parameters: ratio, keep, positions (see Pruner); cen. Reads features [N, d], grid [N, 3] and text [T, d],
    with cen also projector_in [N, P, c].
    """

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"text"}

    def relevances(self, contexts: Sequence[Context]) -> list[Tensor]:
        texts = given_many(contexts, "text", "cdpruner-llm")
        return [_to_words(ctx.features.float(), text) for ctx, text in zip(contexts, texts, strict=True)]


def _to_words(features: Tensor, text: Tensor) -> Tensor:
    """[N]: cosine of features [N, d] to the mean of text [T, d]; zeros where T is."""
    length = torch.linalg.vector_norm(features, dim=-1).clamp(min=1e-12)
    if not len(text):
        return torch.zeros_like(length)
    words = torch.nn.functional.normalize(text.float().mean(0), dim=-1)
    found: Tensor = torch.mv(features, words) / length
    return found


def _scaled(value: Tensor) -> Tensor:
    """[N] in [0, 1], as CDPruner's code scales; ones where all are equal."""
    low, high = value.aminmax()
    return torch.where(high - low <= SAME, 1.0, (value - low + 1e-6) / (high - low))
