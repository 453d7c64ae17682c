"""The plug-in `cen`: diversity of tokens without their mean, and a bonus for being unusual.

Features of one image share a large common part, which brings all cosines near one and hides how tokens
differ. With `cen` a method measures diversity on mean-centred features and multiplies its score by the
tokens' unusualness: minus the mean cosine to all tokens, before centring, scaled to [0, 1].

Based on arXiv 2608.30263. Our reading where its description leaves a choice: mean and scale are taken over
the tokens that compete with each other (a tile, or the whole image for DivPrune), and the product joins the
method's own score, so that DivPrune, which has none, starts with the most unusual token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmbench.prune.greedy import check_finite

SAME = 1e-5
"""Cosines whose range is below this are taken to be equal: float32 makes them differ by 3e-7."""


def centred(features: Tensor, score: Tensor | None, patches: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features and score of n competing tokens, for the greedy choice of the method that has the plug-in.

    features [n, d]; score [n] in [0, 1], None for all equal; patches [n, P, c]: the projector's input.
    Returns features [n, d] and score [n] in [0, 1], None where all are equal. Raises ItemError for what is
    not finite.
    """
    unusual = unusualness(features, patches)
    if score is not None and unusual is not None:
        unusual = unusual * score
    return centre(features), score if unusual is None else unusual


def centre(features: Tensor) -> Tensor:
    """[n, d] in float32 without their mean; rows that are their mean but for rounding become zero."""
    features = features.float()
    rest = features - features.mean(0)
    length = torch.linalg.vector_norm(rest, dim=-1)
    something = length > SAME * torch.linalg.vector_norm(features, dim=-1)
    return rest.mul_((something | ~length.isfinite())[:, None])


def unusualness(features: Tensor, patches: Tensor) -> Tensor | None:
    """[n] in [0, 1]; None where all tokens are equally unusual. Shapes as in `centred`.

    minmax(-mean_j cos(Z_i, Z_j)). Where P > 1 patches make one token, merged features say less: there it is
    sigmoid(z-score) of the same mean cosine between patches in front of the projector, each dimension divided
    by its standard deviation, averaged over a token's patches.
    """
    if patches.shape[1] == 1:
        value = _distance_to_all(features)
        low, high = value.aminmax()
        return None if high - low <= SAME else (value - low) / (high - low + 1e-8)
    flat = patches.float().flatten(0, 1)
    check_finite(flat, "outputs of the vision encoder")
    spread = flat.std(0, correction=0)
    steady = spread <= 1e-6 * flat.abs().amax(0)  # the same everywhere but for rounding
    scaled = torch.where(steady, 0, flat / torch.where(steady, 1, spread))
    value = _distance_to_all(scaled).view(patches.shape[:2]).mean(1)
    low, high = value.aminmax()
    if high - low <= SAME:
        return None
    return torch.sigmoid((value - value.mean()) / value.std(correction=0))


def _distance_to_all(vectors: Tensor) -> Tensor:
    """[n]: -mean_j cos(v_i, v_j), as the product with the mean of the unit vectors."""
    vectors = vectors.float()
    length = torch.linalg.vector_norm(vectors, dim=-1)
    check_finite(length, "visual features")
    inverse = 1 / length.clamp(min=1e-12)
    found: Tensor = vectors @ (inverse @ vectors) * inverse
    return -found / len(vectors)
