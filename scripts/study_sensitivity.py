"""Is the closed-form sensitivity as good as sampling it, and what does each cost? On the embedded demo.

    python scripts/study_sensitivity.py                      # ranks, overlaps, cost: a few minutes
    python scripts/study_sensitivity.py --items 21000        # also accuracy, for the equivalence test

Ranks and kept sets are compared with a reference of 4096 directions, image by image. Accuracy is that of
zoo at `--ratio`, every estimator on the same items; two estimators count as equivalent where the 90 %
interval of their paired difference lies within half a point (two one-sided tests at 5 %).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

import vlmbench
from vlmbench.conditions import CLEAN
from vlmbench.engine.manifest import describe_hardware, package_versions
from vlmbench.engine.plan import Request
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.prune import part_of, pruned
from vlmbench.metrics.estimate import paired_difference
from vlmbench.metrics.tabulate import Variation
from vlmbench.prune.base import Context
from vlmbench.prune.greedy import greedy
from vlmbench.prune.projector import Projector
from vlmbench.prune.sensitivity import directions, exact, normalise, sampled
from vlmbench.prune.zoo import Zoo
from vlmbench.schema import Cell
from vlmbench.tasks.load import load_task

SAMPLES = (8, 16, 64, 256)
REFERENCE = 4096
MARGIN = 0.005


def contexts(images: int) -> list[Context]:
    """One per image, as the engine hands them to zoo."""
    adapter = vlmbench.load("demo")
    task = load_task("demo")
    first = {item.cluster: item for item in task.items(limit=10 * images, seed=0)}
    preparer = Preparer(adapter, 0, {"demo": 3})
    found = []
    for item in list(first.values())[:images]:
        prepared = preparer.prepare(Request("demo", item, CLEAN))
        assert isinstance(prepared, Prepared)
        features = adapter.encode([prepared.row], frozenset({"projector_in"})).features[0]
        tokens = features.images[0]
        found.append(
            Context(
                features=features.rows,
                grid=tokens.grid,
                projector_in=tokens.projector_in,
                projector=adapter.projector,
            )
        )
    return found


def references(projector: Projector, x: torch.Tensor, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """S [N] as the paper defines it and as `exact` does, over the same m directions: mean and root mean
    square of the norms of the differences."""
    h, norms = 0.01, []
    for u in torch.split(directions(m, x.shape[1], x.shape[2], seed), 64):
        at, along = x[None] + h * u[:, None], x[None] - h * u[:, None]
        both = [projector.apply(part.flatten(0, 1)) for part in (at, along)]
        norms.append(((both[0] - both[1]) / (2 * h)).norm(dim=-1).view(len(u), -1))
    every = torch.cat(norms)
    return every.mean(0), every.square().mean(0).sqrt()


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(rankdata(a.numpy()), rankdata(b.numpy()))[0, 1])


def kept(ctx: Context, sensitivity: torch.Tensor, k: int) -> set[int]:
    """What zoo keeps of an image of one tile, given the sensitivities of its tokens."""
    return set(greedy(ctx.features[None], normalise(sensitivity)[None], k)[0].tolist())


def ranks(images: list[Context], ratio: float) -> list[dict[str, Any]]:
    """Per estimator: Spearman and overlap of the kept set with the reference, Spearman with the root mean
    square over the same directions, and Spearman and overlap between two seeds."""
    k = Zoo(ratio=ratio).budget(images[0].n)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for ctx in images:
        assert ctx.projector is not None
        assert ctx.projector_in is not None
        projector, x = ctx.projector, ctx.projector_in
        mean, squares = references(projector, x, REFERENCE, seed=999)
        best = kept(ctx, mean, k)
        estimates = {"exact": (exact(projector, x),) * 2}
        for m in SAMPLES:
            estimates[f"sampled m={m}"] = (sampled(projector, x, m, seed=1), sampled(projector, x, m, seed=2))
        for name, (one, other) in estimates.items():
            first, second = kept(ctx, one, k), kept(ctx, other, k)
            figures = (
                spearman(one, mean),
                len(first & best) / k,
                spearman(one, squares),
                spearman(one, other),
                len(first & second) / k,
            )
            rows.setdefault(name, []).append(figures)
    names = ("spearman", "overlap", "spearman_rms", "spearman_seeds", "overlap_seeds")
    return [
        {"estimator": name, **dict(zip(names, map(statistics.mean, zip(*found, strict=True)), strict=True))}
        for name, found in rows.items()
    ]


def costs(ctx: Context, repeats: int = 21) -> dict[str, float]:
    """Median milliseconds for one image, interleaved; `projector` is one forward pass of it."""
    assert ctx.projector is not None
    assert ctx.projector_in is not None
    projector, x = ctx.projector, ctx.projector_in
    calls = {
        "projector": lambda: projector.apply(x),
        "exact": lambda: exact(projector, x),
        **{f"sampled m={m}": (lambda m=m: sampled(projector, x, m)) for m in SAMPLES},
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def accuracy(items: int, ratio: float, samples: list[int], out: Path | None) -> dict[str, Any]:
    """Accuracy of every estimator and its paired difference from `exact`."""
    from vlmbench.experiments.session import Session
    from vlmbench.experiments.tables import TaskPlan

    specs = [f"zoo@{ratio}", *(f"zoo@{ratio}(estimator=sampled,m={m})" for m in samples)]
    session = Session(RunOptions(limit=items, out=out, batch_size=64), "study")
    variations = [Variation(CLEAN), *(pruned(part_of(spec)) for spec in specs)]
    plans = [TaskPlan(task, chosen, limit, variations) for task, chosen, limit in session.chosen]
    table = session.run(plans).table
    cells = [cell for cell in table.cells if cell.condition != "clean"]
    clusters = _codes(table.tasks[0].clusters)
    rows = []
    for cell in cells:
        row = {"condition": cell.condition, "accuracy": cell.metrics["accuracy"].model_dump()}
        if cell is not cells[0]:
            row |= _difference(cell, cells[0], clusters)
        rows.append(row)
    return {"n": len(table.tasks[0].items), "clusters": len(set(table.tasks[0].clusters)), "rows": rows}


def _codes(clusters: list[str]) -> list[int]:
    place = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return [place[name] for name in clusters]


def _difference(cell: Cell, exact_cell: Cell, clusters: list[int]) -> dict[str, Any]:
    ones = [1.0] * len(clusters)
    found = paired_difference(cell.score.decode(), ones, exact_cell.score.decode(), ones, clusters)
    assert found.value is not None
    assert found.se is not None
    low, high = found.value - 1.645 * found.se, found.value + 1.645 * found.se
    return {
        "minus_exact": found.value,
        "interval_90": [low, high],
        "equivalent_within_half_a_point": low > -MARGIN and high < MARGIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--items", type=int, default=0, help="items of the accuracy part; 0 leaves it out")
    parser.add_argument("--samples", type=int, nargs="*", default=[64], help="m of the accuracy part")
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--run", type=Path, help="run folder of the accuracy part; goes on if it exists")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    images = contexts(arguments.images)
    report: dict[str, Any] = {
        "model": "demo",
        "ratio": arguments.ratio,
        "images": len(images),
        "ranks": ranks(images, arguments.ratio),
        "milliseconds": costs(images[0]),
        "environment": {"packages": package_versions(), "hardware": describe_hardware()},
    }
    if arguments.items:
        report["accuracy"] = accuracy(arguments.items, arguments.ratio, arguments.samples, arguments.run)
    print(json.dumps(report, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
