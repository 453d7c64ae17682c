"""A region proposal network as a folder: `rpn.safetensors` and, beside it, `config.json`.

Equal networks give equal bytes: no times, no paths, tensors and keys in a fixed order.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, FiniteFloat, JsonValue, ValidationError

from vlmbench.errors import UsageError
from vlmbench.roi.rpn import Rpn, RpnShape
from vlmbench.schema import Schema
from vlmbench.table_io import write_text_atomically

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter

WEIGHTS, CONFIG = "rpn.safetensors", "config.json"
Heads = tuple[tuple[int, int], ...]
"""(layer, head), 0-based."""


class BaseModel(Schema):
    """The model that a network was copied from, and that reads the prompt for it."""

    id: str = Field(description="hub id, alias or the folder's name")
    revision: str = Field(description="commit on the hub, or sha256 over the folder's files")
    family: str = Field(description="model_type of its configuration")
    hidden_size: int = Field(ge=1)
    depth: int = Field(ge=2, description="layers of the language model")

    def __str__(self) -> str:
        return f"{self.id} (revision {self.revision[:19]})"


class CurvePoint(Schema):
    """Where training stood."""

    step: int = Field(ge=0)
    loss: FiniteFloat
    quality: FiniteFloat | None = Field(None, description="of held-out maps; null where it was not measured")


class RpnConfig(Schema):
    """All that a network's file says of it beside its weights."""

    kind: Literal["vlmbench region proposal network"] = "vlmbench region proposal network"
    version: Literal[1] = 1
    base: BaseModel
    start: int = Field(ge=1, description="K: the first layer that is copied; the model runs those before it")
    layers: int = Field(ge=1, description="T: copied layers, the last one a head of queries and keys")
    norm: bool = Field(description="a trainable norm in front of the head")
    rotary: bool = Field(description="the head rotates queries and keys by their positions")
    threshold: FiniteFloat = Field(gt=0, lt=1, description="tau: the blurred map above it is the region")
    grounding_heads: Heads = Field((), description="whose maps were the labels")
    sink_heads: Heads = Field((), description="whose maps told the sinks; empty: no token was one")
    rows: Literal["generated", "predicting"] = Field(
        "generated", description="whose attention the maps were: the answer's tokens, or what predicts them"
    )
    labels: dict[str, JsonValue] = Field(
        default_factory=dict, description="rule of the labels and its numbers"
    )
    sinks: dict[str, JsonValue] = Field(default_factory=dict, description="rule of the sinks and its numbers")
    data_hash: str = Field("", description="of the items that chose heads, trained and calibrated")
    training: dict[str, JsonValue] = Field(default_factory=dict, description="settings of the training")
    curve: tuple[CurvePoint, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict, description="of the packages that trained it")

    @property
    def shape(self) -> RpnShape:
        return RpnShape(self.start, self.layers, self.norm, self.rotary)


def base_model(adapter: Adapter) -> BaseModel:
    """What a file says of a loaded model."""
    text = adapter.model.config.get_text_config()
    loaded = adapter.loaded
    return BaseModel(
        id=loaded.id,
        revision=loaded.revision,
        family=loaded.family,
        hidden_size=int(text.hidden_size),
        depth=adapter.layers,
    )


def save_rpn(folder: Path, rpn: Rpn, config: RpnConfig) -> None:
    """Writes both files into `folder`, which is made; the weights in the dtype that they have."""
    from safetensors.torch import save

    if config.shape != rpn.shape:
        raise UsageError(f"a network of {rpn.shape} with a configuration of {config.shape}")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in rpn.state_dict().items()}
    beside = folder / f".{WEIGHTS}.part"
    beside.write_bytes(save(weights, metadata={"format": "pt"}))
    beside.replace(folder / WEIGHTS)
    content = json.dumps(config.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
    write_text_atomically(folder / CONFIG, content + "\n")


def load_rpn(folder: Path, adapter: Adapter) -> tuple[Rpn, RpnConfig]:
    """The network in eval mode on the model's device and in its dtype, and its configuration.

    Raises UsageError where the files are missing or broken, or are not for this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    check_base(folder, config.base, base_model(adapter))
    path = folder / WEIGHTS
    if not path.is_file():
        raise UsageError(f"{folder.name}: {WEIGHTS} is missing beside {CONFIG}")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path.name}: not a safetensors file: {_one_line(error)}") from error
    rpn = Rpn(adapter.model, config.shape)
    own = rpn.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        here, there = (list(side[name].shape) if name in side else "none" for side in (own, weights))
        if here != there:
            raise UsageError(f"{path.name}: {name} is {there} in the file, {here} by {CONFIG} and the model")
    rpn.load_state_dict(weights)
    return rpn.requires_grad_(False), config


def read_config(folder: Path) -> RpnConfig:
    """Raises UsageError where it is missing or is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise UsageError(
            f"{folder}: no region proposal network: {CONFIG} is missing; make one with vlmbench distill"
        )
    try:
        return RpnConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{folder.name}/{CONFIG}: not that of a region proposal network: {place}: {first['msg']}"
        ) from error


def check_base(folder: Path, made_for: BaseModel, here: BaseModel) -> None:
    """Raises UsageError, naming both sides, unless a network made for one model is for that at hand.

    Weights decide, not names: the same revision under another name is the same model.
    """
    mend = f"distil one with vlmbench distill --model {here.id}"
    for what, then, now in (
        ("family", made_for.family, here.family),
        ("hidden size", made_for.hidden_size, here.hidden_size),
        ("depth", made_for.depth, here.depth),
    ):
        if then != now:
            raise UsageError(
                f"{folder.name}: made for {made_for.id} of {what} {then}, "
                f"but {here.id} is of {what} {now}: {mend}"
            )
    if made_for.revision != here.revision:
        raise UsageError(f"{folder.name}: made for {made_for}, but the model at hand is {here}: {mend}")


def rpn_hash(folder: Path) -> str:
    """sha256 over both files: what an answer that used the network depends on."""
    total = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        content = (folder / name).read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"sha256:{total.hexdigest()}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
