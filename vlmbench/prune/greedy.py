"""Greedy choice of tokens that score high and differ from each other, for every rule of that form.

First token: the highest score, or without scores (DivPrune) the one farthest from its nearest other token.
Then, k - 1 times: argmax_i score_i * min_{p chosen} D_ip, with D_ij = 1 - cos(Z_i, Z_j) in float32.

Float32 products of the same two vectors differ in the last digits between devices, batch sizes and libraries.
That must not decide which token is kept, so values within `TIE` of the largest are tied and the lowest index
wins; exact duplicates (D = 0) always are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlmbench.errors import ItemError
from vlmbench.prune.rows import CosineRows

TIE = 1e-6
"""Absolute: scores lie in [0, 1] and distances in [0, 2]; float32 cosines are good to about 3e-7."""

_MATRIX_SIDE = 4096  # up to 64 MB of distances per image; beyond, rows are computed when they are needed
_MATRIX_SHARE = 6  # the whole matrix pays once more than N / 6 of its rows are read (one CPU thread)
_BLOCK = 192


def greedy(features: Tensor, scores: Tensor | None, k: int) -> Tensor:
    """Indices [B, k], ascending, of the tokens chosen in each of B images.

    features [B, N, d]; scores [B, N] in [0, 1], None for all equal. A zero vector has cosine 0 to all.
    Raises ItemError where features or scores are not finite.
    """
    images, n, _ = features.shape
    if not 0 <= k <= n:
        raise ValueError(f"greedy: k must be in [0, {n}]: got {k}")
    unit = unit_length(features)
    if scores is not None:
        check_finite(scores, "token scores")
        scores = scores.to(unit)
    if k in (0, n):
        return torch.arange(k, device=features.device).repeat(images, 1)
    if features.is_cuda and importlib.util.find_spec("triton"):
        from vlmbench.prune import greedy_triton

        if n <= greedy_triton.MAX_TOKENS:
            return greedy_triton.select(unit, scores, k)
    at_once = max(1, _MATRIX_SIDE**2 // (n * n))
    chosen = [
        _select(unit[a : a + at_once], None if scores is None else scores[a : a + at_once], k)
        for a in range(0, images, at_once)
    ]
    return torch.cat(chosen)


def greedy_many(
    features: Sequence[Tensor],
    scores: Sequence[Tensor | None],
    ks: Sequence[int],
    choose: Callable[[Tensor, Tensor | None, int], Tensor] = greedy,
) -> list[Tensor]:
    """`choose` for single images [N, d] with scores [N]; images of equal shape and k share one call."""
    chosen: list[Tensor] = [torch.empty(0)] * len(features)
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, (feature, score, k) in enumerate(zip(features, scores, ks, strict=True)):
        groups.setdefault((feature.shape, feature.dtype, feature.device, score is None, k), []).append(i)
    for members in groups.values():
        given = [score for i in members if (score := scores[i]) is not None]
        batch = choose(
            _stack([features[i] for i in members]), _stack(given) if given else None, ks[members[0]]
        )
        for i, row in zip(members, batch, strict=True):
            chosen[i] = row
    return chosen


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """As torch.stack, which copies, and for a large image that takes as long as choosing."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def first_max(values: Tensor, tie: Tensor | float = TIE) -> Tensor:
    """[..., N] -> [...]: the lowest index whose value is within `tie` of the largest."""
    bound: Tensor = values.amax(-1, keepdim=True) - tie
    return torch.minimum(values, bound).argmax(-1)


def by_tile(grid: Tensor, device: torch.device | None = None) -> list[Tensor]:
    """Indices of each tile's tokens, ascending, on `device` (default the grid's); grid [N, 3]: tile, row,
    column."""
    return [(grid[:, 0] == tile).nonzero()[:, 0].to(device) for tile in torch.unique(grid[:, 0])]


def of_tile(values: Tensor, members: Tensor) -> Tensor:
    """values [N, ..] of the tokens `members`, which are ascending; where these are all, without a copy."""
    return values if len(members) == len(values) else values[members]


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; a sum, which both survive, costs a fraction of looking at each."""
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(torch.isfinite(values).all())


def check_finite(values: Tensor, what: str) -> None:
    """Raises ItemError where `values` holds NaN or infinity; `what` names them, in the plural."""
    if not all_finite(values):
        raise ItemError(f"{what} are not finite (NaN or infinite): run the model in bfloat16 or float32")


def check_all_finite(values: Sequence[Tensor], what: str) -> None:
    """`check_finite` for tensors of several images on one device, which is waited for once."""
    sums = [each.sum(dtype=torch.float32) for each in values]
    if sums and not bool(torch.stack(sums).isfinite().all()):
        for each in values:
            check_finite(each, what)


def unit_length(features: Tensor) -> Tensor:
    """[B, N, d] in float32, of unit length; norms below 1e-12 count as 1e-12."""
    features = features.float()
    norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    check_finite(norm, "visual features")  # a row's norm is finite only if the row is
    unit: Tensor = features / norm.clamp(min=1e-12)
    return unit


def _select(unit: Tensor, scores: Tensor | None, k: int) -> Tensor:
    """The rule, for B images at once: one row of distances and a running minimum per step."""
    n = unit.shape[1]
    matrix = _distances(unit) if n <= _MATRIX_SIDE and (scores is None or k * _MATRIX_SHARE > n) else None
    if scores is None:
        first = first_max(_nearest_other(_blocks(unit, matrix), n))
        scores = torch.ones_like(unit[:, :, 0])
    else:
        first = first_max(scores)
    steps = _steps_on_cpu if unit.device.type == "cpu" else _steps
    return steps(unit, matrix, scores, first, k).sort(1).values


def _steps_on_cpu(unit: Tensor, matrix: Tensor | None, scores: Tensor, first: Tensor, k: int) -> Tensor:
    """[B, k] in the order of choice, image by image in NumPy: an operation on N numbers takes a
    microsecond there and five in torch, and there are six of them per token."""
    chosen = np.empty((len(unit), k), dtype=np.int64)
    tie = np.float32(TIE)
    for image, token in enumerate(first.tolist()):
        rows = CosineRows(unit[image]) if matrix is None else matrix[image].numpy()
        weight = scores[image].numpy()
        nearest = np.full_like(weight, np.inf)
        value, taken = weight.copy(), np.zeros_like(weight)
        chosen[image, 0] = token
        for step in range(1, k):
            row = 1 - rows.row(token, value) if isinstance(rows, CosineRows) else rows[token]
            taken[token] = -np.inf
            np.minimum(nearest, row, out=nearest)
            np.multiply(weight, nearest, out=value)
            value += taken
            token = int((value >= value.max() - tie).argmax())
            chosen[image, step] = token
    return torch.from_numpy(chosen)


def _steps(unit: Tensor, matrix: Tensor | None, scores: Tensor, first: Tensor, k: int) -> Tensor:
    """[B, k] in the order of choice, all images at once, on any device."""
    images, n, _ = unit.shape
    offset = torch.arange(images, device=unit.device) * n
    flat = (unit if matrix is None else matrix).flatten(0, 1)
    one = unit.new_ones(1, 1, 1)
    token, chosen = first, [first]
    taken = torch.zeros_like(scores)
    nearest = torch.full_like(scores, torch.inf)
    tie = unit.new_tensor(TIE)  # as a tensor: a Python number costs twice as much per step
    for _ in range(k - 1):
        taken.scatter_(1, token[:, None], -torch.inf)
        row = flat.index_select(0, offset + token)
        if matrix is None:
            row = torch.baddbmm(one, unit, row[:, :, None], alpha=-1)[:, :, 0]
        nearest = torch.minimum(nearest, row)
        token = first_max(torch.addcmul(taken, scores, nearest), tie)
        chosen.append(token)
    return torch.stack(chosen, dim=1)


def _blocks(unit: Tensor, matrix: Tensor | None) -> Callable[[int, int], Tensor]:
    """Rows a..b of the distance matrix of every image, [B, b - a, N]."""
    one = unit.new_ones(1, 1, 1)

    def block(start: int, stop: int) -> Tensor:
        if matrix is not None:
            return matrix[:, start:stop]
        return torch.baddbmm(one, unit[:, start:stop], unit.mT, alpha=-1)

    return block


def _distances(unit: Tensor) -> Tensor:
    """[B, N, N]; the matrix is symmetric, so the blocks below its diagonal are copied."""
    images, n, _ = unit.shape
    out = unit.new_empty(images, n, n)
    one = unit.new_ones(1, 1, 1)
    for a in range(0, n, _BLOCK):
        b = min(a + _BLOCK, n)
        upper = torch.baddbmm(one, unit[:, a:b], unit[:, a:].mT, alpha=-1)
        out[:, a:b, a:] = upper
        out[:, b:, a:b] = upper[:, :, b - a :].mT
    return out


def _nearest_other(block: Callable[[int, int], Tensor], n: int) -> Tensor:
    """[B, N]: each token's distance to the nearest other one, from blocks of rows of the distance matrix."""
    parts = []
    for a in range(0, n, _BLOCK):
        rows = block(a, min(a + _BLOCK, n))
        own = rows[:, :, a : a + _BLOCK].diagonal(dim1=1, dim2=2)
        own.fill_(torch.inf)
        parts.append(rows.amin(-1))
        own.zero_()
    return torch.cat(parts, dim=1)
