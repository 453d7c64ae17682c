"""`Question:` before the question, and `Answer:` at the end of the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.text.wording import require_english

STYLES = ("question", "qa")


@dataclass(frozen=True)
class Frame:
    """Question and answer cues.

    Idea: the cues of question-answering prompts say nothing that the prompt does not say already. `Answer:`
    must be the last line, or a model reads options and instruction as an answer; it therefore follows the
    instruction where one stands at the end.
    Source: tier 0 of the question suite.

    Parameters
        style: `question` (`Question: ...`) or `qa` (also `Answer:`).
    """

    style: str = "question"

    def __call__(self, item: Item, seed: int = 0) -> Item:
        require_english(item)
        if "question:" in (item.frame + item.question).lower():
            raise NotApplicableError("the question already has such a frame")
        framed = item.changed(frame=f"Question: {item.frame}")
        if self.style == "question":
            return framed
        if item.instruction_first and item.instruction:
            if item.options:
                raise NotApplicableError("'Answer:' would stand before the options")
            return framed.changed(frame=f"{framed.frame}\nAnswer:")
        return framed.changed(instruction=f"{item.instruction}\nAnswer:".lstrip("\n"))
