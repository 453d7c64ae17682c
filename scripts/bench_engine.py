"""Requests per second of the engine against a plain loop of processor + generate, on the same requests.

python scripts/bench_engine.py [--items N] [--conditions LIST] [--batch-size B] [--repeats R] [--json]

Each loop does what one would write by hand: load an image once, perturb it with Pillow for each request,
call the processor on text and image, `model.generate`, decode. The engine also hashes, scores and stores. All
three are timed in turn, several times, in one process; their answers must be the same. On a machine that is
busy with other things use `--threads 1` and look at the CPU time: threads that wait for each other's core
make wall times worthless.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import vlmbench
from vlmbench.engine.compute import Answerer
from vlmbench.engine.manifest import describe_hardware
from vlmbench.engine.plan import Batch, Request, in_order
from vlmbench.engine.prepare import Prepared, Preparer, Settled, rewrite, settle_early
from vlmbench.engine.ranks import Ranks
from vlmbench.engine.run import Settings, Work, run_work
from vlmbench.engine.sight import Sight
from vlmbench.engine.store import Key, RecordStore, read_records
from vlmbench.experiments.perturb import PerturbOptions, variations
from vlmbench.experiments.session import TIE_TOLERANCE
from vlmbench.models.adapter import Adapter
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.prepare import to_rgb
from vlmbench.schema import Record
from vlmbench.seeds import seed_for
from vlmbench.tasks.load import load_task
from vlmbench.tasks.scorers import get as get_scorer

CONDITIONS = "shift(dx=2),shift(dx=0),pad(n=4),rotate(deg=1),noise(sigma=3),polite(k=0),template(k=1)"
SEED = 0

Answers = dict[Key, str]


@dataclass
class TimedAnswerer:
    """The engine's answerer, with a clock around it."""

    inner: Answerer
    seconds: float = 0.0
    records: list[list[Record]] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.inner.identity

    def batch(self, batch: Batch, prepared: Sequence[Prepared | Settled], prepare_ms: float) -> list[Record]:
        start = time.perf_counter()
        records = self.inner.batch(batch, prepared, prepare_ms)
        self.seconds += time.perf_counter() - start
        self.records.append(records)
        return records


class Bench:
    """One model, one task, one list of requests."""

    def __init__(self, model: str, items: int, conditions: str, batch_size: int) -> None:
        self.adapter: Adapter = vlmbench.load(model)
        self.task = load_task("demo")
        self.batch_size = batch_size
        self.items = self.task.items(limit=items, seed=SEED)
        chosen = variations(PerturbOptions(families=conditions, repeats=0), self.task.phrasing_names)
        self.conditions = [variation.condition for variation in chosen]
        self.new_tokens = self.task.spec.max_new_tokens
        self.requests = [
            request
            for same_input in in_order(self.task.name, self.items, self.conditions)
            for request in same_input
            if settle_early(request, SEED) is None
        ]
        self.stages: list[dict[str, float]] = []
        self.ties: set[Key] = set()

    def engine(self) -> Answers:
        """From nothing to a folder of records, as `vlmbench perturb` does it."""
        limits = {self.task.name: self.new_tokens}
        scorer = get_scorer(self.task.spec.scorer, **self.task.spec.scorer_params)
        tolerance = TIE_TOLERANCE[str(self.adapter.model.dtype).removeprefix("torch.")]
        answerer = TimedAnswerer(
            Answerer(Sight(self.adapter), {self.task.name: scorer}, limits, "bench", tolerance)
        )
        work = [Work(self.task.name, self.items, self.conditions)]
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run_work(
                work,
                Path(folder),
                answerer,  # type: ignore[arg-type]
                Preparer(self.adapter, SEED, limits),
                Settings(self.batch_size, SEED, show_progress=False),
                Ranks(),
            )
            wall = time.perf_counter() - start
            records = read_records(Path(folder))
        self.stages.append(_stages(answerer, wall))
        self.ties = {key for key, record in records.items() if record.tie}
        return {key: record.raw for key, record in records.items() if record.raw is not None}

    def loop(self, size: int) -> Answers:
        """By hand: `size` requests at a time."""
        answers: Answers = {}
        key, source = "", None
        for start in range(0, len(self.requests), size):
            part = self.requests[start : start + size]
            prompts, images = [], []
            for request in part:
                (origin,) = request.item.images
                if origin.key != key:
                    key, source = origin.key, to_rgb(origin.load())
                prompts.append(self._prompt(request))
                images.append([_perturbed(request, source)])
            processor, model = self.adapter.processor, self.adapter.model
            # the demo's template writes no BOS, so the tokenizer adds its own
            inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True)
            inputs = inputs.to(model.device, model.dtype)
            output = model.generate(**inputs, max_new_tokens=self.new_tokens, do_sample=False)
            texts = processor.batch_decode(
                output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            answers |= {r.key: text.strip() for r, text in zip(part, texts, strict=True)}
        return answers

    def _prompt(self, request: Request) -> str:
        text = rewrite(request, SEED).text()
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt: str = self.adapter.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return prompt


def _perturbed(request: Request, image: Any) -> Any:
    part = request.condition.image
    if part is None:
        return image
    entry = IMAGES.get(part.name)
    seed = seed_for(SEED, request.item.images[0].key, *entry.draw_key(part))
    return entry.build(part)(image, seed)[0]


def _stages(answerer: TimedAnswerer, wall: float) -> dict[str, float]:
    """Seconds of each stage; `prepare` runs beside the others, in its own thread."""
    totals = {"prepare": 0.0, "encode": 0.0, "generate": 0.0}
    for records in answerer.records:
        times = next((record.milliseconds for record in records if record.milliseconds), {})
        for stage in totals:
            totals[stage] += times.get(stage, 0.0) * len(records) / 1e3
    with tempfile.TemporaryDirectory() as folder:
        store = RecordStore(Path(folder))
        start = time.perf_counter()
        for records in answerer.records:
            store.append(records)
        storing = time.perf_counter() - start
    return {
        **totals,
        "score": answerer.seconds - totals["encode"] - totals["generate"],
        "store": storing,
        "plan and wait": wall - answerer.seconds - storing,
        "wall": wall,
    }


def check(name: str, ours: Answers, theirs: Answers, ties: set[Key]) -> int:
    """Number of ties that went the other way; any other difference is an error."""
    wrong = [key for key in ours if ours[key] != theirs[key] and key not in ties]
    if wrong:
        raise SystemExit(
            f"{len(wrong)} answers differ from {name}, first {wrong[0]}: "
            f"{ours[wrong[0]]!r} and {theirs[wrong[0]]!r}"
        )
    return sum(ours[key] != theirs[key] for key in ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="a model that can answer the demo task")
    parser.add_argument("--items", type=int, default=28, help="seven questions share an image")
    parser.add_argument("--conditions", default=CONDITIONS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    bench = Bench(args.model, args.items, args.conditions, args.batch_size)
    contenders: dict[str, Callable[[], Answers]] = {
        "engine": bench.engine,
        "loop, batch 1": lambda: bench.loop(1),
        f"loop, batch {args.batch_size}": lambda: bench.loop(args.batch_size),
    }
    answers = {name: work() for name, work in contenders.items()}  # the warm-up, and the check
    ours = answers["engine"]
    flipped = {
        name: check(name, ours, theirs, bench.ties) for name, theirs in answers.items() if theirs is not ours
    }
    # what the engine finds unchanged it does not ask again; the loops do not either
    bench.requests = [request for request in bench.requests if request.key in ours]
    bench.stages.clear()

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.repeats):
        for name, work in contenders.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            elapsed = time.perf_counter() - start
            cpu[name].append(time.process_time() - cpu_start)
            seconds[name].append(bench.stages[-1]["wall"] if name == "engine" else elapsed)
    result = {
        "machine": describe_hardware(),
        "torch": torch.__version__,
        "requests": len(ours),
        "items": len(bench.items),
        "images": len({item.images[0].key for item in bench.items}),
        "conditions": [condition.id for condition in bench.conditions],
        "batch_size": args.batch_size,
        "requests_per_second": {
            name: _spread([len(ours) / s for s in all_]) for name, all_ in seconds.items()
        },
        "speedup": {
            name: _spread([loop / own for loop, own in zip(all_, seconds["engine"], strict=True)])
            for name, all_ in seconds.items()
            if name != "engine"
        },
        "cpu_ms_per_request": {
            name: _spread([1e3 * s / len(ours) for s in all_]) for name, all_ in cpu.items()
        },
        "engine_seconds": {
            stage: round(statistics.median(run[stage] for run in bench.stages), 3)
            for stage in bench.stages[0]
        },
        "ties": len(bench.ties),
        "ties_flipped": flipped,
    }
    print(json.dumps(result, indent=1) if args.json else _told(result))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def _told(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cpu_cores']} cores, {machine['torch_threads']} torch threads, "
        f"torch {result['torch']}",
        f"{result['requests']} requests: {result['items']} questions on {result['images']} images under "
        f"{len(result['conditions'])} conditions; batch size {result['batch_size']}",
        "",
        "requests per second: median (min - max)",
    ]
    for name, rate in result["requests_per_second"].items():
        ratio = result["speedup"].get(name)
        told = (
            f"   engine is {ratio['median']:.2f} times as fast ({ratio['min']:.2f} - {ratio['max']:.2f})"
            if ratio
            else ""
        )
        lines.append(f"  {name:<15}{rate['median']:8.1f} ({rate['min']:.1f} - {rate['max']:.1f}){told}")
    lines += ["", "CPU milliseconds per request, all threads"]
    least = result["cpu_ms_per_request"]["engine"]["median"]
    lines += [
        f"  {name:<15}{used['median']:8.1f} ({used['min']:.1f} - {used['max']:.1f})"
        + (f"   {used['median'] / least:.2f} times the engine's" if name != "engine" else "")
        for name, used in result["cpu_ms_per_request"].items()
    ]
    stages = result["engine_seconds"]
    lines += ["", "the engine's time, seconds (prepare runs in a thread beside the rest)"]
    lines += [
        f"  {stage:<15}{value:8.3f}  {100 * value / stages['wall']:5.1f} %" for stage, value in stages.items()
    ]
    flips = ", ".join(f"{count} flipped against {name}" for name, count in result["ties_flipped"].items())
    lines.append(f"\nanswers are the same in all three; ties: {result['ties']} ({flips})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
