"""What a run of `distill` leaves on the way: its name, the heads it chose, the labels, the training state."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError
from vlmbench.roi.rpn_file import CONFIG, WEIGHTS, RpnConfig, read_config
from vlmbench.table_io import write_text_atomically

_RUN, _HEADS, _STATE = "run.json", "heads.json", "state.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """`folder` gets the network; a folder in it, gone at the end, what a killed run goes on from."""

    folder: Path
    run: str
    """Names everything that decides the network."""

    @property
    def _inner(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def state(self) -> Path:
        return self._inner / _STATE

    def finished(self) -> RpnConfig | None:
        """The configuration, where this very run is over and its weights are still there. Raises UsageError
        for the network of another."""
        if not (self.folder / CONFIG).exists():
            return None
        config = read_config(self.folder)
        if config.training.get("run") != self.run:
            raise UsageError(
                f"--out {self.folder}: holds the network of another run (other model, task or options); "
                "give another folder, or delete it"
            )
        return config if (self.folder / WEIGHTS).exists() else None

    def open(self) -> None:
        """Makes the folder. Raises UsageError where it cannot, or where another run has left something."""
        mark = self._inner / _RUN
        if mark.exists():
            if json.loads(mark.read_text(encoding="utf-8"))["run"] != self.run:
                raise UsageError(
                    f"--out {self.folder}: holds the checkpoint of another run (other model, task, options "
                    "or versions); give another folder, or delete it"
                )
            return
        # a half-written mark is what a run leaves that was killed while it made the folder
        left = self._inner.iterdir() if self._inner.is_dir() else [self._inner] * self._inner.exists()
        if any(not path.name.startswith(f".{_RUN}.") for path in left):
            raise UsageError(f"--out {self.folder}: its folder 'checkpoint' is not of distill: move it")
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {self.folder} is a file; choose another --out")
        try:
            write_text_atomically(mark, json.dumps({"run": self.run}) + "\n")
        except OSError as error:
            raise UsageError(
                f"--out {self.folder} cannot be created ({error.strerror}); choose another --out"
            ) from None

    def labels(self, split: str, number: int) -> Path:
        """File of one batch."""
        return self._inner / "labels" / f"{split}-{number:06d}.safetensors"

    def read_heads(self) -> dict[str, Any] | None:
        """As they were written; None where none were chosen yet."""
        path = self._inner / _HEADS
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_heads(self, heads: dict[str, Any]) -> None:
        write_text_atomically(self._inner / _HEADS, json.dumps(heads, indent=1) + "\n")

    def close(self) -> None:
        """The network is written."""
        shutil.rmtree(self._inner, ignore_errors=True)
