"""What a method asked for, or one line that says what the model lacks and which method does without."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune.base import Context
from vlmbench.prune.greedy import check_all_finite

_INNER = {
    "llm_attention": "attention",
    "llm_next_attention": "next_attention",
    "llm_text_attention": "text_attention",
    "llm_keys": "keys",
    "llm_inputs": "inputs",
    "llm_all_inputs": "all_inputs",
}
"""Needs that the language model serves, and their fields in `prune.base.Inner`."""

_FIELD = {**_INNER, "clip_relevance": "relevance"}
"""Needs whose field has another name."""

_WORDS = {
    "projector_in": "outputs of the vision encoder",
    "attention": "attention weights of the vision encoder",
    "keys": "keys of the vision encoder",
    "received_attention": "attention weights of the vision encoder",
    "middle_attention": "attention weights in the middle of the vision encoder",
    "last_attention": "attention weights of the vision encoder's last layer",
    "last_keys": "keys of the vision encoder's last layer",
    "text": "embeddings of the question's words",
    "clip_relevance": "similarities of CLIP's patches to the question",
    "evidence": "boxes of the asked region that the model sees",
    "llm_attention": "attention weights of the language model",
    "llm_next_attention": "attention weights of the language model",
    "llm_text_attention": "attention weights of the language model",
    "llm_keys": "keys of the language model",
    "llm_inputs": "inputs of the language model",
    "llm_all_inputs": "inputs of the language model",
}


def given(ctx: Context, need: str, method: str, instead: str = "divprune") -> Tensor:
    """The field of `ctx` behind `need`, a name out of `prune.base.NEEDS`, checked to be finite.

    Raises NotApplicableError naming the need and the method to use `instead` where it is missing, ItemError
    where it is not finite.
    """
    return given_many([ctx], need, method, instead)[0]


def given_many(
    contexts: Sequence[Context], need: str, method: str, instead: str = "divprune"
) -> list[Tensor]:
    """`given` for several images."""
    values = [_field(ctx, need, method, instead) for ctx in contexts]
    check_all_finite(values, _WORDS[need])
    return values


def _field(ctx: Context, need: str, method: str, instead: str) -> Tensor:
    holder = ctx.llm if need in _INNER else ctx
    value: Tensor | None = getattr(holder, _FIELD.get(need, need), None)
    if value is None:
        raise NotApplicableError(
            f"{method} needs {need} ({_WORDS[need]}), which there is not here; use {instead}"
        )
    return value
