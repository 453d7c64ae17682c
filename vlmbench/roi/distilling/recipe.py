"""How a network is distilled: this project's defaults, or what the paper does, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vlmbench.roi.labels import LABEL_RULES, LabelRule
from vlmbench.roi.sinks import SINK_RULES, SinkRule

if TYPE_CHECKING:
    from vlmbench.items import Item

DEFAULT, PAPER = "default", "paper"
PRESETS = (DEFAULT, PAPER)

WHERE = "Output the bounding box of the region of interest that answers the question."
"""In place of a question's instruction, for the teacher of `paper` alone."""

_RATE = 0.2048
"""Over the hidden size it is what the paper takes: 5e-5 at 4096 (LLaVA-1.5-7B), 1e-4 at 2048
(Qwen2.5-VL-3B)."""
_MOST_RATE = 3e-3


@dataclass(frozen=True)
class Recipe:
    """Everything but the model, the questions and the layers."""

    preset: str
    rows: str
    """Whose attention is the label, see `models.responses.ROWS`."""
    rule: str
    """Of `LABEL_RULES` and `SINK_RULES`."""
    epochs: int
    batch: int
    rate: float
    sink_layer: int | None = None
    """Whose heads together show sinks; None: heads are chosen for it."""
    instruction: str | None = None
    """What the teacher is told in place of a question's own instruction; None: that one."""

    @property
    def labels(self) -> LabelRule:
        return LABEL_RULES[self.rule]

    @property
    def sinks(self) -> SinkRule:
        return SINK_RULES[self.rule]

    def taught(self, item: Item) -> Item:
        """The question as the teacher is asked it; the network is trained on the question itself."""
        if self.instruction is None or not item.instruction:
            return item
        return item.changed(instruction=self.instruction)

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def recipe(
    preset: str,
    hidden_size: int,
    planar: bool,
    rows: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
) -> Recipe:
    """Of a preset for a model of this hidden size, `planar` where its positions have rows and columns (the
    paper's Qwen2.5-VL; the others are treated as its LLaVA-1.5). What is named goes before the preset."""
    if preset == PAPER:
        made = Recipe(
            PAPER,
            rows=rows or "generated",
            rule="qwen" if planar else "llava",
            epochs=epochs or 1,
            batch=batch or (128 if planar else 512),
            rate=rate or (1e-4 if planar else 5e-5),
            sink_layer=None if planar else 2,
            instruction=WHERE if planar else None,
        )
    else:
        made = Recipe(
            DEFAULT,
            rows=rows or "predicting",
            rule=DEFAULT,
            epochs=epochs or 4,
            batch=batch or 32,
            rate=rate or min(_MOST_RATE, float(f"{_RATE / hidden_size:.2g}")),
        )
    return made
