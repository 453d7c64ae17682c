"""`distill`: questions without answers -> a region proposal network for the user's own model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmbench.errors import UsageError, unknown
from vlmbench.experiments.options import RunOptions, check_sources

if TYPE_CHECKING:
    from vlmbench.experiments.distill_session import Distilled

SAMPLES = 3000
COUNT = 3
EVERY = 50
PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass(frozen=True)
class DistillOptions:
    """None stands for what the preset or the model gives. Raises UsageError for what cannot be meant."""

    samples: int = SAMPLES
    """Questions in all."""
    start: int | None = None
    layers: int | None = None
    heads: str = ""
    """LAYER:HEAD/LAYER:HEAD..; empty: they are chosen."""
    count: int = COUNT
    """Of heads to choose."""
    rows: str | None = None
    epochs: int | None = None
    batch: int | None = None
    """Questions per step, over all processes."""
    accumulate: int | None = None
    """Parts of a step that pass through the model one after another."""
    rate: float | None = None
    precision: str = "auto"
    every: int = EVERY
    """Steps between two checkpoints."""
    preset: str = "default"

    def check(self) -> None:
        """Raises UsageError for what cannot be meant."""
        from vlmbench.models.responses import ROWS
        from vlmbench.roi.distilling.recipe import PRESETS
        from vlmbench.roi.given import read_heads

        read_heads(self.heads, "--heads")
        for what, value, known in (
            ("preset", self.preset, PRESETS),
            ("teacher rows", self.rows or ROWS[0], ROWS),
            ("mixed precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if self.rate is not None and not 0 < self.rate < 1:
            raise UsageError(f"--lr must be above 0 and below 1: got {self.rate:g}")


def check_names(options: RunOptions, distill: DistillOptions) -> None:
    """Tells a misspelt name before the model is loaded. Raises UsageError."""
    if len([name for name in options.tasks.split(",") if name.strip()]) != 1:
        raise UsageError(f"--task must name one task to distil on: got {options.tasks!r}")
    check_sources(options)
    distill.check()


def run(options: RunOptions, distill: DistillOptions) -> Distilled:
    """The whole of it; every process calls it. The same command goes on where a session was interrupted."""
    check_names(options, distill)
    from vlmbench.engine.ranks import find_ranks
    from vlmbench.experiments.distill_session import prepared
    from vlmbench.models.adapter import Adapter
    from vlmbench.models.loading import load_model
    from vlmbench.roi.distilling.splits import split_items
    from vlmbench.tasks.load import load_task
    from vlmbench.tasks.loaders.images import MissingImage

    task = load_task(options.tasks.strip())
    items = task.items(limit=distill.samples, seed=options.seed)
    shown = [i for i in items if i.images and not any(isinstance(s, MissingImage) for s in i.images)]
    if not shown:
        raise UsageError(f"task {task.name} has no images: a network is distilled from questions on pictures")
    splits = split_items(shown, options.seed)
    ranks = find_ranks(options.device)
    loaded = load_model(options.model, dtype=options.dtype, device=options.device, attn=options.attn)
    session = prepared(options, distill, task, splits, ranks, Adapter(loaded))
    try:
        return session.run()
    except Exception as error:
        if session.folder.exists():
            error.run_folder = session.folder  # type: ignore[attr-defined]
        raise
