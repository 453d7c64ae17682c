"""The instruction before the question instead of after it, or the other way round."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item


@dataclass(frozen=True)
class InstructionOrder:
    """Place of the instruction.

    Idea: `Answer with one word.` means the same before and after the question.
    Source: tier 0 of the question suite.
    """

    def __call__(self, item: Item, seed: int = 0) -> Item:
        if not item.instruction:
            raise NotApplicableError("the task has no instruction")
        return item.changed(instruction_first=not item.instruction_first)
