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
from vlmbench.prune.sensitivity import are_constant, exact, greedy_scores, jvp, sampled
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
        sensitivities = self._sensitivities(contexts)
        tiles: list[list[Share]] = []
        for ctx, k, constant in zip(contexts, ks, are_constant(sensitivities), strict=True):
            whole = [(torch.arange(ctx.n, device=ctx.features.device), k)]
            tiles.append(whole if constant else tile_shares(ctx, k))
        units = [(image, m) for image, own in enumerate(tiles) for m, _ in own]
        features = [of_tile(contexts[image].features, m) for image, m in units]
        scores = greedy_scores([of_tile(sensitivities[image], m) for image, m in units])
        if self.cen:
            for unit, (image, m) in enumerate(units):
                patches = of_tile(_given(contexts[image])[1], m)
                features[unit], scores[unit] = centred(features[unit], scores[unit], patches)
        shares = [share for own in tiles for _, share in own]
        return of_images(tiles, greedy_many(features, scores, shares))

    def _sensitivities(self, contexts: Sequence[Context]) -> list[Tensor]:
        """S [N] of each image; closed forms do all images of one projector at once."""
        given = [_given(ctx) for ctx in contexts]
        projectors = {id(projector) for projector, _ in given}
        shapes = {(x.shape[1:], x.dtype, x.device) for _, x in given}
        if len(projectors) == len(shapes) == 1 and self._in_closed_form(given[0][0]):
            xs = [x for _, x in given]
            together = exact(given[0][0], xs[0] if len(xs) == 1 else torch.cat(xs), self.rank)
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
