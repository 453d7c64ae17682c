"""Attention sinks: visual tokens that draw attention whatever is asked, and would pass for foreground.

The map that shows them, the sink map of an image, is the mean of the response maps of a few heads. The
published ones were picked by hand (SD-RPN's code, arXiv 2509.16944): all heads of layer 2 for LLaVA-1.5-7B,
16:{17, 22} for 13B, 8:{1, 13} for Qwen2.5-VL-3B, 9:{4, 22} for 7B, none for images of text. Here they are
selected on the calibration items (`vlmbench.roi.heads`): `steady` says from TWO questions on one image which
tokens all heads look at under both, and a head whose map under ONE question gives the same tokens away is a
sink head. Where no head does, there are no sink heads and nothing is zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmbench.errors import UsageError

STEADY = 0.8
"""Share of the attention on a token that both questions must agree on."""


@dataclass(frozen=True)
class SinkRule:
    """Which tokens of a sink map are sinks."""

    times: float = 10.0
    """A sink has at least so many times the map's median."""
    top: float = 0.05
    """And is among this share of the tokens, those of largest attention; one token at least."""
    mass: float = 0.0
    """Where above 0, both give way to it: a sink has at least this attention. Published figures are of this
    kind, but do not carry over: 1e-3 is half of what each of 576 tokens has on average where all attention is
    on the image, and a seventh for 144 tokens."""
    most: float = 0.2
    """Share of an image's tokens beyond which what was found are no sinks; see `check_share`."""


DEFAULT = "default"
SINK_RULES = {DEFAULT: SinkRule(), "llava": SinkRule(mass=1e-3), "qwen": SinkRule(mass=1e-2)}
"""By preset: this project's, and the constants of arXiv 2509.16944 by family."""


def find_sinks(map: Tensor, rule: SinkRule, shown: Tensor | None = None) -> Tensor:
    """[.., H, W] attention -> the same, bool. `shown` [.., H, W] bool: tokens that see some of the picture;
    the others have no part in median and rank and are never sinks.

    The median is the lower one of an even count; of equal values at the border of the top share the lowest
    indices are in it. Tokens without attention are none, nor are those of a map that is not finite.
    """
    flat = map.float().flatten(-2)
    seen = torch.ones_like(flat, dtype=torch.bool)
    if shown is not None:
        seen = seen & shown.flatten(-2)
    positive = seen & (flat > 0) & flat.isfinite()
    if rule.mass > 0:
        return (positive & (flat >= rule.mass)).view(map.shape)
    median = torch.where(seen, flat, torch.nan).nanmedian(-1, keepdim=True).values
    rank = torch.where(positive, flat, 0.0).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    places = (seen.sum(-1, keepdim=True) * rule.top + 1e-9).floor().clamp(min=1)
    return (positive & (rank < places) & (flat >= rule.times * median)).view(map.shape)


def share_of(sinks: Tensor, shown: Tensor | None = None) -> Tensor:
    """[.., H, W] bool -> [..]: share of the shown tokens that are sinks."""
    seen = torch.ones_like(sinks) if shown is None else shown.expand_as(sinks)
    return (sinks & seen).flatten(-2).sum(-1) / seen.flatten(-2).sum(-1).clamp(min=1)


def check_share(shares: Tensor, rule: SinkRule, what: str) -> float:
    """Mean of the shares [S] that `share_of` gives for S images; `what` names how the sinks were found.

    Sinks are few: where more than `rule.most` of the tokens are taken for sinks on average, the rule is wrong
    for the model. A single image beyond it is no error, but has no labels (`vlmbench.roi.labels`).
    Raises UsageError.
    """
    share = float(shares.float().mean()) if len(shares) else 0.0
    if share > rule.most:
        raise UsageError(
            f"sinks by {what}: {share:.0%} of the visual tokens are taken for attention sinks, at most "
            f"{rule.most:.0%} can be; its constants were made for another model: use {DEFAULT!r}"
        )
    return share


def massive(hidden: Tensor, above: float = 20.0, few: int = 4, dims: tuple[int, ...] = ()) -> Tensor:
    """[.., N, d] hidden states of the visual tokens -> [.., N] bool: those with a massive activation.

    x / RMS(x) beyond `above` in absolute value in one of `dims`; where none are named, in one of the `few`
    dimensions that reach furthest over all tokens given, so that all images of a set should be given at once.
    After arXiv 2503.03321, whose dimensions are 1415 and 2533 for LLaMA-2-7B, 2100 and 4743 for 13B.

    Raises UsageError where no vector of that width can reach `above`.
    """
    width = hidden.shape[-1]
    if width <= above**2:
        raise UsageError(
            f"sinks by massive activations: hidden states of width {width} cannot exceed {width**0.5:.1f} "
            f"times their root mean square, and {above:g} is asked for: use {DEFAULT!r}"
        )
    hidden = hidden.float()
    size = (hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)).abs()
    if dims:
        chosen = torch.tensor(dims, device=size.device)
    else:
        furthest = size.flatten(0, -2).amax(0)
        chosen = furthest.argsort(descending=True, stable=True)[:few]
    return (size.index_select(-1, chosen) > above).any(-1)


def steady(asked: Tensor, other: Tensor, rule: SinkRule, shown: Tensor | None = None) -> Tensor:
    """[L, A, H, W] maps of all heads under two questions on one image -> [H, W] bool: tokens that look like
    sinks under both.

    With p and q a head's two maps, each divided by its sum: the mean over heads of min(p, q) passes `rule`,
    and sum_h w min(p, q) >= .8 sum_h w max(p, q), where w is the head's change, half of sum |p - q|. The
    weights let the heads that follow the question have their say: an object that most heads always look at
    but these look at only when asked is salient, not a sink. `rule.mass` is not used.
    """
    p, q = (normalised(each, shown).flatten(0, 1) for each in (asked, other))
    low, high = torch.minimum(p, q), torch.maximum(p, q)
    weight = (high - low).sum((-2, -1), keepdim=True) / 2
    agreed = (weight * low).sum(0) >= STEADY * (weight * high).sum(0)
    return agreed & find_sinks(low.mean(0), SinkRule(rule.times, rule.top), shown)


def normalised(maps: Tensor, shown: Tensor | None = None) -> Tensor:
    """[.., H, W] float32, without what falls on tokens that are not `shown`, divided by its sum; a map
    without any attention becomes uniform over those that are, and is 0 where none is."""
    maps = maps.float()
    seen = torch.ones_like(maps[..., :, :]) if shown is None else shown.expand_as(maps).float()
    maps = maps * seen
    total = maps.sum((-2, -1), keepdim=True)
    return torch.where(total > 0, maps, seen) / torch.where(
        total > 0, total, seen.sum((-2, -1), keepdim=True).clamp(min=1)
    )
