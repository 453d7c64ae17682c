"""Methods that propose the region of an image to look at again, by name: `get("rel-attn")(layer=14)` is one.

Importing this imports none of them, and no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from vlmbench.registry import Entry, Param, Registry

if TYPE_CHECKING:
    from vlmbench.roi.base import RoiMethod

_HERE = "vlmbench.roi"
_VICROP = "arXiv 2502.17422"
_SD_RPN = "arXiv 2509.16944"

CEILING = "ceiling"
"""Source of what knows more than any method may: the asked region."""

GIVE = Param(
    "give",
    "own",
    "how the region is given back: its tokens behind the picture's, a second image, or in its place; "
    "or the method's own way",
    choices=("own", "tokens", "image", "replace"),
)
SHARE = Param("share", 0.25, "of the picture's area", low=1e-4, high=1.0, strength=True)
LAYER = Param("layer", -1, "of the language model, from 0; -1 for the depth of layer 14 of 32", low=-1)
WINDOW = Param(
    "window", 0, "side of the smallest window in source pixels, 0 for 14 per token of the grid's side", low=0
)
HEADS = "as LAYER:HEAD/LAYER:HEAD.., both from 0; empty for "
METHOD = Param("method", "sd-rpn", "the method that finds the region, NAME or NAME(key=value,..)")

ROIS = Registry(
    "RoI method",
    "vlmbench.rois",
    (
        Entry(
            "sd-rpn",
            f"{_HERE}.sd_rpn:SdRpn",
            "a region proposal network that the model has distilled from itself",
            (
                Param(
                    "tau",
                    0.0,
                    "threshold of the map, 0 for the one calibrated with the network",
                    low=0.0,
                    high=1.0,
                    open_high=True,
                ),
                Param(
                    "rule",
                    "auto",
                    "connected components (LLaVA), or the box around all (Qwen); auto: by the model",
                    choices=("auto", "components", "surrounding"),
                ),
                GIVE,
            ),
            source=_SD_RPN,
        ),
        Entry(
            "raw-attn",
            f"{_HERE}.raw_attn:RawAttn",
            "attention of the generated answer, which sd-rpn is distilled from",
            (
                Param("heads", "", HEADS + "all of the middle third of the layers"),
                Param("sink_heads", "", "of the map that shows sinks, " + HEADS + "no removal of sinks"),
                Param(
                    "sinks",
                    "default",
                    "rule for sinks: this project's, or the paper's of that family",
                    choices=("default", "llava", "qwen"),
                ),
                Param(
                    "rows",
                    "auto",
                    "attention of the answer's tokens (the paper), or that which they are predicted from; "
                    "auto: as the network's teacher",
                    choices=("auto", "generated", "predicting"),
                ),
                Param(
                    "tau", 0.2, "threshold, a share of the map's maximum", low=0.0, high=1.0, open_high=True
                ),
                GIVE,
            ),
            source="teacher of " + _SD_RPN,
        ),
        Entry(
            "rel-attn",
            f"{_HERE}.rel_attn:RelAttn",
            "attention relative to that under a general prompt (ViCrop)",
            (LAYER, WINDOW, GIVE),
            source=_VICROP,
        ),
        Entry(
            "attn-entropy",
            f"{_HERE}.attn_entropy:AttnEntropy",
            "attention of the heads that look at one spot",
            (
                Param("heads", "", HEADS + "the best of each image"),
                Param("count", 3, "heads to choose", low=1),
                GIVE,
            ),
            source="after arXiv 2503.06287",
        ),
        Entry(
            "grad-attn",
            f"{_HERE}.grad_attn:GradAttn",
            "attention weighted by its gradient (ViCrop)",
            (LAYER, WINDOW, GIVE),
            source=_VICROP,
        ),
        Entry(
            "pure-grad",
            f"{_HERE}.pure_grad:PureGrad",
            "gradient of the pixels relative to that under a general prompt (ViCrop)",
            (WINDOW, GIVE),
            source=_VICROP,
        ),
        Entry(
            "confidence",
            f"{_HERE}.confidence:Confidence",
            "another method's region, only where the plain answer is unsure",
            (
                METHOD,
                Param(
                    "below",
                    0.8,
                    "probability of the first token from which an answer is sure",
                    low=0.0,
                    high=1.0,
                ),
                GIVE,
            ),
            source="control",
        ),
        Entry(
            "center", f"{_HERE}.center:Center", "the middle of the picture", (SHARE, GIVE), source="control"
        ),
        Entry(
            "random",
            f"{_HERE}.random:Random",
            "a random place",
            (SHARE, Param("draw", 0, "number of the draw: each is another place", low=0), GIVE),
            source="control",
        ),
        Entry(
            "oracle",
            f"{_HERE}.oracle:Oracle",
            "the box around the item's boxes",
            (
                Param(
                    "margin",
                    0.25,
                    "on each side, a share of the box's width or height",
                    low=0.0,
                    strength=True,
                ),
                GIVE,
            ),
            source=CEILING,
        ),
        Entry("none", f"{_HERE}.none:NoRegion", "no region, the full way", (), source="control"),
        Entry(
            "duplicate", f"{_HERE}.duplicate:Duplicate", "the whole picture again", (GIVE,), source="control"
        ),
        Entry(
            "more-pixels",
            f"{_HERE}.more_pixels:MorePixels",
            "the picture alone, shown larger: as many tokens as with a second one",
            (
                Param(
                    "tokens",
                    2.0,
                    "visual tokens wanted, times those of the plain request",
                    low=1.0,
                    high=16.0,
                    strength=True,
                ),
            ),
            source="control",
        ),
        Entry(
            "replace",
            f"{_HERE}.replace:Replace",
            "another method's region in place of the picture",
            (METHOD,),
            source="control",
        ),
    ),
)


def get(name: str) -> Callable[..., RoiMethod]:
    """The method of this name: call it with its parameters. Raises UsageError in one line."""
    entry = ROIS.get(name)

    def make(**parameters: Any) -> RoiMethod:
        return cast("RoiMethod", entry.build(entry.part(**parameters)))

    make.__name__, make.__doc__ = entry.name, entry.summary
    return make
