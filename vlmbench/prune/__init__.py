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
the number of image tokens, but a method inside the language model chooses among them too. kept: all of them
stay in every layer, outside the budget and counted in every figure, as in ZOO-Prune. dropped: none enters the
language model. Controls without a budget (identity, swapped) keep theirs under every rule.
"""

RATIO = Param(
    "ratio", 0.0, "share of the visual tokens removed", low=0.0, high=1.0, open_high=True, strength=True
)
KEEP = Param("keep", 0, "the same budget as a count, 0 for none", low=0, strength=True)
POSITIONS = Param(
    "positions", "compact", "position ids in the language model", choices=("compact", "original")
)
MASK = Param(
    "mask",
    "reselected",
    "under a perturbation: tokens chosen anew, or those of the unperturbed input",
    choices=("reselected", "frozen"),
    strength=True,
)
BUDGET = (RATIO, KEEP, POSITIONS, MASK)
CEN = Param("cen", False, "the plug-in: diversity of centred features x unusualness (arXiv 2608.30263)")
_INSIDE = (RATIO, KEEP, Param("positions", "original", POSITIONS.help, choices=POSITIONS.choices), MASK)

_PRUMERGE = (
    Param(
        "count", "budget", "kept: the budget, or within it outlying attention", choices=("budget", "adaptive")
    ),
    Param(
        "neighbours", "dropped", "added to a kept token: dropped ones, or of all", choices=("dropped", "all")
    ),
)

CEILING = "ceiling"
"""Source of what knows more than any method may: the right answers, or the asked region."""

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
                CEN,
            ),
            source="arXiv 2509.24837; the closed form is this project's",
        ),
        Entry("norm", f"{_HERE}.norm:Norm", "norm of the features x diversity", BUDGET, source="ablation"),
        Entry(
            "inv-rms",
            f"{_HERE}.inv_rms:InvRms",
            "1 / RMS of the encoder's output x diversity",
            BUDGET,
            source="ablation",
        ),
        Entry(
            "divprune",
            f"{_HERE}.divprune:DivPrune",
            "max-min diversity of the features",
            (*BUDGET, CEN),
            source="arXiv 2503.02175",
        ),
        Entry(
            "cdpruner",
            f"{_HERE}.cdpruner:CDPruner",
            "relevance to the question by CLIP's text tower x diversity (DPP)",
            (*BUDGET, Param("clip", "", "folder or hub id of the model's CLIP, for its text tower"), CEN),
            source="arXiv 2506.10967",
        ),
        Entry(
            "cdpruner-llm",
            f"{_HERE}.cdpruner:CDPrunerLLM",
            "the same with the language model's own word embeddings",
            (*BUDGET, CEN),
            version=2,
            source="after arXiv 2506.10967",
        ),
        Entry(
            "mmtok",
            f"{_HERE}.mmtok:MMTok",
            "maximum coverage of the question's words and of the image",
            (
                *BUDGET,
                Param("alpha", 0.5, "weight of the image's own coverage", low=0.0),
                Param(
                    "text_temperature",
                    0.0,
                    "of the softmax over words' cosines, 0 for the authors': .01 on Qwen2.5-VL, else .02",
                    low=0.0,
                ),
                Param("image_temperature", 0.2, "of the softmax over tokens' cosines", low=1e-4),
            ),
            version=2,
            source="arXiv 2508.18264",
        ),
        Entry(
            "visionzip",
            f"{_HERE}.visionzip:VisionZip",
            "most attended tokens of the encoder, the rest merged",
            BUDGET,
            source="arXiv 2412.04467",
        ),
        Entry(
            "fastervlm",
            f"{_HERE}.fastervlm:FasterVLM",
            "most attended tokens of the encoder",
            BUDGET,
            source="arXiv 2412.01818",
        ),
        Entry(
            "vispruner",
            f"{_HERE}.vispruner:VisPruner",
            "most attended tokens of the encoder, and those of the rest that repeat none",
            (*BUDGET, Param("r", 0.5, "share of the kept tokens chosen by attention", low=0.0, high=1.0)),
            source="arXiv 2412.01818v2",
        ),
        Entry(
            "hiprune",
            f"{_HERE}.hiprune:HiPrune",
            "most attended tokens in the middle of the encoder, their neighbours, and those of its end",
            (*BUDGET, Param("a", 0.1, "share of the kept tokens from the middle", low=0.0, high=1.0)),
            source="arXiv 2508.00553",
        ),
        Entry(
            "lofi",
            f"{_HERE}.lofi:LoFi",
            "leverage scores of a low-rank approximation of the features",
            (
                *BUDGET,
                Param(
                    "space",
                    "projector_in",
                    "whose tokens: the vision encoder's or the projector's",
                    choices=("projector_in", "features"),
                ),
                Param("rank", 0, "directions that count, 0 for as many as tokens are kept", low=0),
                Param("iterations", 3, "of the fast decomposition of large images, 0: exact", low=0),
            ),
            source="after arXiv 2503.06794",
        ),
        Entry(
            "prumerge",
            f"{_HERE}.prumerge:PruMerge",
            "most attended tokens of the encoder's last layer, what is dropped added to them",
            (*BUDGET, *_PRUMERGE),
            source="arXiv 2403.15388",
        ),
        Entry(
            "prumerge+",
            f"{_HERE}.prumerge:PruMergePlus",
            "prumerge with tokens on an even grid beside the most attended ones",
            (*BUDGET, *_PRUMERGE),
            source="arXiv 2403.15388",
        ),
        Entry(
            "fastv",
            f"{_HERE}.fastv:FastV",
            "most attended tokens of an early language-model layer",
            (*_INSIDE, Param("K", 2, "the cut lies before this layer", low=1)),
            source="arXiv 2403.06764",
        ),
        Entry(
            "dart",
            f"{_HERE}.dart:Dart",
            "least repetition of a few pivots, before an early language-model layer",
            (
                *_INSIDE,
                Param("K", 2, "the cut lies before this layer", low=1),
                Param("pivots_image", 4, "pivots among the image's tokens", low=1),
                Param("pivots_text", 4, "pivots among the text's tokens", low=0),
                Param("exact_budget", True, "false: as many tokens as the paper's rule keeps, 132 for 128"),
            ),
            source="arXiv 2502.11494",
        ),
        Entry(
            "pyramiddrop",
            f"{_HERE}.pyramiddrop:PyramidDrop",
            "most attended tokens, in three stages of the language model",
            BUDGET,
            source="arXiv 2410.17247",
        ),
        Entry(
            "sparsevlm",
            f"{_HERE}.sparsevlm:SparseVLM",
            "tokens that the relevant words attend to, in three stages; part of the dropped is merged",
            (
                *BUDGET,
                Param("exact_budget", True, "false: the published schedule, whose average is larger"),
            ),
            source="arXiv 2410.04417",
        ),
        Entry(
            "random",
            f"{_HERE}.random:Random",
            "a random subset",
            (*BUDGET, Param("draw", 0, "number of the draw: each is another subset", low=0)),
            source="control",
        ),
        Entry(
            "oracle",
            f"{_HERE}.oracle:Oracle",
            "tokens of the item's boxes in turn, then the most different ones",
            BUDGET,
            version=2,
            source=CEILING,
        ),
        Entry(
            "best-of-n",
            f"{_HERE}.best_of_n:BestOfN",
            "per item the best of n random subsets",
            (*BUDGET, Param("draw", 0, "number of the first draw", low=0), Param("n", 32, "draws", low=2)),
            source=CEILING,
            derived=True,
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
