"""Labels as files, one per batch: what was asked once is not asked again by a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vlmbench.roi.distilling.teacher import Labelled, Pointing


def write_labels(path: Path, labelled: Sequence[Labelled]) -> None:
    """Whole or not at all."""
    from safetensors.torch import save

    about = [
        {
            "id": each.id,
            "reason": each.reason,
            "sinks": each.sinks,
            "teacher": asdict(each.teacher),
            "entropy": asdict(each.entropy),
        }
        for each in labelled
    ]
    tensors = {f"{i}": each.labels.contiguous() for i, each in enumerate(labelled)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))
    beside.replace(path)


def read_labels(path: Path) -> list[Labelled]:
    """What was written."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        return [
            Labelled(
                each["id"],
                file.get_tensor(f"{i}"),
                each["reason"],
                each["sinks"],
                Pointing(**each["teacher"]),
                Pointing(**each["entropy"]),
            )
            for i, each in enumerate(about)
        ]
