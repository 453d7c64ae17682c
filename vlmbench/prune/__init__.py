"""Pruners by name: `get("zoo")(ratio=0.9)` is one. Importing this imports none of them, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from vlmbench.registry import Entry, Param, Registry

if TYPE_CHECKING:
    from vlmbench.prune.base import Pruner

_HERE = "vlmbench.prune"

NEWLINES = ("counted", "kept", "dropped")
"""What becomes of the tokens that only mark the end of a row (LLaVA-NeXT, LLaVA-OneVision).

counted: N counts them, so that every method gives the language model k tokens; they stay only where k exceeds
the number of image tokens. kept: all of them stay, outside the budget, as in ZOO-Prune. dropped: none stays.
"""

RATIO = Param(
    "ratio", 0.0, "share of the visual tokens removed", low=0.0, high=1.0, open_high=True, strength=True
)
KEEP = Param("keep", 0, "the same budget as a count, 0 for none", low=0, strength=True)
POSITIONS = Param(
    "positions", "compact", "position ids in the language model", choices=("compact", "original")
)
BUDGET = (RATIO, KEEP, POSITIONS)
_INSIDE = (RATIO, KEEP, Param("positions", "original", POSITIONS.help, choices=POSITIONS.choices))

PRUNERS = Registry(
    "pruner",
    "vlmbench.pruners",
    (
        Entry(
            "zoo",
            f"{_HERE}.zoo:Zoo",
            "sensitivity of the projector x diversity (ZOO-Prune); divprune where that is constant",
            (
                *BUDGET,
                Param(
                    "estimator",
                    "exact",
                    "of the sensitivity: closed form, the paper's sampling, or autograd's Jacobian",
                    choices=("exact", "sampled", "jvp"),
                ),
                Param("m", 64, "random directions of `sampled` and `jvp`", low=1),
                Param("h", 0.01, "step of `sampled`", low=1e-6),
                Param("rank", 0, "of the closed form's matrix, 0 for all of it", low=0),
            ),
            source="arXiv 2509.24837; the closed form is this project's",
        ),
        Entry("norm", f"{_HERE}.norm:Norm", "norm of the features x diversity", BUDGET, source="ablation"),
        Entry(
            "divprune",
            f"{_HERE}.divprune:DivPrune",
            "max-min diversity of the features",
            BUDGET,
            source="arXiv 2503.02175",
        ),
        Entry(
            "visionzip",
            f"{_HERE}.visionzip:VisionZip",
            "most attended tokens of the encoder, the rest merged",
            BUDGET,
            source="arXiv 2412.04467",
        ),
        Entry(
            "fastv",
            f"{_HERE}.fastv:FastV",
            "most attended tokens of an early language-model layer",
            (*_INSIDE, Param("K", 2, "the cut lies before this layer", low=1)),
            source="arXiv 2403.06764",
        ),
        Entry(
            "random",
            f"{_HERE}.random:Random",
            "a random subset",
            (*BUDGET, Param("draw", 0, "number of the draw: each is another subset", low=0)),
            source="control",
        ),
        Entry("uniform", f"{_HERE}.uniform:Uniform", "an even grid", BUDGET, source="control"),
        Entry("pool", f"{_HERE}.pool:Pool", "average-pooled feature grid", BUDGET, source="control"),
        Entry(
            "downsample",
            f"{_HERE}.downsample:Downsample",
            "a smaller image, for models of native resolution",
            BUDGET,
            source="control (VTC-Bench)",
        ),
        Entry(
            "identity",
            f"{_HERE}.identity:Identity",
            "keeps all, the full way",
            (POSITIONS,),
            source="control",
        ),
        Entry("blind", f"{_HERE}.blind:Blind", "no visual token at all", (), source="control"),
        Entry("swapped", f"{_HERE}.swapped:Swapped", "another item's image", (), source="control"),
    ),
)


def get(name: str) -> Callable[..., Pruner]:
    """The method of this name: call it with its parameters. Raises UsageError in one line."""
    entry = PRUNERS.get(name)

    def make(**parameters: Any) -> Pruner:
        return cast("Pruner", entry.build(entry.part(**parameters)))

    make.__name__, make.__doc__ = entry.name, entry.summary
    return make
