"""Contracts of every image perturbation in the registry; a new family is covered with no edit here."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

import vlmbench.perturb
from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.perturb.base import ImagePerturbation
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.prepare import to_rgb
from vlmbench.perturb.risk import TAGS, question_tags
from vlmbench.perturb.transforms import Affine, Transform, identity, scaling, translation
from vlmbench.registry import Entry

ENTRIES = list(IMAGES)
GRID = [
    pytest.param(entry, params, id=entry.part(**params).label)
    for entry in ENTRIES
    for suite in entry.suites.values()
    for params in suite
]
STRESSED = [
    "glass_blur",
    "motion_blur",
    "defocus_blur",
    "down_up",
    "pixelate",
    "elastic",
    "fog",
    "shot_noise",
]
SEEDED = {"noise", "lsb", "overlay", "glass_blur", "motion_blur", "elastic", "fog", "shot_noise"}
SIZE = (200, 150)
# Pixels by which a dot's centre and a box's sides may be off: these scatter or bend what is in between.
DOT_OFF = {"glass_blur": 0.5, "shot_noise": 0.5, "elastic": 1.0, "pixelate": 0.3}
BOX_OFF = {"rotate": 1.6, "glass_blur": 2.0, "pixelate": 2.0}


def build(entry: Entry | str, **params: Any) -> Any:
    entry = IMAGES.get(entry) if isinstance(entry, str) else entry
    return entry.build(entry.part(**params))


def textured(size: tuple[int, int] = SIZE) -> Image.Image:
    """Integer texture with all frequencies, the same everywhere."""
    y, x, c = np.indices((size[1], size[0], 3))
    return Image.fromarray((((x * 7 + y * 13 + c * 29) ^ (x * y)) % 256).astype(np.uint8))


def smooth(mark: np.ndarray | None = None) -> Image.Image:
    """A calm background of middling values, plus `mark` [h, w] in grey levels."""
    y, x = np.indices((SIZE[1], SIZE[0]))
    grey = 100 + 20 * np.sin(x / 17) + 15 * np.cos(y / 11)
    grey = grey if mark is None else grey + mark
    return Image.fromarray(np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=2))


def change(perturb: ImagePerturbation, mark: np.ndarray) -> tuple[np.ndarray, Transform]:
    """What of `mark` is seen after the perturbation, [h, w] in grey levels; small differences are dropped."""
    with_mark, transform = perturb(smooth(mark), 3)
    without, _ = perturb(smooth(), 3)
    seen = np.asarray(with_mark).astype(float).mean(2) - np.asarray(without).astype(float).mean(2)
    return np.where(seen > 8, seen, 0), transform


@contextmanager
def explained(image: Image.Image) -> Iterator[None]:
    """A NotApplicableError is allowed if it tells the size of the image."""
    try:
        yield
    except NotApplicableError as error:
        if f"{image.width}x{image.height}" not in str(error):
            raise


def blob(x: float, y: float) -> np.ndarray:
    rows, columns = np.indices((SIZE[1], SIZE[0])) + 0.5
    return 110 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_registry_tells_the_truth_about_the_class(entry: Entry) -> None:
    cls = entry.load()
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    declared = [(param.name, param.default, type(param.default)) for param in entry.params]
    assert declared == [(f.name, f.default, type(f.default)) for f in fields(cls)]
    assert isinstance(cls(), ImagePerturbation)
    assert "Parameters:" in cls.__doc__
    assert all(param.help for param in entry.params)
    assert entry.source
    assert entry.suites
    assert any(cls(**build_params(entry, p)).risks() for p in extremes(entry)) == bool(entry.breaks)


def build_params(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    return entry.part(**given).parameters


def extremes(entry: Entry) -> list[dict[str, Any]]:
    """Each parameter at each end of its range, each choice, and the grid."""
    ends: list[dict[str, Any]] = [dict(params) for suite in entry.suites.values() for params in suite]
    for param in entry.params:
        if param.name == "patches":
            continue  # only the engine knows a model's patches
        values = [*param.choices, *(v for v in (param.low, param.high) if v is not None)]
        ends += [{param.name: value} for value in values]
    return ends


def test_import_is_light() -> None:
    code = "import sys, vlmbench.perturb.image; print({'numpy', 'PIL', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_grids_are_the_defined_ones() -> None:
    labels = {part.label for part in IMAGES.suite("benign")}
    steps = [s * p for p in (1, 2, 4, 8, 12, 16) for s in (-1, 1)]
    expected = {f"shift({axis}={step})" for axis in ("dx", "dy") for step in steps}
    expected |= {f"{name}(n={n})" for name in ("pad", "crop") for n in (4, 8, 12, 16)}
    expected |= {f"pad(colour={colour},n=8)" for colour in ("white", "mean", "edge")}
    expected |= {f"rescale(factor={f})" for f in (0.9, 0.95, 1.05, 1.1)}
    expected |= {f"scale_pad(factor={f})" for f in (0.9, 0.8)}
    expected |= {f"rotate(deg={d})" for d in (-5, -2, -1, 1, 2, 5)}
    expected |= {"overlay", "overlay(kind=random)", "overlay(kind=empty)"}
    expected |= {f"jpeg(quality={q})" for q in (95, 85, 75)}
    expected |= {f"{name}(percent={p})" for name in ("brightness", "contrast", "gamma") for p in (5, -5)}
    expected |= {f"noise(sigma={s})" for s in (1, 2, 3)}
    assert labels == expected
    assert len(IMAGES.suite("benign")) == len(expected)
    stress = {"rotate(deg=-30)", "rotate(deg=30)"}
    stress |= {f"{name}(severity={s})" for name in STRESSED for s in (1, 3, 5)}
    assert {part.label for part in IMAGES.suite("stress")} == stress
    assert {part.name for part in IMAGES.suite("null")} == {"lsb"}


def test_strength_is_not_part_of_the_draw() -> None:
    noise = IMAGES.get("noise")
    assert noise.draw_key(noise.part(sigma=1)) == noise.draw_key(noise.part(sigma=3)) == ("noise",)


# ---------------------------------------------------------------- every family


@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.identity is not None], ids=lambda entry: entry.name
)
@pytest.mark.parametrize("size", [SIZE, (1, 1), (7, 3)], ids=str)
def test_identity_changes_nothing(entry: Entry, size: tuple[int, int]) -> None:
    image = textured(size)
    same, transform = build(entry, **entry.identity or {})(image, 5)
    assert same is not image
    assert np.array_equal(np.asarray(same), np.asarray(image))
    points = np.array([[0, 0], [size[0] / 3, size[1] / 2], [0.5, 0.5]])
    assert np.allclose(transform.points(points), points, atol=1e-12)
    assert transform.box((0, 0, *size)) == pytest.approx((0, 0, *size))
    assert build(entry, **entry.identity or {}).risks() == frozenset()


def test_identity_goes_the_full_way_with_every_option() -> None:
    image = textured()
    ways = [build("shift", fill=f) for f in ("wrap", "edge", "reflect", "constant")]
    ways += [
        build(name, colour=c) for name in ("pad", "scale_pad") for c in ("black", "white", "mean", "edge")
    ]
    ways += [build("rotate", inner_crop=True)]
    for perturb in ways:
        assert np.array_equal(np.asarray(perturb(image)[0]), np.asarray(image)), perturb


@pytest.mark.parametrize(("entry", "params"), GRID)
def test_grid_entry(entry: Entry, params: Mapping[str, Any]) -> None:
    perturb = build(entry, **params)
    image = textured()
    before = image.tobytes()
    new, transform = perturb(image, 7)
    assert image.tobytes() == before, "the input was modified"
    assert new.mode == "RGB"
    assert (transform.in_size, transform.out_size) == (image.size, new.size)
    changed = new.size != image.size or new.tobytes() != before
    assert changed, "no pixel changed"
    assert perturb(image, 7)[0].tobytes() == new.tobytes(), "one seed, two results"
    if entry.name not in SEEDED:
        assert perturb(image, 8)[0].tobytes() == new.tobytes(), "an unseeded family used its seed"
    assert perturb.risks() <= TAGS


@pytest.mark.parametrize(("entry", "params"), GRID)
def test_points_move_as_the_pixels_did(entry: Entry, params: Mapping[str, Any]) -> None:
    """A soft dot is painted, found again in the result by its centre of mass, and held against `points`."""
    found = 0
    for x, y in ((60.5, 40.5), (100, 75), (150.25, 45), (130, 100.75), (45, 95), (188, 75)):
        seen, transform = change(build(entry, **params), blob(x, y))
        expected = transform.points(np.array([[x, y]]))[0]
        border = min(*expected, *(np.asarray(transform.out_size) - expected))
        if not border > 12:  # cut off by the border, so its centre of mass says nothing; NaN included
            continue
        rows, columns = np.indices(seen.shape) + 0.5
        centre = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
        assert centre == pytest.approx(expected, abs=DOT_OFF.get(entry.name, 0.2))
        found += 1
    assert found >= 4


@pytest.mark.parametrize(("entry", "params"), GRID)
def test_boxes_move_as_the_pixels_did(entry: Entry, params: Mapping[str, Any]) -> None:
    for box in ((40, 40, 80, 80), (0, 20, 30, 60), (120, 30, 123, 33)):
        mark = np.zeros((SIZE[1], SIZE[0]))
        mark[box[1] : box[3], box[0] : box[2]] = 110
        seen, transform = change(build(entry, **params), mark)
        if box[0] == 0 and params.get("colour") == "edge":
            continue  # the border repeats the box
        if entry.name == "shift":  # `box` tells of the larger piece
            left, right = seen[:, : SIZE[0] // 2], seen[:, SIZE[0] // 2 :]
            (left if left.sum() < right.sum() else right)[:] = 0
        if "severity" in params and box[2] - box[0] == 3:
            continue  # as wide as the blur
        rows, columns = np.nonzero(seen > (seen.max() / 2 if "severity" in params else 45))
        pixels = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert transform.box(box) == pytest.approx(pixels, abs=BOX_OFF.get(entry.name, 1.0))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("crop", {"n": 16}),
        ("shift", {"dx": -16, "fill": "constant"}),
        ("shift", {"dy": -16, "fill": "edge"}),
        ("rotate", {"deg": 30}),
        ("rotate", {"deg": 20, "inner_crop": True}),
    ],
)
def test_what_leaves_the_canvas_is_lost(name: str, params: Mapping[str, Any]) -> None:
    perturb = build(name, **params)
    seen, transform = change(perturb, blob(3, 3))
    assert np.isnan(transform.points(np.array([[3.0, 3.0]]))).all()
    assert transform.box((0, 0, 5, 5)) is None
    # `edge` smears what is left of the dot along the border; nothing of its bright middle remains.
    assert seen.max() < 20


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_ends_of_every_range_work(entry: Entry) -> None:
    image = textured((160, 120))
    for params in extremes(entry):
        with explained(image):
            new, transform = build(entry, **params)(image, 1)
            assert new.size == transform.out_size


# ---------------------------------------------------------------- odd inputs


def exif_rotated() -> Image.Image:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    textured((90, 200)).save(file, "PNG", exif=exif)
    return Image.open(file)


def palette(transparent: bool = False) -> Image.Image:
    image = textured().quantize(64)
    if transparent:
        image.info["transparency"] = bytes([0, 128] + [255] * 62)
    return image


ODD: dict[str, Callable[[], Image.Image]] = {
    "1x1": lambda: textured((1, 1)),
    "1x200": lambda: textured((1, 200)),
    "3000x17": lambda: textured((3000, 17)),
    "palette": palette,
    "palette-alpha": lambda: palette(transparent=True),
    "RGBA": lambda: textured().convert("RGBA"),
    "LA": lambda: textured().convert("LA"),
    "CMYK": lambda: textured().convert("CMYK"),
    "I;16": lambda: Image.fromarray((np.indices((150, 200)).sum(0) * 180).astype(np.uint16)),
    "exif": exif_rotated,
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_odd_images_work_or_say_why_not(entry: Entry, odd: str) -> None:
    image = to_rgb(ODD[odd]())
    grid = [params for suite in entry.suites.values() for params in suite]
    for params in (grid[0], grid[-1]):
        before = image.tobytes()
        with explained(image) if odd in {"1x1", "1x200", "3000x17"} else nullcontext():
            new, transform = build(entry, **params)(image, 2)
            assert (new.mode, new.size) == ("RGB", transform.out_size)
        assert image.tobytes() == before


def test_nothing_left_is_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match="leaves nothing of a 20x17 image"):
        build("crop", n=9)(textured((20, 17)))
    with pytest.raises(NotApplicableError, match="leaves nothing"):
        build("shift", dx=20, fill="edge")(textured((20, 17)))
    with pytest.raises(NotApplicableError, match="too small for legible text"):
        build("overlay")(textured((3000, 17)))
    with pytest.raises(ValueError, match="RGB"):
        build("pad", n=4)(textured().convert("L"))


# ---------------------------------------------------------------- single families against an oracle


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (-16, 0), (0, 12), (-3, 5), (207, -151)])
def test_shift_equals_numpy(dx: int, dy: int) -> None:
    image = textured()
    pixels = np.asarray(image)
    wrapped = build("shift", dx=dx, dy=dy)(image)[0]
    assert np.array_equal(np.asarray(wrapped), np.roll(pixels, (dy, dx), axis=(0, 1)))
    assert wrapped.tobytes() == ImageChops.offset(image, dx, dy).tobytes()
    if abs(dx) >= image.width:
        return
    window = (slice(20 - dy, 20 - dy + image.height), slice(20 - dx, 20 - dx + image.width))
    for fill in ("edge", "reflect"):
        oracle = np.pad(pixels, ((20, 20), (20, 20), (0, 0)), mode=fill)[window]
        assert np.array_equal(np.asarray(build("shift", dx=dx, dy=dy, fill=fill)(image)[0]), oracle)
    oracle = np.pad(pixels, ((20, 20), (20, 20), (0, 0)), constant_values=255)[window]
    white = build("shift", dx=dx, dy=dy, fill="constant", colour="white")(image)[0]
    assert np.array_equal(np.asarray(white), oracle)


def test_pad_and_crop_are_exact_and_undo_each_other() -> None:
    image = textured()
    pixels = np.asarray(image)
    edge = build("pad", n=5, colour="edge")(image)[0]
    assert np.array_equal(np.asarray(edge), np.pad(pixels, ((5, 5), (5, 5), (0, 0)), mode="edge"))
    mean = np.asarray(build("pad", n=5, colour="mean")(image)[0])[0, 0]
    assert np.array_equal(mean, np.floor(pixels.mean((0, 1)) + 0.5))
    for colour in ("black", "white", "mean", "edge"):
        padded, out = build("pad", n=5, colour=colour)(image)
        back, home = build("crop", n=5)(padded)
        assert back.tobytes() == image.tobytes()
        assert out.then(home).box((3, 4, 50, 60)) == (3, 4, 50, 60)


def test_rotate_by_right_angles_is_exact_and_anticlockwise() -> None:
    square = textured((64, 64))
    for turns in (1, 2, -1):
        rotated = build("rotate", deg=90 * turns)(square)[0]
        assert np.array_equal(np.asarray(rotated), np.rot90(np.asarray(square), turns))


@pytest.mark.parametrize("deg", [-30, -2, 1, 5, 30])
def test_inner_crop_shows_no_bare_corner(deg: float) -> None:
    new, transform = build("rotate", deg=deg, inner_crop=True)(textured())
    w, h = new.size
    corners = np.array([[0, 0], [w, 0], [0, h], [w, h]], dtype=float)
    assert isinstance(transform, Affine)
    assert not np.isnan(transform.inverse().points(corners)).any()
    assert w / h == pytest.approx(SIZE[0] / SIZE[1], rel=0.03)


def test_photometric_formulas() -> None:
    image = textured()
    values = np.asarray(image).astype(float)

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.floor(np.clip(x, 0, 255) + 0.5)

    grey = np.asarray(image.convert("L")).astype(float).mean()
    for percent in (-30.0, -5.0, 5.0, 40.0):
        gain = 1 + percent / 100
        oracle = {
            "brightness": values * gain,
            "contrast": grey + (values - grey) * gain,
            "gamma": 255 * (values / 255) ** gain,
        }
        for name, wanted in oracle.items():
            got = np.asarray(build(name, percent=percent)(image)[0])
            assert np.abs(got - rounded(wanted + 1e-7)).max() <= (name == "contrast"), name


def test_noise_is_gaussian_and_keeps_its_draw() -> None:
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    noise = {s: np.asarray(build("noise", sigma=s)(grey, 11)[0]).astype(float) - 128 for s in (4, 8)}
    assert noise[8].std() == pytest.approx(8, rel=0.01)
    assert abs(noise[8].mean()) < 0.05
    assert (np.abs(noise[8]) < 8).mean() == pytest.approx(0.65, abs=0.03)
    assert np.abs(noise[8] - 2 * noise[4]).max() <= 1.5  # the same draw, twice as strong
    other = np.asarray(build("noise", sigma=8)(grey, 12)[0]).astype(float) - 128
    assert abs(np.corrcoef(noise[8].ravel(), other.ravel())[0, 1]) < 0.01
    channels = np.corrcoef(noise[8].reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.02


def test_lsb_flips_one_bit_of_nested_shares() -> None:
    image = textured((300, 300))
    flipped = {s: np.asarray(image) ^ np.asarray(build("lsb", share=s)(image, 4)[0]) for s in (0.1, 0.5, 1.0)}
    assert all(set(np.unique(bits)) <= {0, 1} for bits in flipped.values())
    assert all((bits == bits[..., :1]).all() for bits in flipped.values())
    assert flipped[0.1].mean() == pytest.approx(0.1, abs=0.01)
    assert (flipped[0.1] <= flipped[0.5]).all()
    assert flipped[1.0].all()


def test_overlay_kinds_cover_the_same_pixels() -> None:
    image = textured((400, 300))
    covered, ink = {}, {}
    for kind in ("neutral", "random", "empty"):
        new = np.asarray(build("overlay", kind=kind)(image, 9)[0]).astype(int)
        rows, columns = np.nonzero((new != np.asarray(image)).any(2))
        covered[kind] = (rows.min(), rows.max(), columns.min(), columns.max())
        box = new[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        ink[kind] = (box < 128).mean()
    assert len(set(covered.values())) == 1
    assert ink["empty"] == 0
    assert 0.05 < ink["neutral"] < 0.4
    assert ink["random"] == pytest.approx(ink["neutral"], rel=0.35)
    flat = textured((900, 100))
    rows = np.nonzero((np.asarray(build("overlay")(flat)[0]) != np.asarray(flat)).any((1, 2)))[0]
    assert 12 <= rows.max() - rows.min() + 1 <= 15
    random = build("overlay", kind="random")
    assert random(image, 1)[0].tobytes() != random(image, 2)[0].tobytes()


def test_jpeg_is_what_pillow_reads_back() -> None:
    file = io.BytesIO()
    textured().save(file, "JPEG", quality=75, subsampling=2)
    assert build("jpeg", quality=75)(textured())[0].tobytes() == Image.open(file).tobytes()


def test_rescale_and_scale_pad_are_bicubic() -> None:
    image = textured()
    small = image.resize((180, 135), Image.Resampling.BICUBIC)
    assert (
        build("rescale", factor=0.9)(image)[0].tobytes()
        == small.resize(SIZE, Image.Resampling.BICUBIC).tobytes()
    )
    canvas = Image.new("RGB", SIZE, (255, 255, 255))
    canvas.paste(small, (10, 7))
    assert build("scale_pad", factor=0.9, colour="white")(image)[0].tobytes() == canvas.tobytes()


PINNED = {
    "shift(dx=3)": "018ffe5743492b1f",
    "pad(colour=mean,n=8)": "d1e34d3ef7a0ffa7",
    "crop(n=4)": "0529b5661d1f3244",
    "overlay(kind=random)": "8d8d871a4edf0379",
    "brightness(percent=5)": "3dd73604fd5bf027",
    "contrast(percent=5)": "51e7f4961e84f41f",
    "gamma(percent=-5)": "ed5bc22b5b262a28",
    "noise(sigma=3)": "1bccedc3569795ba",
    "lsb(share=0.1)": "0f8394a6f9a36ffd",
    "pixelate(severity=3)": "e97e34d2f700786d",
}


@pytest.mark.parametrize("label", PINNED)
def test_bytes_are_the_same_on_every_machine(label: str) -> None:
    """Pinned hashes of what needs integers only. A change here is a new version of the family."""
    (part,) = IMAGES.expand(label)
    image = IMAGES.get(part.name).build(part)(textured((320, 240)), 2**62 + 5)[0]
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == PINNED[label]


# ---------------------------------------------------------------- transforms

CANVAS = st.tuples(st.integers(20, 200), st.integers(20, 200))
UNIT = st.floats(0, 1)


@st.composite
def affines(draw: st.DrawFn, in_size: tuple[int, int] | None = None) -> Affine:
    size = in_size or draw(CANVAS)
    kind = draw(st.sampled_from(["shift", "wrap", "scale", "rotate"]))
    if kind in ("shift", "wrap"):
        dx, dy = draw(st.tuples(st.integers(-40, 40), st.integers(-40, 40)))
        return translation(
            size, dx, dy, out_size=None if kind == "wrap" else draw(CANVAS), wrap=kind == "wrap"
        )
    if kind == "scale":
        return scaling(size, draw(CANVAS))
    transform = build("rotate", deg=draw(st.floats(-60, 60)))._transform(size)
    assert isinstance(transform, Affine)
    return transform


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, x1 = sorted(draw(st.tuples(st.floats(-10, size[0] + 10), st.floats(-10, size[0] + 10))))
    y0, y1 = sorted(draw(st.tuples(st.floats(-10, size[1] + 10), st.floats(-10, size[1] + 10))))
    assume(x1 - x0 > 2 and y1 - y0 > 2)
    return x0, y0, x1, y1


def lattice(box: tuple[float, float, float, float], n: int = 41) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(box[0], box[2], n), np.linspace(box[1], box[3], n))
    return np.stack([x.ravel(), y.ravel()], axis=1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_box_is_the_tight_bound_of_its_points(data: st.DataObject) -> None:
    """Against brute force: a lattice of points in the box, moved one by one."""
    transform = data.draw(affines())
    assume(not transform.wrap)
    box = data.draw(boxes(transform.in_size))
    moved = transform.points(lattice(box))
    moved = moved[~np.isnan(moved[:, 0])]
    new = transform.box(box)
    if new is None:
        assert len(moved) < 41 * 2  # at most what touches the border
        return
    assert 0 <= new[0] < new[2] <= transform.out_size[0] + 1e-9
    assert 0 <= new[1] < new[3] <= transform.out_size[1] + 1e-9
    if len(moved):
        assert (moved >= np.array(new[:2]) - 1e-5).all()
        assert (moved <= np.array(new[2:]) + 1e-5).all()
    step = math.hypot(box[2] - box[0], box[3] - box[1]) / 40
    a, b, _, d, e, _ = transform.matrix
    slack = 2 * step * max(math.hypot(a, d), math.hypot(b, e))
    if len(moved) > 400:
        assert (*moved.min(0), *moved.max(0)) == pytest.approx(new, abs=slack)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 14),
    st.integers(1, 9),
    st.integers(-40, 40),
    st.integers(-40, 40),
    st.data(),
)
def test_wrapped_box_is_the_larger_piece(w: int, h: int, dx: int, dy: int, data: st.DataObject) -> None:
    """Against brute force: the box is painted, rolled, and its pieces are measured."""
    x0, y0 = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, w)), data.draw(st.integers(y0 + 1, h))

    def largest(size: int, low: int, high: int, shift: int) -> tuple[int, set[tuple[int, int]]]:
        line = np.zeros(size + 2, dtype=int)
        line[1:-1] = np.roll((np.arange(size) >= low) & (np.arange(size) < high), shift)
        starts, ends = np.nonzero(np.diff(line) == 1)[0], np.nonzero(np.diff(line) == -1)[0]
        runs = [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        longest = max(b - a for a, b in runs)
        return longest, {run for run in runs if run[1] - run[0] == longest}

    new = translation((w, h), dx, dy, wrap=True).box((x0, y0, x1, y1))
    assert new is not None
    assert (new[0], new[2]) in largest(w, x0, x1, dx)[1]
    assert (new[1], new[3]) in largest(h, y0, y1, dy)[1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_composition_is_one_after_the_other(data: st.DataObject) -> None:
    first = data.draw(affines())
    second = data.draw(affines(first.out_size))
    third = identity(second.out_size)
    points = lattice((0, 0, *first.in_size), 9)
    chain = first.then(second)
    assert (chain.in_size, chain.out_size) == (first.in_size, second.out_size)
    got = chain.points(points)
    assert np.array_equal(got, second.points(first.points(points)), equal_nan=True)
    assert np.array_equal(first.then(second.then(third)).points(points), got, equal_nan=True)
    if not (first.wrap or second.wrap):
        one, two = (np.vstack([np.reshape(t.matrix, (2, 3)), [0, 0, 1]]) for t in (first, second))
        product = (two @ one @ np.c_[points, np.ones(len(points))].T).T[:, :2]
        kept = ~np.isnan(got[:, 0])
        assert np.allclose(got[kept], product[kept], atol=1e-5)
    box = data.draw(boxes(first.in_size))
    between = first.box(box)
    assert chain.box(box) == (None if between is None else second.box(between))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_inverse_leads_back(data: st.DataObject) -> None:
    transform = data.draw(affines())
    points = lattice((0.5, 0.5, transform.in_size[0] - 0.5, transform.in_size[1] - 0.5), 7)
    there = transform.points(points)
    kept = ~np.isnan(there[:, 0])
    back = transform.inverse().points(there[kept])
    assert np.allclose(back, points[kept], atol=1e-4)


def test_transform_directions_and_edges() -> None:
    right = translation((10, 8), 3, 0)
    assert right.points(np.array([[1.0, 2.0]])).tolist() == [[4.0, 2.0]]
    assert np.isnan(right.points(np.array([[7.5, 2.0], [-1.0, 2.0]]))).all()
    assert right.box((5, 1, 9, 3)) == (8, 1, 10, 3)
    assert right.box((8, 1, 9, 3)) is None
    assert right.box((4, 4, 4, 6)) is None, "a box without area"
    assert translation((10, 8), 3, 0, wrap=True).points(np.array([[8.5, 2.0]])).tolist() == [[1.5, 2.0]]
    assert translation((10, 8), 3, 0, wrap=True).box((0, 1, 10, 3)) == (0, 1, 10, 3)
    assert translation((4, 4), 5, 5, out_size=(20, 20)).points(np.array([[-1.0, 1.0]])).tolist() != [
        [4.0, 6.0]
    ]
    # What one step cut off does not come back with the next.
    there_and_back = translation((10, 8), 6, 0).then(translation((10, 8), -6, 0))
    assert np.isnan(there_and_back.points(np.array([[5.0, 1.0]]))).all()
    assert there_and_back.box((0, 0, 10, 8)) == (0, 0, 4, 8)
    with pytest.raises(ValueError, match="cannot precede"):
        right.then(identity((8, 10)))
    with pytest.raises(ValueError, match="can wrap"):
        Affine((2, 0, 0, 0, 1, 0), (4, 4), (4, 4), wrap=True)
    assert isinstance(right, Transform)
    assert isinstance(there_and_back, Transform)


# ---------------------------------------------------------------- to_rgb


def one(image: Image.Image) -> tuple[int, ...]:
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    return tuple(int(v) for v in np.asarray(rgb)[0, 0])


def with_transparency(image: Image.Image, transparency: Any) -> Image.Image:
    image.info["transparency"] = transparency
    return image


def test_to_rgb_of_rgb_is_a_new_equal_image() -> None:
    image = textured()
    rgb = to_rgb(image)
    assert rgb is not image
    assert rgb.tobytes() == image.tobytes()


def test_to_rgb_lays_transparency_over_white() -> None:
    clear, half = (10, 20, 30, 0), (255, 0, 0, 128)
    assert one(Image.new("RGBA", (2, 2), clear)) == (255, 255, 255)
    assert one(Image.new("RGBA", (2, 2), half)) == (255, 127, 127)
    assert one(Image.new("LA", (2, 2), (0, 128))) == (127, 127, 127)
    assert one(Image.new("RGBA", (2, 2), half).convert("RGBa")) == (255, 127, 127)
    assert one(Image.new("LA", (2, 2), (0, 128)).convert("La")) == (127, 127, 127)
    assert one(with_transparency(Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3))) == (255, 255, 255)
    assert one(with_transparency(Image.new("L", (2, 2), 7), 7)) == (255, 255, 255)
    indexed = Image.new("P", (2, 2), 1)
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    assert one(indexed.copy()) == (255, 0, 0)
    assert one(indexed.convert("PA")) == (255, 0, 0)
    assert one(with_transparency(indexed.copy(), 1)) == (255, 255, 255)
    assert one(with_transparency(indexed.copy(), bytes([255, 128]))) == (255, 127, 127)


def test_to_rgb_of_other_modes() -> None:
    assert one(Image.new("1", (2, 2), 1)) == (255, 255, 255)
    assert one(Image.new("L", (2, 2), 77)) == (77, 77, 77)
    assert one(Image.new("CMYK", (2, 2), (0, 255, 255, 0))) == (255, 0, 0)
    assert one(Image.new("YCbCr", (2, 2), (128, 128, 128))) == (128, 128, 128)
    assert one(Image.new("HSV", (2, 2), (0, 255, 255))) == (255, 0, 0)


def grey(values: Any, dtype: str) -> Image.Image:
    return Image.fromarray(np.asarray([values], dtype=dtype))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.arange(256) * 257, "<u2", np.arange(256)),
        (np.arange(256) * 257, ">u2", np.arange(256)),
        ([0, 128, 129, 65535], "<u2", [0, 0, 1, 255]),
        ([0, 128, 129, 255], "<u2", [0, 0, 1, 1]),
        (np.arange(256) * 257, "<i4", np.arange(256)),
        ([0, 7, 255], "<i4", [0, 7, 255]),
        ([-100, 0, 100], "<i4", [0, 128, 255]),
        ([0, 70000, 140000], "<i4", [0, 128, 255]),
        ([0.0, 0.5, 1.0], "<f4", [0, 128, 255]),
        ([0.0, 100.4, 255.0], "<f4", [0, 100, 255]),
        ([-1.0, 0.0, 1.0], "<f4", [0, 128, 255]),
        ([-3.0, -3.0, -3.0], "<f4", [0, 0, 0]),
    ],
)
def test_to_rgb_scales_deep_grey(values: Any, dtype: str, expected: Any) -> None:
    rgb = np.asarray(to_rgb(grey(values, dtype)))[0]
    assert np.array_equal(rgb, np.repeat(np.asarray(expected)[:, None], 3, axis=1))


def test_to_rgb_of_sixteen_bit_files() -> None:
    file = io.BytesIO()
    grey(np.arange(256) * 257, "<u2").save(file, "PNG")
    assert np.array_equal(np.asarray(to_rgb(Image.open(file)))[0, :, 0], np.arange(256))
    with pytest.raises(ItemError, match="NaN"):
        to_rgb(grey([0.0, np.nan], "<f4"))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: np.rot90(a, 2)),
        (4, lambda a: a[::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_to_rgb_turns_upright(orientation: int, upright: Callable[[np.ndarray], np.ndarray]) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    textured((30, 20)).save(file, "PNG", exif=exif)
    rgb = to_rgb(Image.open(file))
    assert np.array_equal(np.asarray(rgb), upright(np.asarray(textured((30, 20)))))
    assert to_rgb(rgb).tobytes() == rgb.tobytes(), "turned twice"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_truncated_files_are_item_errors(kind: str) -> None:
    file = io.BytesIO()
    textured().save(file, kind)
    data = file.getvalue()
    with pytest.raises(ItemError, match="cannot be decoded") as caught:
        to_rgb(Image.open(io.BytesIO(data[: len(data) // 2])))
    assert "\n" not in str(caught.value)


def test_corrupt_empty_and_huge_files_are_item_errors() -> None:
    file = io.BytesIO()
    textured().save(file, "PNG")
    data = bytearray(file.getvalue())
    data[200:260] = bytes(60)
    with pytest.raises(ItemError, match="cannot be decoded"):
        to_rgb(Image.open(io.BytesIO(bytes(data))))
    with pytest.raises(ItemError, match="empty: 0x5"):
        to_rgb(Image.new("RGB", (0, 5)))
    header = b"IHDR" + struct.pack(">IIBBBBB", 12000, 9000, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    body = struct.pack(">I", 4) + b"IDAT" + bytes(4) + struct.pack(">I", zlib.crc32(b"IDAT" + bytes(4)))
    with pytest.warns(Image.DecompressionBombWarning):
        bomb = Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks + body))
    with pytest.raises(ItemError, match="too large: 12000x9000"):
        to_rgb(bomb)


# ---------------------------------------------------------------- risks


@pytest.mark.parametrize(
    ("question", "tags"),
    [
        ("What animal is this?", ""),
        ("Is the circle LEFT of the square?", "location"),
        ("What is in the top right corner?", "location edge"),
        ("Which object lies at the edge of the table?", "location edge"),
        ("How many dogs are there?", "count"),
        ("What is the number of dogs?", "count"),
        ("Are there three dogs?", "count"),
        ("What number is on the shirt?", "ocr"),
        ("What does the sign say?", "ocr"),
        ("Which digit is written on the ball?", "ocr"),
        ("What colour is the car?", "colour"),
        ("What color is the car?", "colour"),
        ("Is the gray cat asleep?", "colour"),
        ("Is the line horizontal?", "orientation"),
        ("Is there more dogs than cats?", "count"),
        ("Are there fewer big red dogs than cats?", "count colour"),
        ("Wie viele Hunde sind links?", "count location"),
        ("Combien de chiens y a-t-il à gauche ?", "count location"),
        ("¿Cuántos perros hay a la izquierda?", "count location"),
        ("What is the weather like?", "clarity"),
        ("Is it foggy?", "clarity"),
        ("Is the picture blurry?", "clarity"),
        # Parts of words do not count.
        ("Is the theft at a stopover of the bread countess cleft?", ""),
        ("", ""),
    ],
)
def test_question_tags(question: str, tags: str) -> None:
    assert question_tags(question) == frozenset(tags.split())


def test_small_strengths_leave_ordinary_questions_alone() -> None:
    relation = question_tags("Is the circle left of the square?")
    count = question_tags("How many dogs are there?")
    for name, mild, strong in (
        ("shift", {"dx": 2}, {"dy": -40}),
        ("crop", {"n": 4}, {"n": 40}),
        ("rotate", {"deg": 2}, {"deg": -30}),
    ):
        assert not build(name, **mild).risks() & (relation | count)
        assert build(name, **strong).risks() >= relation | count
        assert "edge" in build(name, **mild).risks()
    assert "count" in build("crop", n=16).risks()
    assert "colour" in build("gamma", percent=-20).risks()
    assert "ocr" in build("overlay").risks()
    for part in IMAGES.suite("stress"):
        if part.name != "rotate":
            assert "clarity" in build(part.name, **part.parameters).risks()
    benign = [build(part.name, **part.parameters).risks() for part in IMAGES.suite("benign")]
    assert not any("location" in risks or "colour" in risks for risks in benign)


# ---------------------------------------------------------------- get


def test_get_prepares_perturbs_and_checks() -> None:
    shift = vlmbench.perturb.get("shift")
    image = textured().convert("RGBA")
    shifted, transform = shift(image, dx=2, dy=0, seed=0)
    assert np.array_equal(np.asarray(shifted), np.roll(np.asarray(textured()), 2, axis=1))
    assert transform.box((0, 0, 10, 10)) == (2, 0, 12, 10)
    turned, transform = vlmbench.perturb.get("pad")(exif_rotated(), n=4)
    assert turned.size == (208, 98)
    assert transform.in_size == (200, 90)
    with pytest.raises(UsageError, match="unknown perturbation 'shfit': did you mean 'shift'"):
        vlmbench.perturb.get("shfit")
    with pytest.raises(UsageError, match=r"no parameter 'color'.*'colour'"):
        vlmbench.perturb.get("pad")(image, n=4, color="white")
    with pytest.raises(UsageError, match=r"n must be in \[0, 1024\]: got -1"):
        vlmbench.perturb.get("pad")(image, n=-1)


def test_get_knows_question_families_too() -> None:
    from vlmbench.perturb.text import QUESTIONS

    assert not set(QUESTIONS.names) & set(IMAGES.names)
    assert all(callable(vlmbench.perturb.get(name)) for name in QUESTIONS.names)
