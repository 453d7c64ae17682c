"""Which tokens of a prompt a method reads: those of the question, or where that is unknown all the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

UNKNOWN_WORDS = "the rewritten question has words that this tokenizer does not know"
"""Why a question cannot be put to a model."""


def unreadable(before: Sequence[int], after: Sequence[int], unknown: int | None) -> str:
    """Why a rewording says nothing about stability, empty where it does: the model cannot tell the tokens
    `after` from those `before` (case, white space..), or has no words for it, its token `unknown`."""
    if list(before) == list(after):
        return "unchanged: the model reads the same tokens"
    if unknown is not None and list(after).count(unknown) > list(before).count(unknown):
        return UNKNOWN_WORDS
    return ""


def question_ids(tokenizer: Any, image_mark: str, prompt: str, question: str) -> tuple[int, ...]:
    """Ids of the tokens in a rendered prompt that hold a character of the question, in order.

    The question is looked for behind the last `image_mark`, where the user's text stands, then anywhere.
    Where the template changed it, or a slow tokenizer cannot tell which characters a token holds, it is
    tokenised alone.
    """
    question = question.strip()  # as many templates do
    last = prompt.rfind(image_mark)
    start = prompt.find(question, last + len(image_mark) if last >= 0 else 0)
    if start < 0:
        start = prompt.rfind(question)
    if start < 0 or not getattr(tokenizer, "is_fast", False):
        return tuple(tokenizer(question, add_special_tokens=False)["input_ids"])
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    stop = start + len(question)
    return tuple(
        token
        for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)
        if begin < stop and end > start
    )


def behind_images(image: Tensor, valid: Tensor) -> Tensor:
    """[S] bool of a row's columns: text behind the last image, which sees it; all text where none is behind.

    image, valid: [S] bool, the image's placeholders and what is no padding.
    """
    text = valid & ~image
    behind = text & (image.flip(0).cumsum(0).flip(0) == 0)
    return behind if bool(behind.any()) else text
