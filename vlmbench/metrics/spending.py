"""Visual tokens and arithmetic that the records of one cell took, means per request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmbench.metrics.cost import LlmShape, kv_bytes, prefill_macs
from vlmbench.schema import Record, Tokens


def _per_layer(record: Record, layers: int) -> list[int]:
    return record.layer_tokens or [record.visual_tokens or 0] * layers


def tokens(llm: LlmShape | None, records: Sequence[Record]) -> Tokens | None:
    """Means over the records; None where none has any."""
    told = [record for record in records if record.visual_tokens is not None]
    if not told:
        return None
    layers = llm.layers if llm else max(len(record.layer_tokens or [0]) for record in told)
    entering = np.mean([_per_layer(record, layers) for record in told], axis=0)
    return Tokens(
        before=float(np.mean([record.visual_tokens for record in told])),
        entered=float(entering[0]),
        average=float(entering.mean()),
        last=float(entering[-1]),
        layers=entering.tolist(),
    )


def cost(llm: LlmShape | None, value_bytes: int, records: Sequence[Record]) -> dict[str, float | None]:
    """Means per request: MACs of the language model's prefill, bytes of its KV cache behind it."""
    told = [record for record in records if record.prompt_tokens is not None]
    if llm is None or not told:
        return {}
    macs, cached = [], []
    for record in told:
        text = (record.prompt_tokens or 0) - (record.visual_tokens or 0)
        lengths = [text + n for n in _per_layer(record, llm.layers)]
        macs.append(prefill_macs(llm, lengths))
        cached.append(kv_bytes(llm, lengths, value_bytes))
    return {"prefill_macs": float(np.mean(macs)), "kv_bytes": float(np.mean(cached))}
