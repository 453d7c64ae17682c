"""Greedy MAP inference of a determinantal point process: k tokens of high quality that span much volume.

L = diag(q) cos(Z) diag(q). Every step adds the token that multiplies det(L of the chosen) most: its gain is
q_i^2 minus what the chosen already explain of it, kept up to date by an incremental Cholesky factor
(Chen et al., https://arxiv.org/abs/1709.05135).

Gains are differences of float32 numbers of size one, so those of `TIE` or less are taken to be zero: a
duplicate of a chosen token has none. When no token has any left, the rest is filled by quality.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmbench.prune.greedy import TIE, check_finite, first_max, unit_length
from vlmbench.prune.rows import CosineRows


def dpp(features: Tensor, quality: Tensor | None, k: int) -> Tensor:
    """Indices [B, k], ascending, of the tokens chosen in each of B images.

    features [B, N, d]; quality [B, N] in [0, 1], None for all equal. A zero vector has cosine 0 to all
    others. Ties as in `greedy`: within `TIE`, the lowest index. Raises ItemError for what is not finite.
    """
    images, n, _ = features.shape
    if not 0 <= k <= n:
        raise ValueError(f"dpp: k must be in [0, {n}]: got {k}")
    if quality is None:
        quality = features.new_ones(images, n, dtype=torch.float32)
    check_finite(quality, "token scores")
    unit = unit_length(features)
    quality = quality.to(unit)
    if k in (0, n):
        return torch.arange(k, device=features.device).repeat(images, 1)
    if unit.device.type == "cpu":
        chosen = np.stack([_on_cpu(u, q, k) for u, q in zip(unit, quality, strict=True)])
        return torch.from_numpy(chosen)
    return _on_device(unit, quality, k).sort(1).values


def _on_cpu(unit: Tensor, scores: Tensor, k: int) -> NDArray[np.int64]:
    """[k], ascending: one image, in NumPy for the reason given at `greedy._steps_on_cpu`."""
    rows, quality, tie = CosineRows(unit), scores.numpy(), np.float32(TIE)
    gain, left = quality * quality, quality.copy()
    if k * 3 > len(gain) or gain.max() - gain.min() <= tie:
        rows.all()  # most will be read, or nothing says which
    factor = np.empty((k, len(quality)), dtype=np.float32)
    chosen = np.empty(k, dtype=np.int64)
    for step in range(k):
        best = gain.max()
        if best <= tie:
            token = int((left >= left.max() - tie).argmax())
        else:
            token = int(((gain >= best - tie) & (gain > tie)).argmax())
            share = rows.row(token, gain) * (quality * quality[token])
            share -= factor[:step, token] @ factor[:step]
            share /= np.sqrt(gain[token])
            factor[step] = share
            gain -= share * share
        chosen[step] = token
        gain[token] = left[token] = -np.inf
    return np.sort(chosen)


def _on_device(unit: Tensor, quality: Tensor, k: int) -> Tensor:
    """[B, k] in the order of choice, all images at once, without waiting for the device."""
    images, n, _ = unit.shape
    offset = torch.arange(images, device=unit.device) * n
    flat = unit.flatten(0, 1)
    gain, left = quality * quality, quality.clone()
    factor = unit.new_zeros(images, k, n)
    tie = unit.new_tensor(TIE)
    chosen = []
    for step in range(k):
        best = gain.amax(-1, keepdim=True)
        spent = best <= tie
        likely = torch.where(gain > tie, gain, -torch.inf)
        token = torch.where(spent[:, 0], first_max(left, tie), first_max(likely, tie))
        own = token[:, None]
        row = torch.bmm(unit, flat.index_select(0, offset + token)[:, :, None])[:, :, 0]
        row = row * quality * quality.gather(1, own)
        before = factor.gather(2, token[:, None, None].expand(-1, k, 1))
        share = (row - torch.bmm(before.mT, factor)[:, 0]) / gain.gather(1, own).clamp(min=TIE).sqrt()
        share = torch.where(spent, 0.0, share)
        factor[:, step] = share
        gain = (gain - share * share).scatter(1, own, -torch.inf)
        left = left.scatter(1, own, -torch.inf)
        chosen.append(token)
    return torch.stack(chosen, dim=1)
