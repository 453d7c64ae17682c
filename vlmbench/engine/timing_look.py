"""The look of a RoI method within the timing pass: the full way of the engine, on the rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmbench.engine.plan import prune_seeds
from vlmbench.models.before import Told

if TYPE_CHECKING:
    from vlmbench.engine.looking import Looked, Looker
    from vlmbench.engine.prepare import Prepared
    from vlmbench.models.features import EncoderOutput
    from vlmbench.prune.base import Pruner
    from vlmbench.roi.base import RoiMethod


@dataclass(frozen=True, eq=False)
class Look:
    """What looks again at the requests of a batch, and how."""

    looker: Looker
    method: RoiMethod
    prepared: Sequence[Prepared]
    seed: int = 0

    def __call__(self, encoded: EncoderOutput) -> list[Looked]:
        """One per request. Raises NotApplicableError where the method cannot serve one."""
        groups = [each.group for each in self.prepared]
        by_group = dict(zip(groups, encoded.features, strict=True))
        found: list[Looked] = []
        for each in self.looker.look(self.method, self.prepared, encoded, by_group, len(groups)):
            if isinstance(each, Exception):
                raise each
            found.append(each)
        return found

    def for_pruner(self, pruner: Pruner | None, found: Sequence[Looked]) -> dict[str, Any]:
        """Fields of `Ready` that change with what is shown: a crop is an image like the others."""
        if pruner is None:
            return {}
        asked = [each.prepared for each in found]
        seeds = [prune_seeds(p.request, self.seed, len(p.pixels.images)) for p in asked]
        told = [Told(p.item.question) for p in asked]
        if "evidence" in pruner.needs:
            told = [self.looker.sight.told(p, each.features) for p, each in zip(asked, found, strict=True)]
        return {"seeds": seeds, "told": told}
