"""What looking again costs: throughput relative to the plain model, beside what arithmetic allows.

python scripts/bench_roi.py [--shape demo,medium] [--zoom 1] [--tokens 1] [--repeats R] [--json F]
python scripts/bench_roi.py --shape 7b --batch 1,8      (with a CUDA device: random weights in bf16)

`sd-rpn` with an untrained network, which computes what a trained one does, and regions of a given share; with
and without reuse of keys and values, and ViCrop's `rel-attn`, in one run with `none`, all in turns. Aims are
printed beside what was measured and never asserted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from prune_bench.lines import Line, tell
from roi_bench.cases import SHAPES, demo, random_model
from roi_bench.throughput import Setting, bench_throughput

from vlmbench.engine.manifest import describe_hardware
from vlmbench.engine.timing import LEAST_REPEATS


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="demo,medium", help=f"of demo, {', '.join(SHAPES)}")
    parser.add_argument("--zoom", type=float, default=1.0, help="share of the requests shown a region")
    parser.add_argument("--tokens", type=float, default=1.0, help="share of the crop's tokens that are shown")
    parser.add_argument("--batch", default="1", help="sizes, comma-separated")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--cpu-time", action="store_true", help="of this process, where others work too")
    parser.add_argument("--json", type=Path, help="everything measured")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = [name for name in args.shape.split(",") if name]
    unknown = sorted(set(names) - {"demo", *SHAPES})
    if unknown:
        parser.error(f"--shape takes demo, {', '.join(SHAPES)}: got {unknown[0]}")
    sizes = args.batch.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        parser.error(f"--batch takes whole numbers above 0, comma-separated: got {args.batch}")
    if args.repeats < LEAST_REPEATS or args.new_tokens < 1:
        parser.error(f"--repeats must be {LEAST_REPEATS} or more, --new-tokens 1 or more")
    if "7b" in names and device.type != "cuda":
        parser.error("--shape 7b needs a CUDA device")
    if not (0 <= args.zoom <= 1 and 0 < args.tokens <= 1):
        parser.error("--zoom and --tokens are shares: at most 1")

    if args.cpu_time and device.type == "cuda":
        parser.error("--cpu-time says nothing about work on a GPU")
    seconds = time.process_time if args.cpu_time else time.perf_counter
    clock = "CPU time" if args.cpu_time else "wall time"
    print(f"{describe_hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {clock}")
    print(f"median (95 % interval of the median), {args.repeats} repeats")

    def lines(name: str) -> Iterator[Line]:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        adapter = demo() if name == "demo" else random_model(SHAPES[name], device, dtype)
        title = "demo" if name == "demo" else SHAPES[name].name
        for batch in sizes:
            setting = Setting(args.zoom, args.tokens, int(batch), args.new_tokens, args.repeats, seconds)
            yield from bench_throughput(adapter, title, setting)

    tell(map(lines, names), clock, args.json)


if __name__ == "__main__":
    main()
