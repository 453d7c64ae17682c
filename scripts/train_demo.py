#!/usr/bin/env python
"""Train the embedded demo model from scratch, or measure a saved one.

    python scripts/train_demo.py --out runs/demo --seed 0            # train; resumes with --resume
    python scripts/train_demo.py --evaluate vlmbench/demo/model      # print the held-out table

On a CPU one process per core is faster than threads:

    python -m torch.distributed.run --standalone --nproc-per-node 2 scripts/train_demo.py --out runs/demo

Stages: 0 the vision tower on a dense pretext; A the language model on cached vision features; B, if asked
for, both together. Scenes are rendered beside the training by a second process. See vlmbench/demo/README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

# Thin models allocate and free the same few megabytes all the time: with huge pages and without giving
# memory back, a step takes less than half as long on a CPU.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
    "OMP_WAIT_POLICY": "passive",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for scenes, checkpoints and the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=["full", "half"], default="full")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoints in --out")
    parser.add_argument("--data", type=Path, help="folder of rendered scenes to share between runs")
    parser.add_argument("--chunks", type=int, default=30, help="thousands of scenes to render")
    parser.add_argument("--cached", type=int, default=20000, help="scenes whose features stage A keeps")
    parser.add_argument("--vision-steps", type=int, default=4000)
    parser.add_argument("--language-steps", type=int, default=2500)
    parser.add_argument("--joint-steps", type=int, default=0, help="stage B; 0 leaves it out")
    parser.add_argument("--two-images", type=float, default=0.42, help="share of steps with a second image")
    parser.add_argument("--vision-batch", type=int, default=16)
    parser.add_argument("--language-batch", type=int, default=8)
    parser.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure a saved model and stop")
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes to measure on")
    parser.add_argument("--json", type=Path, help="write the measured table here too")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    on_cpu = arguments.device == "cpu" or (arguments.device == "auto" and not Path("/dev/nvidia0").exists())
    if on_cpu and sys.platform == "linux" and "MALLOC_TOP_PAD_" not in os.environ:
        # glibc reads these at start-up only.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    import torch

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.evaluate is not None:
        from demo_training import evaluate

        evaluate.report(arguments.evaluate, arguments.scenes, device, arguments.json)
        return
    if arguments.out is None:
        raise SystemExit("give --out DIR to train, or --evaluate FOLDER to measure a model")
    train(arguments, device)


def _start_renderer(data: Path, chunks: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "demo_training.views", "--out", str(data), "--chunks", str(chunks)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])})


def train(arguments: argparse.Namespace, device: "torch.device") -> None:  # noqa: F821, UP037
    from demo_training import architecture, evaluate, export, language_stage, parallel, vision_stage
    from demo_training.checkpoints import Checkpoint
    from demo_training.data import Views
    from demo_training.packing import Questions

    out: Path = arguments.out
    data: Path = arguments.data or out / "data"
    rank, _ = parallel.start()
    renderer = None if rank else _start_renderer(data, arguments.chunks)
    try:
        while not (data / "chunk-0001.json").exists():
            if renderer is not None and renderer.poll():
                raise SystemExit("rendering the scenes failed, see above")
            time.sleep(1)
        vocabulary = export.vocabulary()
        model = architecture.build(arguments.size, len(vocabulary), export.IDS, arguments.seed).to(device)
        views = Views(data)
        pretext = vision_stage.run(
            model.model.vision_tower, views, out, arguments.vision_steps, arguments.vision_batch,
            arguments.seed, device, arguments.resume,
        )  # fmt: skip
        if renderer is not None:
            renderer.wait()
        parallel.wait()
        views.refresh()
        questions = Questions(vocabulary)
        common = {"batch": arguments.language_batch, "two_images": arguments.two_images}
        for settings in (
            language_stage.Settings(
                "A", arguments.language_steps, adam=1.5e-3, muon=3e-3, joint=False, easy=0.12, **common
            ),
            language_stage.Settings(
                "B", arguments.joint_steps, adam=1e-3, muon=2e-3, joint=True, easy=0.0, **common
            ),
        ):
            if not settings.steps:
                continue
            cache = None
            if not settings.joint:
                saved = Checkpoint(out / "A.safetensors", {"model": model, "pretext": pretext})
                if arguments.resume and saved.load() >= settings.steps:
                    continue
                cache = language_stage.cache_features(model, views, min(arguments.cached, len(views)), device)
            language_stage.run(
                model, questions, views, cache, pretext, out, settings, arguments.seed, device,
                arguments.resume, lambda step: export.save(model, out / "model"),
            )  # fmt: skip
    finally:
        if renderer is not None:
            renderer.terminate()
    if rank == 0:
        evaluate.report(out / "model", arguments.scenes, device, out / "held-out.json")


if __name__ == "__main__":
    main()
