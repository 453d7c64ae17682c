"""The pictures of a perturbation run, one after the other; what cannot be drawn is left out and told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.errors import UsageError
from vlmbench.report.heatmap import draw_heatmap
from vlmbench.report.predict_plot import draw_prediction
from vlmbench.report.shift_plot import draw_shift

if TYPE_CHECKING:
    from vlmbench.comparison.flip_grid import FlipGrid
    from vlmbench.comparison.prediction import Prediction
    from vlmbench.schema import Table

CONFIDENCES = ("agreement", "probability", "self_consistency", "category")
"""The predictors of the risk-coverage picture: stability as it is, and controls; nothing fitted."""


@dataclass(frozen=True)
class Drawn:
    """Files, and a line for each picture that there is none of."""

    files: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def draw_stability(
    table: Table,
    folder: Path,
    grids: Mapping[str, FlipGrid | str],
    predictions: Mapping[str, Prediction | str],
    patches: Mapping[str, float],
) -> Drawn:
    """Writes shift.svg, families.svg and risk-coverage.svg, with the task's name where there are several.

    grids, predictions (of CONFIDENCES): by task, or why there is none; patches: source pixels under one
    patch, where known. The table is only read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = Drawn()
    for block in table.tasks:
        ending = "" if len(table.tasks) == 1 else "-" + re.sub(r"[^\w.-]+", "_", block.task, flags=re.ASCII)
        names = {kind: f"{kind}{ending}.svg" for kind in ("shift", "families", "risk-coverage")}
        try:
            path = folder / names["shift"]
            drawn.files.append(draw_shift(table, path, block.task, patches.get(block.task)))
        except UsageError as error:
            drawn.left_out.append(f"{names['shift']}: {error}")
        grid = grids[block.task]
        if isinstance(grid, str):
            drawn.left_out.append(f"{names['families']}: {grid}")
        else:
            drawn.files.append(draw_heatmap(grid, folder / names["families"]))
        prediction = predictions[block.task]
        if isinstance(prediction, str):
            drawn.left_out.append(f"{names['risk-coverage']}: {prediction}")
            continue
        try:
            drawn.files.append(draw_prediction(prediction, folder / names["risk-coverage"]))
        except UsageError as error:
            reason = str(error).replace("--plot needs", "needs")
            drawn.left_out.append(f"{names['risk-coverage']}: {reason}")
    return drawn
