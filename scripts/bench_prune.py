"""What pruning costs and brings, in ratios of one run: prefill, method, selection, sweep; 7B shapes on a GPU.

python scripts/bench_prune.py [--only prefill,selection,field,sweep] [--gpu [CASES]] [--repeats R] [--json F]
python scripts/bench_prune.py --only field --repeats 15 --threads 1 --out results/studies/prune-overhead.json

Everything that is compared takes turns, in an order drawn anew in every repeat. Aims are printed beside what
was measured and never asserted. On a machine that is busy with other things use `--threads 1 --cpu-time`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from prune_bench.large import bench_large
from prune_bench.lines import Line, line, method, tell
from prune_bench.models import LARGE, MEDIUM, SEED, Case
from prune_bench.overhead import bench_field

import vlmbench
from vlmbench.conditions import Condition
from vlmbench.engine.compute import Answerer
from vlmbench.engine.manifest import describe_hardware
from vlmbench.engine.prepare import Preparer
from vlmbench.engine.ranks import Ranks
from vlmbench.engine.run import Settings, Work, run_work
from vlmbench.engine.sight import Sight
from vlmbench.engine.timing import interleave
from vlmbench.engine.timing_stages import Ready, apply, encode
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import ImageFeatures
from vlmbench.models.pruning import Applied
from vlmbench.prune import PRUNERS, greedy
from vlmbench.tasks.load import load_task
from vlmbench.tasks.scorers import get as get_scorer

BEFORE_LLM = ("zoo", "divprune", "norm", "visionzip", "random", "uniform", "pool")
SWEPT = ("zoo", "divprune", "norm", "visionzip", "random", "uniform")
SWEPT_RATIOS = ("0.5", "0.75", "0.9", "0.95")
OVERHEAD = {"llava": 0.03, "qwen2_5_vl": 0.07}


Seconds = Callable[[], float]
"""A clock: of the wall, or of this process's CPU time."""


class Clock:
    """Milliseconds since the last look, the device waited for."""

    def __init__(self, adapter: Adapter, seconds: Seconds) -> None:
        self.adapter, self.seconds = adapter, seconds
        self.last = 0.0
        self.look()

    def look(self) -> float:
        self.adapter.synchronize()
        before, self.last = self.last, self.seconds() * 1e3
        return self.last - before


def bench_prefill(
    case: Case, keeps: Sequence[int], repeats: int, device: torch.device, seconds: Seconds
) -> Iterator[Line]:
    """Pruned prefills against such as natively have k tokens, and what the methods themselves take."""
    section = f"prefill: {case.name}, {case.tokens} + 40 tokens, batch 1"
    adapter = case.adapter(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    ready = {"full": Ready([case.row()])}
    for k in keeps:
        for name in BEFORE_LLM:
            ready[f"{name} {k}"] = Ready([case.row()], method(name, keep=k), [(SEED,)])
    other_zoos = {
        f"zoo {told} {keeps[-1]}": Ready([case.row()], method("zoo", keep=keeps[-1], **set_to), [(SEED,)])
        for told, set_to in (("rank=128", {"rank": 128}), ("sampled m=64", {"estimator": "sampled"}))
    }
    ready |= other_zoos
    with torch.inference_mode():
        encoded = {key: encode(adapter, each) for key, each in ready.items()}
        rows = encoded["full"].features[0].rows
        native = {
            f"native {k}": adapter.model_inputs(
                [case.row(k)], encoded["full"], Applied((ImageFeatures(rows[:k]),))
            )
            for k in keeps
        }
        # as a processor would give it: not padded to a multiple of 32
        native |= {
            f"unpadded {k}": {
                key: value[..., -(k + 40) :] if isinstance(value, torch.Tensor) else value
                for key, value in native[f"native {k}"].items()
            }
            for k in keeps
        }

        def measure(key: str) -> tuple[float, float, float]:
            clock, inputs = Clock(adapter, seconds), native.get(key)
            pruning = assembling = 0.0
            if inputs is None:
                applied = apply(adapter, ready[key], encoded[key])
                pruning = clock.look()
                inputs = adapter.model_inputs(ready[key].rows, encoded[key], applied)
                assembling = clock.look()
            adapter.model(**inputs, use_cache=True, logits_to_keep=1)
            return pruning, assembling, clock.look()

        keys = [*ready, *native]
        for key in keys:
            measure(key)
        found = interleave(keys, measure, repeats, SEED)

    def column(key: str, index: int) -> list[float]:
        return [values[index] for values in found[key]]

    def over(above: str, below: str, *parts: int) -> list[float]:
        pairs = zip(found[above], found[below], strict=True)
        return [sum(a[i] for i in parts or (2,)) / b[2] for a, b in pairs]

    yield from line(section, "full: prefill", column("full", 2), "ms")
    for k in keeps:
        yield from line(section, f"ideal speed-up, natively {k} tokens", over("full", f"native {k}"), "x")
        yield from line(section, "  the same without padding", over("full", f"unpadded {k}"), "x")
        for name in BEFORE_LLM:
            share = over(f"native {k}", f"{name} {k}")
            yield from line(section, f"{name} {k}: share of the ideal", share, aim=0.9, at_most=False)
    plain = statistics.median(column("full", 1))
    for key in [f"{name} {keeps[-1]}" for name in BEFORE_LLM] + [*other_zoos]:
        extra = [
            (own[0] + own[1] - plain) / full[2] for own, full in zip(found[key], found["full"], strict=True)
        ]
        aim = {"aim": OVERHEAD[case.config["model_type"]]} if key == f"zoo {keeps[-1]}" else {}
        yield from line(section, f"{key}: method / full prefill", extra, **aim)
        yield from line(
            section, f"{key}: method", [e * f[2] for e, f in zip(extra, found["full"], strict=True)], "ms"
        )


def bench_selection(repeats: int, device: torch.device, seconds: Seconds) -> Iterator[Line]:
    """The greedy choice alone."""
    cuda = device.type == "cuda"
    section = f"selection alone, {device.type}, width {4096 if cuda else 512}, float32"
    generator = torch.Generator(device).manual_seed(SEED)
    jobs: dict[str, Callable[[], object]] = {}
    aims: dict[str, float] = {}
    for images in (1, 8) if cuda else (1,):
        for k, n in ((64, 576), (160, 2880)):
            features = torch.randn(images, n, 4096 if cuda else 512, device=device, generator=generator)
            scores = torch.rand(images, n, device=device, generator=generator)
            name = f"{k} of {n}, {images} image{'s' * (images > 1)}"
            jobs[f"zoo {name}"] = lambda f=features, s=scores, k=k: greedy.greedy(f, s, k)
            jobs[f"divprune {name}"] = lambda f=features, k=k: greedy.greedy(f, None, k)
            if cuda:
                jobs[f"torch loop {name}"] = lambda f=features, s=scores, k=k: greedy._select(
                    greedy.unit_length(f), s, k
                )
                same = torch.equal(jobs[f"zoo {name}"](), jobs[f"torch loop {name}"]())  # type: ignore[arg-type]
                print(f"  kernel and loop choose {'the same' if same else 'DIFFERENT tokens'}: {name}")
            if images == 1:
                aims |= (
                    {f"zoo {name}": 0.3 if n == 576 else 2.0}
                    if cuda
                    else {f"zoo {name}": 5.0}
                    if n == 576
                    else {}
                )

    def measure(name: str) -> float:
        if cuda:
            torch.cuda.synchronize()
        start = seconds()
        jobs[name]()
        if cuda:
            torch.cuda.synchronize()
        return (seconds() - start) * 1e3

    for name in jobs:
        measure(name)
    for name, values in interleave([*jobs], measure, 5 * repeats, SEED).items():
        yield from line(section, name, values, "ms", aim=aims.get(name))


def bench_sweep(items: int, repeats: int, batch_size: int = 16) -> Iterator[Line]:
    """6 methods x 4 ratios on the demo: one run of the engine against 24, the model loaded in both."""
    adapter: Adapter = vlmbench.load("demo")
    task = load_task("demo")
    chosen = task.items(limit=items, seed=SEED)
    limits = {task.name: task.spec.max_new_tokens}
    scorer = get_scorer(task.spec.scorer, **task.spec.scorer_params)
    conditions = [
        Condition(prune=PRUNERS.get(name).part(ratio=ratio)) for ratio in SWEPT_RATIOS for name in SWEPT
    ]

    def run(some: Sequence[Condition]) -> None:
        needs = frozenset[str]().union(
            *(PRUNERS.get(c.prune.name).build(c.prune).needs for c in some if c.prune)
        )
        answerer = Answerer(Sight(adapter), {task.name: scorer}, limits, "bench", 2e-4, SEED, needs=needs)
        preparer = Preparer(adapter, SEED, limits, rows=batch_size)
        settings = Settings(batch_size, SEED, show_progress=False)
        with tempfile.TemporaryDirectory() as folder:
            work = [Work(task.name, chosen, some)]
            run_work(work, Path(folder), answerer, preparer, settings, Ranks(), lambda record: True)

    jobs: dict[str, Callable[[], object]] = {
        "one": lambda: run(conditions),
        "many": lambda: [run([condition]) for condition in conditions],
    }

    def measure(name: str) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        jobs[name]()
        return time.perf_counter() - start, time.process_time() - cpu

    run(conditions[: len(SWEPT)])
    found = interleave([*jobs], measure, repeats, SEED)
    section = (
        f"sweep: demo, {items} items, {len(SWEPT)} methods x {len(SWEPT_RATIOS)} ratios, batch {batch_size}"
    )
    for i, kind in enumerate(("time", "CPU time")):
        ratio = [one[i] / many[i] for one, many in zip(found["one"], found["many"], strict=True)]
        yield from line(section, f"one sweep / 24 runs, {kind}", ratio, aim=0.5)
    for name in jobs:
        yield from line(section, f"{name}: time", [seconds for seconds, _ in found[name]], "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="prefill,selection,field,sweep", help="sections, comma-separated")
    parser.add_argument("--gpu", nargs="?", const=",".join(LARGE), help=f"7B shapes: {', '.join(LARGE)}")
    parser.add_argument("--batches", default="1,8", help="of the 7B shapes")
    parser.add_argument("--keep", default="192,128,64", help="tokens kept in the prefill section")
    parser.add_argument("--items", type=int, default=28, help="of the sweep; seven questions share an image")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--cpu-time", action="store_true", help="prefill and selection by CPU time")
    parser.add_argument("--json", type=Path, help="everything measured")
    parser.add_argument("--out", type=Path, help="the field's table: every method's overhead")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keeps = [int(k) for k in args.keep.split(",")]
    if args.cpu_time and device.type == "cuda":
        parser.error("--cpu-time says nothing about work on a GPU")
    unknown = set((args.gpu or "").split(",")) - {"", *LARGE}
    if unknown or (args.gpu and device.type != "cuda"):
        parser.error(f"--gpu takes {', '.join(LARGE)} where there is a CUDA device: got {args.gpu}")
    seconds = time.process_time if args.cpu_time else time.perf_counter
    only = [name for name in args.only.split(",") if name]
    if args.out and "field" not in only:
        parser.error("--out takes the table of the section field: add it to --only")
    jobs: list[Callable[[], Iterator[Line]]] = []
    if "prefill" in only:
        jobs += [
            lambda case=case: bench_prefill(case, keeps, args.repeats, device, seconds) for case in MEDIUM
        ]
    if "selection" in only:
        jobs.append(lambda: bench_selection(args.repeats, device, seconds))
    if "field" in only:
        jobs.append(lambda: bench_field(MEDIUM[0], keeps[-1], args.repeats, device, seconds, args.out))
    if "sweep" in only:
        jobs.append(lambda: bench_sweep(args.items, max(3, args.repeats // 2)))
    for name in (args.gpu or "").split(",") if args.gpu else []:
        jobs += [
            lambda n=name, b=b: bench_large(n, int(b), args.repeats, device) for b in args.batches.split(",")
        ]

    clock = "CPU time" if args.cpu_time else "wall time"
    print(f"{describe_hardware()}, torch {torch.__version__}, {clock}")
    print(f"median (95 % interval of the median), {args.repeats} repeats")
    tell((job() for job in jobs), clock, args.json)


if __name__ == "__main__":
    main()
