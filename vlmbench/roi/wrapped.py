"""Base of methods that stand around another one, named as on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self, cast

from vlmbench.conditions import parse_spec
from vlmbench.errors import UsageError
from vlmbench.roi import ROIS
from vlmbench.roi.base import OWN, RoiMethod

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Signals


@dataclass(frozen=True, kw_only=True)
class Wrapped(RoiMethod):
    """What `method` reads and maps, and the way it gives its region back.

    Parameters: method, NAME or NAME(key=value,..).
    """

    name: ClassVar[str] = ""
    """Of the wrapper, for its messages."""

    method: str = "sd-rpn"

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown method, parameters it does not have, and methods that find no
        region or stand around another themselves."""
        inner = self.inner
        if isinstance(inner, Wrapped) or inner.enlarges:
            raise UsageError(f"{self.name}: cannot stand around {self.method!r}; choose another method")

    @cached_property
    def inner(self) -> RoiMethod:
        name, parameters = parse_spec(self.method)
        entry = ROIS.get(name)
        return cast("RoiMethod", entry.build(entry.part(**parameters)))

    def around(self, inner: RoiMethod) -> Self:
        """The same around another method."""
        copy = replace(self)
        copy.__dict__["inner"] = inner  # where the cached property looks first
        return copy

    @property
    def given(self) -> str:
        return self.inner.given if self.give == OWN else self.give

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    def layers(self, depth: int) -> tuple[int, ...]:
        return self.inner.layers(depth)

    def map(self, signals: Signals) -> Tensor | None:
        return self.inner.map(signals)
