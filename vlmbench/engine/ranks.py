"""Who does which share of a run, after the launcher's environment. No results travel between processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vlmbench.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    state: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process is here."""
        if self.state is not None and self.world > 1:
            self.state.wait_for_everyone()


def find_ranks(device: str = "auto") -> Ranks:
    """Reads what the launcher set; a single process needs none. Raises UsageError where they disagree."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return Ranks()
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    # the first process to finish waits for the slowest one, which may take days
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=7))
    if state.num_processes != launched:
        raise UsageError(
            f"the launcher started {launched} processes but accelerate sees {state.num_processes}: "
            "start with python -m torch.distributed.run --standalone --nproc-per-node N -m vlmbench .."
        )
    return Ranks(state.process_index, state.num_processes, state)
