"""The greedy rule of `greedy.py` as one GPU program per image.

As a loop of torch operations it is k times a handful of launches, which costs more than pruning saves. Here
one batched matrix product gives all cosines; then a program reads one row per step and keeps the running
minimum in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

from vlmbench.prune.greedy import TIE

MAX_TOKENS = 8192
"""Of an image: its running minimum is one block."""

_MATRIX_BYTES = 1 << 30  # of cosines at once


def _kernel(
    cosines: Any,  # [B, N, N]
    scores: Any,  # [B, N]
    start: Any,  # [B, N]: what the first token is the argmax of
    out: Any,  # [B, k]
    n: Any,
    k: Any,
    tie: tl.constexpr,
    width: tl.constexpr,
) -> None:
    image = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, width)
    inside = at < n
    score = tl.load(scores + image * n + at, mask=inside, other=0.0)
    value = tl.load(start + image * n + at, mask=inside, other=float("-inf"))
    nearest = tl.full([width], float("inf"), tl.float32)
    left = inside
    for step in range(k):
        best = tl.max(value, axis=0)
        token = tl.min(tl.where(value >= best - tie, at, width), axis=0)
        tl.store(out + image * k + step, token.to(tl.int64))
        left = left & (at != token)
        row = tl.load(cosines + (image * n + token) * n + at, mask=inside, other=0.0)
        nearest = tl.minimum(nearest, 1.0 - row)
        value = tl.where(left, score * nearest, float("-inf"))


_launch: Any = triton.jit(_kernel)


def select(unit: Tensor, scores: Tensor | None, k: int) -> Tensor:
    """Indices [B, k], ascending: see `greedy`. unit [B, N, d] of unit length, float32; scores [B, N]."""
    images, n, _ = unit.shape
    at_once = max(1, _MATRIX_BYTES // (4 * n * n))
    out = torch.empty(images, k, dtype=torch.long, device=unit.device)
    for a in range(0, images, at_once):
        part = unit[a : a + at_once]
        cosines = torch.bmm(part, part.mT)
        if scores is None:
            # a token's own entry is read only after it was chosen, when it no longer counts
            cosines.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            start = 1 - cosines.amax(-1)
            weight = torch.ones_like(start)
        else:
            start = weight = scores[a : a + at_once].contiguous()
        width = triton.next_power_of_2(n)
        warps = min(16, max(1, width // 256))
        _launch[(len(part),)](
            cosines, weight, start, out[a : a + at_once], n, k, tie=TIE, width=width, num_warps=warps
        )
    return out.sort(1).values
