"""Closed forms of projectors: z = form(x), and its sensitivity without a single perturbation.

Sensitivity of a token is S = sqrt(||J||_F^2 / (P c)): the root mean square of ||J u|| over unit directions u
of its P c inputs, where J is the projector's Jacobian there. ZOO-Prune estimates the mean of the same norms
from m random directions (https://arxiv.org/abs/2509.24837); the closed forms are this project's.

A form computes in the dtype of its weights and keeps the matrices it derives from them: build one per model.
"""

from __future__ import annotations

from typing import TypeAlias

from vlmbench.prune.forms.linear import Linear
from vlmbench.prune.forms.mlp import GatedMlp, Mlp
from vlmbench.prune.forms.norm import Norm

Form: TypeAlias = Mlp | GatedMlp | Linear

__all__ = ["Form", "GatedMlp", "Linear", "Mlp", "Norm"]
