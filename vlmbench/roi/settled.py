"""A method with what its network's file settles: thresholds and heads that were left open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vlmbench.roi.raw_attn import RawAttn
from vlmbench.roi.sd_rpn import AUTO, COMPONENTS, SURROUNDING, SdRpn
from vlmbench.roi.sinks import DEFAULT
from vlmbench.roi.wrapped import Wrapped

if TYPE_CHECKING:
    from vlmbench.roi.base import RoiMethod
    from vlmbench.roi.given import Heads
    from vlmbench.roi.rpn_file import RpnConfig


def settled(method: RoiMethod, config: RpnConfig | None) -> RoiMethod:
    """`method` as it is run beside a network, whose calibrated threshold, rule and teacher heads stand where
    the method names none itself; as it is where there is no network."""
    if config is None:
        return method
    if isinstance(method, SdRpn):
        rule = method.rule
        if rule == AUTO:
            # a model whose positions are planar takes crops of any shape, the others one of fixed shape
            rule = SURROUNDING if config.rotary else COMPONENTS
        return replace(method, tau=method.tau or config.threshold, rule=rule)
    if isinstance(method, RawAttn) and not method.heads:
        sinks = method.sink_heads or _named(config.sink_heads)
        # heads were chosen by these rows, and say little of others
        rows = config.rows if method.rows == AUTO else method.rows
        rule = str(config.sinks.get("rule", DEFAULT)) if method.sinks == DEFAULT else method.sinks
        return replace(method, heads=_named(config.grounding_heads), sink_heads=sinks, sinks=rule, rows=rows)
    if isinstance(method, Wrapped):
        inner = settled(method.inner, config)
        return method if inner == method.inner else method.around(inner)
    return method


def leaves_open(method: RoiMethod) -> bool:
    """Whether a network's file settles anything of a method."""
    if isinstance(method, Wrapped):
        return leaves_open(method.inner)
    return isinstance(method, SdRpn) or (isinstance(method, RawAttn) and not method.heads)


def _named(heads: Heads) -> str:
    return "/".join(f"{layer}:{head}" for layer, head in heads)
