"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# before torch is imported: the models are tiny, so threads cost more than they bring; nothing needs a network
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model("llava")` is the folder of a tiny random model of that family, built once."""
    built: dict[str, Path] = {}

    def folder(family: str) -> Path:
        from tiny_models import build

        if family not in built:
            built[family] = build(family, tmp_path_factory.mktemp("models") / family)
        return built[family]

    return folder
