"""Short names of models, and what a name given by the user stands for. No heavy import."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vlmbench.errors import UsageError, did_you_mean

DEMO = Path(__file__).resolve().parent.parent / "demo" / "model"
"""The folder of the embedded model; `demo-half` lies beside it."""


@dataclass(frozen=True)
class Alias:
    """One short name. `hub` is empty for embedded models; `size` counts parameters."""

    name: str
    hub: str
    family: str
    licence: str
    size: int | None
    note: str = ""


_ALIASES = (
    Alias(
        "demo", "", "llava", "Apache-2.0", 2_096_224, "embedded; trained on rendered scenes; needs no network"
    ),
    Alias("demo-half", "", "llava", "Apache-2.0", 973_056, "embedded; the same at half the size"),
    Alias("llava", "llava-hf/llava-1.5-7b-hf", "llava", "Llama 2", 7_063_000_000),
    Alias("llava-13b", "llava-hf/llava-1.5-13b-hf", "llava", "Llama 2", 13_351_000_000),
    Alias("llava-next", "llava-hf/llava-v1.6-mistral-7b-hf", "llava_next", "Apache-2.0", 7_567_000_000),
    Alias(
        "llava-onevision",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava_onevision",
        "Apache-2.0",
        8_031_000_000,
    ),
    Alias(
        "qwen2.5-vl-3b",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "qwen2_5_vl",
        "Qwen Research",
        3_755_000_000,
        "non-commercial",
    ),
    Alias("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "Apache-2.0", 8_292_000_000),
    Alias("qwen3-vl", "Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", "Apache-2.0", 8_767_000_000),
    Alias(
        "internvl3",
        "OpenGVLab/InternVL3-8B-hf",
        "internvl",
        "MIT; Qwen2.5 terms for its language model",
        7_944_000_000,
    ),
    Alias("smolvlm", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm", "Apache-2.0", 2_246_000_000),
    Alias("idefics3", "HuggingFaceM4/Idefics3-8B-Llama3", "idefics3", "Apache-2.0", 8_462_000_000),
    Alias(
        "gemma3", "google/gemma-3-4b-it", "gemma3", "Gemma", 4_300_000_000, "gated: accept the terms first"
    ),
    Alias(
        "paligemma2",
        "google/paligemma2-3b-mix-224",
        "paligemma",
        "Gemma",
        3_033_000_000,
        "gated: accept the terms first; no chat template",
    ),
    Alias("pixtral", "mistral-community/pixtral-12b", "pixtral", "Apache-2.0", 12_676_000_000),
)

MODELS: Mapping[str, Alias] = MappingProxyType({alias.name: alias for alias in _ALIASES})

SERVED = "openai:"
"""Before the name of a model that answers through a server."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_served(name: str) -> bool:
    """Whether this names a model behind a server and not one whose weights are loaded."""
    return name.lower().startswith(SERVED)


def resolve(name: str) -> str:
    """The folder or hub id that `name` stands for: an alias, else an existing folder, else `owner/name`.

    Raises UsageError for anything else; a hub id is not looked up here.
    """
    if not name.strip():
        raise UsageError("--model is empty: give an alias (see `vlmbench list models`), a hub id or a folder")
    if is_served(name):
        raise UsageError(
            f"{name} is a served model: only `perturb` asks one; this needs the weights, so give an alias, a "
            "hub id or a folder"
        )
    alias = MODELS.get(name.lower())
    if alias is not None:
        folder = DEMO.with_name(alias.name.replace("demo", "model"))
        return alias.hub or str(_model_folder(folder, "an embedded model of this installation"))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(_model_folder(path, name))
    if path.exists():
        raise UsageError(f"{name} is a file; give the model's folder, a hub id or an alias")
    if _HUB_ID.fullmatch(name):
        return name
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise UsageError(f"{name}: there is no such folder, and it is no hub id (owner/name)")
    raise UsageError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")


def _model_folder(folder: Path, shown: str) -> Path:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{shown} is no model folder: config.json is missing")
    return folder
