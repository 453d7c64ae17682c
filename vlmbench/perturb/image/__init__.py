"""The image perturbations by name. Importing this imports none of them, and neither numpy nor Pillow.

Families: "Questioning the Stability of Visual Question Answering" (arXiv 2511.11206), whose exact ranges
are not public; the grids follow arXiv 2602.06652, which prints its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from vlmbench.conditions import Value
from vlmbench.registry import Entry, Grid, Param, Registry

_SOURCE = "families arXiv 2511.11206 (ranges not public), ranges arXiv 2602.06652"
_PIXELS = (1, 2, 4, 8, 12, 16)
_COLOUR = Param(
    "colour", "black", "colour of the canvas that is laid bare", choices=("black", "white", "mean")
)
_BORDER = Param("colour", "black", "colour of the border", choices=("black", "white", "mean", "edge"))
_PERCENT = Param("percent", 0.0, "change in percent, signed", low=-90, high=100, strength=True)


def _grid(name: str, values: Iterable[Value]) -> Grid:
    return tuple({name: value} for value in values)


_EITHER_WAY: Grid = _grid("percent", (-5.0, 5.0))


def _photometric(name: str, summary: str) -> Entry:
    """Brightness, contrast and gamma: one percentage, changed a little either way."""
    return Entry(
        name,
        f"vlmbench.perturb.image.{name}:{name.capitalize()}",
        summary,
        params=(_PERCENT,),
        suites={"benign": _EITHER_WAY},
        identity={"percent": 0.0},
        breaks="above 10 % questions about colours and light",
        source=_SOURCE,
    )


_SEVERITY = Param("severity", 0, "0 = none, 1 = mild to 5 = worst", low=0, high=5, strength=True)
_DETAIL = "small text; above severity 3 also counts"


def _stress(
    name: str, target: str, summary: str, breaks: str = _DETAIL, source: str = "arXiv 1903.12261"
) -> Entry:
    """Like ImageNet-C's: five severities, strengths in proportion to the shorter side, 224 px for its own."""
    return Entry(
        name,
        f"vlmbench.perturb.image.{name}:{target}",
        summary,
        params=(_SEVERITY,),
        suites={"stress": _grid("severity", (1, 3, 5))},
        identity={"severity": 0},
        breaks=breaks,
        source=f"{source}, scaled to the image's size",
    )


IMAGES = Registry(
    "perturbation",
    "vlmbench.image_perturbations",
    (
        Entry(
            "shift",
            "vlmbench.perturb.image.shift:Shift",
            "moves the picture by whole pixels on its canvas",
            params=(
                Param("dx", 0, "pixels of the source, to the right", low=-4096, high=4096, strength=True),
                Param("dy", 0, "pixels of the source, down", low=-4096, high=4096, strength=True),
                Param("patches", 0, "patches of the model, to the right", low=-8, high=8),
                Param("fill", "wrap", "what is laid bare", choices=("wrap", "edge", "reflect", "constant")),
                _COLOUR,
            ),
            suites={"benign": tuple({a: s * p} for a in ("dx", "dy") for p in _PIXELS for s in (-1, 1))},
            identity={"dx": 0, "dy": 0, "patches": 0},
            breaks="questions about the border; above 8 px counts, above 16 px also places and text",
            source=_SOURCE,
        ),
        Entry(
            "pad",
            "vlmbench.perturb.image.pad:Pad",
            "adds a border on all sides",
            params=(
                Param("n", 0, "pixels of the source on each side", low=0, high=1024, strength=True),
                _BORDER,
            ),
            suites={
                "benign": (
                    *_grid("n", (4, 8, 12, 16)),
                    *({"n": 8, "colour": colour} for colour in ("white", "mean", "edge")),
                )
            },
            identity={"n": 0},
            breaks="questions about the border",
            source=_SOURCE,
        ),
        Entry(
            "crop",
            "vlmbench.perturb.image.crop:Crop",
            "cuts off a strip on all sides",
            params=(Param("n", 0, "pixels of the source on each side", low=0, high=4096, strength=True),),
            suites={"benign": _grid("n", (4, 8, 12, 16))},
            identity={"n": 0},
            breaks="questions about the border; above 8 px counts, above 16 px also places and text",
            source=_SOURCE,
        ),
        Entry(
            "rescale",
            "vlmbench.perturb.image.rescale:Rescale",
            "resizes by a factor and back, bicubic",
            params=(Param("factor", 1.0, "size in between, of the source", low=0.1, high=2, strength=True),),
            suites={"benign": _grid("factor", (0.9, 0.95, 1.05, 1.1))},
            identity={"factor": 1.0},
            breaks="below 0.75 small text",
            source=_SOURCE,
        ),
        Entry(
            "scale_pad",
            "vlmbench.perturb.image.scale_pad:ScalePad",
            "shrinks the picture in the centre of its canvas",
            params=(
                Param("factor", 1.0, "size of the picture, of the canvas", low=0.1, high=1, strength=True),
                _BORDER,
            ),
            suites={"benign": _grid("factor", (0.9, 0.8))},
            identity={"factor": 1.0},
            breaks="questions about the border; below 0.75 small text",
            source=_SOURCE,
        ),
        Entry(
            "rotate",
            "vlmbench.perturb.image.rotate:Rotate",
            "rotates about the centre, bare corners in the mean colour",
            params=(
                Param("deg", 0.0, "degrees, positive = anticlockwise", low=-180, high=180, strength=True),
                Param("inner_crop", False, "keep only the largest upright rectangle without bare corners"),
            ),
            suites={
                "benign": _grid("deg", (-5.0, -2.0, -1.0, 1.0, 2.0, 5.0)),
                "stress": _grid("deg", (-30.0, 30.0)),
            },
            identity={"deg": 0.0},
            breaks="questions about borders and slants; above 2 degrees counts, above 5 also places and text",
            source=_SOURCE,
        ),
        Entry(
            "overlay",
            "vlmbench.perturb.image.overlay:Overlay",
            "a text box over the lower left corner",
            params=(Param("kind", "neutral", "what it says", choices=("neutral", "random", "empty")),),
            suites={"benign": _grid("kind", ("neutral", "random", "empty"))},
            breaks="questions about text, counts and the border",
            source="arXiv 2511.11206 (wording not public); the controls random and empty are ours",
        ),
        Entry(
            "jpeg",
            "vlmbench.perturb.image.jpeg:Jpeg",
            "compresses as JPEG",
            params=(Param("quality", 90, "quality of libjpeg", low=1, high=100, strength=True),),
            suites={"benign": _grid("quality", (95, 85, 75))},
            breaks="below 50 text and fine colours",
            source=_SOURCE,
        ),
        _photometric("brightness", "multiplies all channel values"),
        _photometric("contrast", "moves channel values away from the mean grey"),
        _photometric("gamma", "raises channel values to a power near 1"),
        Entry(
            "noise",
            "vlmbench.perturb.image.noise:Noise",
            "adds Gaussian noise",
            params=(Param("sigma", 0.0, "deviation in grey levels of 255", low=0, high=64, strength=True),),
            suites={"benign": _grid("sigma", (1.0, 2.0, 3.0))},
            identity={"sigma": 0.0},
            breaks="above 8/255 small text",
            source=_SOURCE,
        ),
        Entry(
            "lsb",
            "vlmbench.perturb.image.lsb:Lsb",
            "flips the least significant bit of some pixels: a null perturbation",
            params=(Param("share", 0.0, "share of the pixels", low=0, high=1, strength=True),),
            suites={"null": _grid("share", (0.1, 1.0))},
            identity={"share": 0.0},
            source="null variant of the noise floor, ours",
        ),
        _stress(
            "glass_blur", "GlassBlur", "shows every grain at a random place nearby, between two light blurs"
        ),
        _stress("motion_blur", "MotionBlur", "smears every point into a slanted line"),
        _stress("defocus_blur", "DefocusBlur", "smears every point into a disc"),
        _stress(
            "down_up",
            "DownUp",
            "shrinks to a thumbnail and blows it up again",
            source="arXiv 2603.06148, factors ours",
        ),
        _stress("pixelate", "Pixelate", "a mosaic of evenly coloured blocks"),
        _stress(
            "elastic",
            "Elastic",
            "stretches and squeezes as on a rubber sheet",
            "questions about borders and slants; above severity 2 small text, above 3 also counts",
        ),
        _stress(
            "fog",
            "Fog",
            "lays a drifting grey haze over the scene",
            "above severity 3 colours, small text and counts",
        ),
        _stress("shot_noise", "ShotNoise", "a short exposure that counts few photons"),
    ),
)
