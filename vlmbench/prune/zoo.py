"""ZOO-Prune: the tokens to which the projector is sensitive, and that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import Batched, Context
from vlmbench.prune.centred import centred
from vlmbench.prune.greedy import greedy_many, of_tile
from vlmbench.prune.projector import Projector
from vlmbench.prune.sensitivity import exact, is_constant, jvp, normalise, sampled
from vlmbench.prune.tiles import Share, of_images, tile_shares


@dataclass(frozen=True, kw_only=True)
class Zoo(Batched):
    """Sensitivity x diversity.

    A token's sensitivity is how far its projected feature moves when the encoder's output does. Starts with
    the most sensitive token, then adds the one with the largest sensitivity, scaled to [0, 1] per tile, x
    distance (1 - cosine of projected features) from all chosen ones. Each tile gets an equal share of the
    budget. Where the sensitivity cannot vary (linear projectors) or varies by less than a thousandth over
    the image, it is noise: the choice is DivPrune's, over the whole image.

    Based on ZOO-Prune (https://arxiv.org/abs/2509.24837); estimator `exact` is this project's.

    Parameters: ratio, keep, positions (see Pruner); estimator, m, h, rank, cen. Reads features [N, d],
    grid [N, 3], projector_in [N, P, c] and the projector.
    """

    estimator: str = "exact"
    """`exact`: closed form, `jvp` where there is none; `sampled`: as in the paper; `jvp`: its limit."""
    m: int = 64
    """Random directions of `sampled` and `jvp`."""
    h: float = 0.01
    """Step of `sampled`."""
    rank: int = 0
    """Of the closed form's matrices; 0 for all of them."""
    cen: bool = False
    """The plug-in of `prune.centred`: distances of centred features, sensitivity x unusualness."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"projector_in"})

    def select_many(self, contexts: Sequence[Context], ks: Sequence[int]) -> list[Tensor]:
        tiles: list[list[Share]] = []
        features: list[Tensor] = []
        scores: list[Tensor | None] = []
        for ctx, k, sensitivity in zip(contexts, ks, self._sensitivities(contexts), strict=True):
            whole = [(torch.arange(ctx.n, device=ctx.features.device), k)]
            tiles.append(whole if is_constant(sensitivity) else tile_shares(ctx, k))
            for m, _ in tiles[-1]:
                feature, score = of_tile(ctx.features, m), _score(sensitivity[m])
                if self.cen:
                    feature, score = centred(feature, score, of_tile(_given(ctx)[1], m))
                features.append(feature)
                scores.append(score)
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(features, scores, shares))

    def _sensitivities(self, contexts: Sequence[Context]) -> list[Tensor]:
        """S [N] of each image; closed forms do all images of one projector at once."""
        given = [_given(ctx) for ctx in contexts]
        projectors = {id(projector) for projector, _ in given}
        shapes = {(x.shape[1:], x.dtype, x.device) for _, x in given}
        if len(projectors) == len(shapes) == 1 and self._in_closed_form(given[0][0]):
            together = exact(given[0][0], torch.cat([x for _, x in given]), self.rank)
            return list(torch.split(together, [len(x) for _, x in given]))
        return [self._sensitivity(*pair, ctx.seed) for pair, ctx in zip(given, contexts, strict=True)]

    def _sensitivity(self, projector: Projector, x: Tensor, seed: int) -> Tensor:
        if self._in_closed_form(projector):
            return exact(projector, x, self.rank)
        if self.estimator == "sampled":
            return sampled(projector, x, self.m, self.h, seed)
        return jvp(projector, x, self.m, seed)

    def _in_closed_form(self, projector: Projector) -> bool:
        # sampling a constant would only add rounding errors to it
        form = projector.form
        return form is not None and (self.estimator == "exact" or form.constant)


def _given(ctx: Context) -> tuple[Projector, Tensor]:
    if ctx.projector is None or ctx.projector_in is None:
        raise NotApplicableError(
            "zoo needs the projector and its input, which this model does not give: use divprune"
        )
    return ctx.projector, ctx.projector_in


def _score(sensitivity: Tensor) -> Tensor | None:
    """[n] in [0, 1]; None where all are equal."""
    return None if is_constant(sensitivity) else normalise(sensitivity)
