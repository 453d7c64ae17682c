"""SD-RPN: the map of a region proposal network that the model has distilled from itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from vlmbench.roi.base import TOKENS, RoiMethod
from vlmbench.roi.given import given
from vlmbench.roi.regions import by_components, on_grid, surrounding

if TYPE_CHECKING:
    from torch import Tensor

    from vlmbench.roi.base import Region, Signals

TAU = 0.15
"""Where the network has no threshold of its own: the default of the authors' code."""

AUTO, COMPONENTS, SURROUNDING = "auto", "components", "surrounding"


@dataclass(frozen=True, kw_only=True)
class SdRpn(RoiMethod):
    """A small network on the model's middle layers says token by token what the question is about.

    Its sigmoid is blurred and cut at tau; what is above is one region by the rule of either family (see
    `regions`). The paper tunes tau on each benchmark; here it is calibrated with the network, on items that
    it was not trained on.

    Based on SD-RPN (https://arxiv.org/abs/2509.16944).

    Parameters: tau, 0 for the network's own; rule, `components` (LLaVA in the paper), `surrounding` (Qwen)
    or `auto`, which is that of the model: see `settled`; give (see RoiMethod). Reads rpn [N].
    """

    own: ClassVar[str] = TOKENS

    tau: float = 0.0
    rule: str = AUTO

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rpn"})

    def map(self, signals: Signals) -> Tensor | None:
        """[H, W]: the network's probability per token."""
        return on_grid(torch.sigmoid(given(signals.rpn, "rpn", "sd-rpn").float()), signals)

    def region(self, signals: Signals) -> Region | None:
        map = self.map(signals)
        assert map is not None
        find = surrounding if self.rule == SURROUNDING else by_components
        return find(map, self.tau or TAU, signals)
