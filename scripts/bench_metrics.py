"""Seconds and memory of the cluster bootstrap: B = 5000 over 10,000 items x 60 conditions by default.

python scripts/bench_metrics.py [--items N] [--conditions M] [--draws B] [--items-per-cluster C]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vlmbench.metrics.bootstrap import cluster_bootstrap
from vlmbench.metrics.outcomes import Outcomes
from vlmbench.metrics.resamples import Resamples
from vlmbench.metrics.stability import cell_metrics, summarise


def synthetic(n: int, m: int, per_cluster: int, seed: int = 0) -> Outcomes:
    """Answers among four options; an item's chance to flip is drawn once, 2 % of the records are errors."""
    rng = np.random.default_rng(seed)
    fragile = rng.beta(0.3, 2.0, size=(n, 1))
    first = rng.integers(0, 4, size=(n, 1))
    moved = rng.random((n, m)) < fragile
    moved[:, 0] = False
    answer = (first + moved * rng.integers(1, 4, size=(n, m))) % 4
    state = np.where(rng.random((n, m)) < 0.02, 4, 0)
    return Outcomes(
        answer=np.where(state == 0, answer, -1),
        state=state,
        score=np.where(state == 0, (answer == 0).astype(float), np.nan),
        tie=rng.random((n, m)) < 0.001,
        prob=rng.random(n),
        cluster=np.arange(n) // per_cluster,
        reference=np.array([-1] + [0] * (m - 1)),
        unchanged=np.zeros((n, m), bool),
    )


def whole(outcomes: Outcomes, columns: np.ndarray, floor: np.ndarray, resamples: Resamples) -> None:
    """What a table of this size asks for."""
    for column in [*columns, *floor]:
        cell_metrics(outcomes, int(column), floor, resamples)
    for group in [*np.array_split(columns, 20), *np.array_split(columns, 20)]:
        summarise(outcomes, group, floor=floor, resamples=resamples)


def measure(name: str, work: Callable[[], object]) -> dict[str, object]:
    before, start = time.process_time(), time.perf_counter()
    work()
    wall, cpu = time.perf_counter() - start, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<34} {wall:7.2f} s wall {cpu:7.2f} s cpu   peak of the process so far {peak:5.2f} GiB")
    return {"name": name, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "peak_gib": round(peak, 3)}


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{cores} cores {model or platform.processor()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--conditions", type=int, default=60)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--items-per-cluster", type=int, default=1, help="1 is the slowest: most clusters")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    outcomes = synthetic(args.items, args.conditions, args.items_per_cluster)
    pairs = np.ones((args.items, args.conditions))
    num, den = outcomes.flips, np.where(np.isnan(outcomes.flips), np.nan, pairs)
    columns = np.arange(1, args.conditions - 3)
    floor = np.arange(args.conditions - 3, args.conditions)
    print(f"{machine()}\n{args.items} items x {args.conditions} conditions, B = {args.draws}")

    def drawn() -> Resamples:
        return Resamples(outcomes.cluster, args.draws)

    results = [
        measure(
            "bootstrap of all flip rates",
            lambda: cluster_bootstrap(num, den, outcomes.cluster, args.draws),
        ),
        measure("summarise, analytic", lambda: summarise(outcomes, columns, floor=floor)),
        measure("summarise, bootstrap", lambda: summarise(outcomes, columns, floor=floor, resamples=drawn())),
        measure("all cells and 40 groups, bootstrap", lambda: whole(outcomes, columns, floor, drawn())),
    ]
    if args.json:
        print(json.dumps({"machine": machine(), "arguments": vars(args), "results": results}))


if __name__ == "__main__":
    main()
