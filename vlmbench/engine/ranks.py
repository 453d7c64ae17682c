"""Who does which share of a run, after the launcher's environment. No results travel between processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from vlmbench.errors import ExitCode, LostProcessError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Where another one is gone, everything that waits raises LostProcessError: with a line in the first
    process, without a word in the others.
    """

    rank: int = 0
    world: int = 1
    group: Any = None
    """On the CPU: there a process notices that another is gone."""

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process is here."""
        self.any(False)

    def any(self, holds: bool) -> bool:
        """Whether it holds in some process; returns when every process is here."""
        if self.world == 1:
            return holds
        import torch
        from torch import distributed

        word = torch.tensor([int(holds)])
        try:
            distributed.all_reduce(word, distributed.ReduceOp.MAX, group=self.group)
        except RuntimeError:
            line = "another process of this run ended early; the same command goes on where it stopped"
            raise LostProcessError(line if self.main else "") from None
        return bool(word)

    def lead(self, work: Callable[[], T]) -> T | None:
        """What the first process does while the others wait: its result there, None in the others.

        Where it fails, the others end before it does, without a word and with exit code 0: its message and
        its code are the run's.
        """
        if not self.main:
            if self.any(False):
                raise LostProcessError(exit_code=ExitCode.OK)
            return None
        try:
            done = work()
        except Exception:
            with suppress(LostProcessError):
                self.any(True)
            self.see_off()
            raise
        self.wait()
        return done

    def see_off(self) -> None:
        """Returns when the others have ended: the launcher kills what still runs once one has failed."""
        for other in range(1, self.world):
            import torch

            with suppress(RuntimeError):  # nothing is ever sent: what comes is the end of the connection
                if end := torch.distributed.irecv(torch.zeros(1), other, group=self.group):
                    end.wait(timedelta(seconds=10))


def find_ranks(device: str = "auto") -> Ranks:
    """Reads what the launcher set; a single process needs none. Raises UsageError where they disagree."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return Ranks()
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    # the first process to finish waits for the slowest one, which may take days
    patience = timedelta(days=7)
    state = PartialState(cpu=on_cpu, timeout=patience)
    if state.num_processes != launched:
        raise UsageError(
            f"the launcher started {launched} processes but accelerate sees {state.num_processes}: "
            "start with python -m torch.distributed.run --standalone --nproc-per-node N -m vlmbench .."
        )
    group = torch.distributed.new_group(backend="gloo", timeout=patience)
    return Ranks(state.process_index, state.num_processes, group)
