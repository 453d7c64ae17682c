"""Small tasks and runs for the tests of the engine: made-up pictures, made-up questions, tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (56, 48)) -> Image.Image:
    """Coloured noise of large cells: tiny random models answer differently to each."""
    rng = np.random.RandomState(seed)
    cells = rng.randint(0, 256, (6, 7, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)


def write_task(folder: Path, images: int = 3, per_image: int = 2, **spec: Any) -> Path:
    """A JSONL task with an image folder; returns its YAML."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    questions = ("what is in the picture ?", "is there a red cat on the mat ?", "how many dogs are there ?")
    rows = []
    for i in range(images):
        picture(i, (56 + 8 * i, 48)).save(folder / "images" / f"{i}.png")
        for j in range(per_image):
            rows.append(
                {"id": f"{i}-{j}", "image": f"{i}.png", "question": questions[j % 3], "answer": "yes"}
            )
    return write_rows(folder, rows, **spec)


def write_rows(folder: Path, rows: list[dict[str, Any]], **spec: Any) -> Path:
    """The same for given rows."""
    import yaml

    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "own",
        "source": {"jsonl": "data.jsonl", "images": "images"},
        "max_new_tokens": 3,
        **spec,
    }
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(
    model: Path | str,
    task: Path | str,
    out: Path,
    families: str,
    batch_size: int = 4,
    repeats: int = 1,
    prune: str | None = None,
    churn: bool = False,
    **more: Any,
) -> Any:
    """One in-process run of `perturb`; returns its Result."""
    from vlmbench.experiments.options import RunOptions
    from vlmbench.experiments.perturb import PerturbOptions
    from vlmbench.experiments.perturb import run as perturb

    options = RunOptions(
        model=str(model), tasks=str(task), out=out, batch_size=batch_size, show_progress=False, **more
    )
    return perturb(options, PerturbOptions(families=families, repeats=repeats, prune=prune, churn=churn))
