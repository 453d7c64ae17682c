"""The region proposal network of a run, where one of its RoI methods reads one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vlmbench.conditions import Part
from vlmbench.errors import UsageError
from vlmbench.models.aliases import resolve
from vlmbench.roi import ROIS
from vlmbench.roi.rpn_file import CONFIG, WEIGHTS, RpnConfig, load_rpn
from vlmbench.roi.settled import leaves_open

if TYPE_CHECKING:
    from vlmbench.experiments.options import RunOptions
    from vlmbench.models.adapter import Adapter
    from vlmbench.roi.base import RoiMethod
    from vlmbench.roi.rpn import Rpn

SHIPPED = "rpn"
"""Subfolder of a model's folder in which its own network lies."""


@dataclass(frozen=True, eq=False)
class Network:
    """A loaded network."""

    rpn: Rpn
    config: RpnConfig
    digest: str
    """sha256 over both of its files."""

    def describe(self) -> str:
        """A note for the table."""
        config = self.config
        heads = ", ".join(f"{layer}:{head}" for layer, head in config.grounding_heads)
        return (
            f"region proposal network {self.digest[:12]}: layers {config.start} to "
            f"{config.start + config.layers - 1}, tau {config.threshold:g}; teacher's heads "
            f"{heads or 'unknown'}"
        )


def shipped(model: str) -> Path | None:
    """The folder of the network that lies beside a model's weights, if one does."""
    folder = Path(resolve(model)) / SHIPPED
    return folder if (folder / CONFIG).is_file() else None


def network_of(options: RunOptions, adapter: Adapter, parts: Sequence[Part]) -> Network | None:
    """The one that these RoI methods read; None where none does, or where those that do can go without.

    Raises UsageError where one is needed or named in vain, and where it is not of this model.
    """
    methods = [cast("RoiMethod", ROIS.get(part.name).build(part)) for part in parts]
    folder = options.rpn or shipped(options.model)
    if not any(map(leaves_open, methods)):
        if options.rpn is not None:
            raise UsageError(f"--rpn {options.rpn}: no method of this run reads a network: name sd-rpn")
        return None
    if folder is None:
        needing = [part.label for part, each in zip(parts, methods, strict=True) if "rpn" in each.needs]
        if needing:
            raise UsageError(
                f"{needing[0]} needs a region proposal network of {adapter.loaded.id}: make one with "
                "vlmbench distill and name its folder by --rpn"
            )
        return None
    rpn, config = load_rpn(folder, adapter)
    total = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        total.update((folder / name).read_bytes())
    return Network(rpn, config, total.hexdigest())
