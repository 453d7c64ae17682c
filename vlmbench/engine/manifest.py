"""What a run folder says of itself, and the check that a folder holds THIS run before anything is written."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError
from vlmbench.schema import Manifest
from vlmbench.table_io import read_manifest, write_text_atomically

PACKAGES = ("vlmbench", "torch", "transformers", "accelerate", "tokenizers", "pillow", "numpy", "datasets")
"""Versions on which an answer may depend."""


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions; a package that is absent is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_hardware() -> dict[str, Any]:
    """The machine as far as a reader needs it to judge a figure."""
    import torch

    about: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        about["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        about["cuda"] = torch.version.cuda
    return about


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def make_manifest(
    experiment: str, identity: dict[str, Any], plan: dict[str, Any], arguments: list[str]
) -> Manifest:
    return Manifest(
        experiment=experiment,
        identity=identity,
        plan=plan,
        environment={
            "python": sys.version.split()[0],
            "packages": package_versions(),
            "hardware": describe_hardware(),
        },
        arguments=arguments,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def open_run(folder: Path, manifest: Manifest) -> None:
    """Creates the run folder, or accepts one that holds the same run. Raises UsageError on any other."""
    path = folder / "manifest.json"
    if path.exists():
        known = read_manifest(path)
        differing = sorted(
            key
            for key in known.identity.keys() | manifest.identity.keys()
            if known.identity.get(key) != manifest.identity.get(key)
        )
        if known.experiment != manifest.experiment:
            differing.insert(0, "experiment")
        if differing:
            raise UsageError(
                f"{folder} holds a different run (differs in: {', '.join(differing)}); choose another --out"
            )
    elif folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; choose another --out")
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {folder} cannot be created ({error.strerror}); choose another --out"
        ) from None
    write_text_atomically(path, manifest.model_dump_json(indent=1) + "\n")
