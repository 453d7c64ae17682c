"""The questions are asked, a batch at a time, by this process's share; what they teach is kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmbench.roi.distilling.label_files import read_labels, write_labels
from vlmbench.roi.distilling.teacher import NothingToCompareError, Teacher, choose_heads, label

if TYPE_CHECKING:
    from vlmbench.items import Item
    from vlmbench.roi.distilling.recipe import Recipe
    from vlmbench.roi.distilling.run_folder import RunFolder
    from vlmbench.roi.distilling.showing import Shower
    from vlmbench.roi.distilling.teacher import Labelled, Progress
    from vlmbench.roi.heads import Head


@dataclass(frozen=True)
class Collector:
    """Asks what no session before has asked."""

    shower: Shower
    recipe: Recipe
    work: RunFolder
    rows: int
    """Questions per pass."""
    seed: int
    rank: int = 0
    world: int = 1

    def choose(
        self,
        items: Sequence[Item],
        layers: Sequence[int],
        count: int,
        named: tuple[Head, ...],
        progress: Progress,
    ) -> None:
        """Chooses the heads, `named` ones aside, and writes them with what is known of them: of named ones
        nothing, and no sinks, where no question has another one beside it."""
        try:
            sums = choose_heads(
                self.shower,
                [self.recipe.taught(item) for item in items],
                layers,
                self.recipe.rows,
                self.recipe.sinks,
                self.seed,
                self.rows,
                progress,
            )
        except NothingToCompareError:
            if not named:
                raise
            self.work.write_heads(
                {
                    "grounding": named,
                    "sinks": self._sink_layer(),
                    "entropy": (),
                    "about": {
                        "items": 0,
                        "layers": list(layers),
                        "scores": [],
                        "pointing": None,
                        "steady_sinks": 0.0,
                    },
                }
            )
            return
        scores = sums.scores()
        chosen = named or scores.grounding_heads(count)
        sinks = self._sink_layer() or scores.sink_heads()

        def of(values: Any, head: Head) -> float:
            return round(float(values[scores.layers.index(head[0]), head[1]]), 6)

        inside = [head for head in chosen if head[0] in scores.layers]
        self.work.write_heads(
            {
                "grounding": chosen,
                "sinks": sinks,
                "entropy": sums.entropy_heads(count),
                "about": {
                    "items": scores.items,
                    "layers": list(scores.layers),
                    "scores": [of(scores.score, head) for head in inside],
                    "pointing": None
                    if scores.pointing is None
                    else [of(scores.pointing, head) for head in inside],
                    "steady_sinks": round(scores.steady, 6),
                },
            }
        )

    def _sink_layer(self) -> tuple[Head, ...]:
        """All heads of the layer that the recipe names, if it names one."""
        layer = self.recipe.sink_layer
        heads = self.shower.adapter.model.config.get_text_config().num_attention_heads
        return () if layer is None else tuple((layer, head) for head in range(heads))

    def teacher(self) -> tuple[Teacher, dict[str, Any]]:
        """Of the heads that were written, and what is known of these."""
        heads = self.work.read_heads()
        assert heads is not None
        grounding, sinks, entropy = (
            tuple((int(layer), int(head)) for layer, head in heads[name])
            for name in ("grounding", "sinks", "entropy")
        )
        made = Teacher(self.recipe.rows, grounding, sinks, self.recipe.labels, self.recipe.sinks, entropy)
        return made, heads["about"]

    def label(
        self, split: str, items: Sequence[Item], teacher: Teacher, told: bool, progress: Progress
    ) -> None:
        """Labels this process's share of the batches of a split. told: see `teacher.label`."""
        for number, batch in enumerate(self._batches(items)):
            path = self.work.labels(split, number)
            if number % self.world == self.rank and not path.exists():
                asked = [self.recipe.taught(item) for item in batch]
                write_labels(path, label(self.shower, teacher, asked, told))
            progress(len(batch))

    def read(self, split: str, items: Sequence[Item]) -> list[Labelled]:
        """What all processes have written of a split, in order."""
        count = len(self._batches(items))
        return [each for number in range(count) for each in read_labels(self.work.labels(split, number))]

    def _batches(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        return [items[i : i + self.rows] for i in range(0, len(items), self.rows)]
