"""The projector as pruners see it: a function in float32, with its closed form where one is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from vlmbench.prune.forms import Form


@dataclass(frozen=True, eq=False)
class Projector:
    """M: X [N, P, c] -> Z [N, d]. Build it once per model: a form keeps its matrices."""

    apply: Callable[[Tensor], Tensor]
    """In float32, whatever the model's own dtype: a step of .01 vanishes in fp16."""
    form: Form | None = None
    """A closed form, which is callable itself and equals `apply`; None where there is none."""
