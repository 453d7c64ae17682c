"""Three-state pseudo-labels out of the model's own attention (SD-RPN, arXiv 2509.16944, section 3.2).

With A the response map of an image without its sinks and its padding, and m = max A:

- foreground (1): A > .2 m;
- background (0): outside the box around all foreground and A < .1 m; and all padding;
- ignored (-1): everything else.

A whole image is ignored, with a reason, where its map is not finite, where too much of it was taken for
sinks, where m is too small to mean anything, and where the box covers half of the grid.

Where this differs from the authors' code: a value within 1e-6 m of a threshold counts as on it, and so is
ignored (`>` and `<` are strict), lest rounding decide; an image without any attention is dropped as weak and
not labelled from a box of the whole grid. Their batched variant for LLaVA, unlike their other two, takes rows
for columns in its box; it is not followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.roi.sinks import share_of

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1

UNUSABLE, SINKS, WEAK, WIDE = (
    "attention is not finite",
    "too many attention sinks",
    "attention is too weak",
    "box covers too much of the grid",
)
"""Why an image has no labels; the first that holds is told."""

_TIE = 1e-6  # of m; float32 attention is good to about 1e-7


@dataclass(frozen=True)
class LabelRule:
    """The constants of the labels."""

    foreground: float = 0.2
    """Share of m above which a token is foreground."""
    background: float = 0.1
    """Share of m below which a token outside the box is background."""
    wide: float = 0.5
    """Share of the grid from which on a box is too large to say anything."""
    blur: bool = False
    """Whether the box is put around the foreground after a 3 x 3 blur: one token more on each side."""
    floor: float = 2.88
    """m is at least so many times 1/N, N all tokens of the grid: 5e-3 at 576, where the paper sets it."""
    mass: float = 0.0
    """Where above 0, m is at least this, and `floor` is not looked at."""
    sinks: float = 0.2
    """Share of the shown tokens up to which sinks may be taken out."""


LABEL_RULES = {
    "default": LabelRule(),
    "llava": LabelRule(floor=0.0, sinks=1.0),
    "qwen": LabelRule(mass=5e-3, blur=True, sinks=1.0),
}
"""By preset: this project's, and those of the authors' code by family."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Of B images on one grid."""

    labels: Tensor
    """[B, H, W] int8: 1, 0 or -1; all -1 where there is a reason."""
    boxes: Tensor
    """[B, 4] int64: top, left, bottom, right of the box in tokens, the last two exclusive; zeros where there
    is no foreground."""
    reasons: tuple[str, ...]
    """Why an image has none, empty where it has labels."""
    sinks: Tensor
    """[B] float32: share of the shown tokens that were zeroed as sinks."""

    @property
    def usable(self) -> Tensor:
        """[B] bool."""
        return torch.tensor([not reason for reason in self.reasons], dtype=torch.bool)


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How many images were dropped for each reason, most frequent first. What a reason says behind a colon is
    of one image, and is left out."""
    return dict(Counter(reason.partition(": ")[0] for reason in reasons if reason).most_common())


def cleaned(map: Tensor, sinks: Tensor | None = None, shown: Tensor | None = None) -> Tensor:
    """[.., H, W] -> the same, float32: zero at sinks and at what shows none of the picture (both bool)."""
    map = map.float()
    if sinks is not None:
        map = torch.where(sinks, 0.0, map)
    return map if shown is None else torch.where(shown, map, 0.0)


def pseudo_labels(
    map: Tensor, rule: LabelRule, sinks: Tensor | None = None, shown: Tensor | None = None
) -> Labels:
    """Labels of the response maps [B, H, W] of B images.

    The maps are means over the grounding heads and are not renormalised over the image. `sinks` [B, H, W] or
    [H, W] bool, and `shown`, the tokens that see some of the picture; None for no sinks and no padding.
    """
    seen = torch.ones_like(map, dtype=torch.bool) if shown is None else shown.expand_as(map)
    gone = torch.zeros_like(seen) if sinks is None else sinks.expand_as(map)
    attention = cleaned(map, gone, seen)
    peak = attention.amax((1, 2))
    # in units of m, in which the thresholds and their ties are the same for every image
    relative = attention / peak.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
    foreground = relative > rule.foreground + _TIE
    boxes, inside = surrounding(foreground, int(rule.blur))
    background = ~inside & (relative < rule.background - _TIE) | ~seen
    labels = torch.full(map.shape, IGNORED, dtype=torch.int8, device=map.device)
    labels[background], labels[foreground] = BACKGROUND, FOREGROUND

    share = share_of(gone, seen)
    n = map.shape[1] * map.shape[2]
    least = rule.mass if rule.mass > 0 else rule.floor / n
    checks = (
        (UNUSABLE, ~attention.isfinite().all(2).all(1)),
        (SINKS, share > rule.sinks + _TIE),
        (WEAK, ~(peak > 0) | (peak < least)),
        (WIDE, inside.sum((1, 2)) >= rule.wide * n),
    )
    dropped = torch.stack([failed for _, failed in checks])
    labels[dropped.any(0)] = IGNORED
    reasons = tuple(
        next((checks[i][0] for i, failed in enumerate(column) if failed), "") for column in dropped.T.tolist()
    )
    return Labels(labels, boxes, reasons, share)


def surrounding(mask: Tensor, margin: int = 0) -> tuple[Tensor, Tensor]:
    """mask [B, H, W] bool -> its surrounding boxes [B, 4] int64 (top, left, bottom, right, the last two
    exclusive), `margin` tokens wider on each side and cut to the grid, and the boxes as [B, H, W] bool;
    zeros and nothing where the mask is empty."""
    height, width = mask.shape[1:]
    top, bottom = _span(mask.any(2), margin)
    left, right = _span(mask.any(1), margin)
    rows = torch.arange(height, device=mask.device)
    columns = torch.arange(width, device=mask.device)
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return torch.stack([top, left, bottom, right], 1), inside_rows[:, :, None] & inside_columns[:, None, :]


def _span(line: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """[B, n] bool -> first and one past the last true place, widened; 0, 0 where none is true."""
    n = line.shape[1]
    some = line.any(1)
    line = line.to(torch.uint8)  # argmax gives the first of equal values
    first = (line.argmax(1) - margin).clamp(min=0)
    last = (n - line.flip(1).argmax(1) + margin).clamp(max=n)
    return torch.where(some, first, 0), torch.where(some, last, 0)
