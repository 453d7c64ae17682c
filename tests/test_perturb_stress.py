"""The stress set against its closed forms; `test_perturb_image.py` holds the contracts of all families."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import poisson

import vlmbench.perturb
from vlmbench.demo.scenes import make_scene, render
from vlmbench.errors import UsageError
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.image.elastic import STRETCH, net
from vlmbench.perturb.image.fog import cloud
from vlmbench.perturb.image.glass_blur import REACH, SIGMA
from vlmbench.perturb.image.motion_blur import LENGTH, angle
from vlmbench.perturb.image.shot_noise import PHOTONS
from vlmbench.perturb.transforms import EPS, Affine
from vlmbench.perturb.warp import Warp, largest_stretch

STRESSED = [entry.name for entry in IMAGES if entry.name != "rotate" and "stress" in entry.suites]
LEVELS = range(1, 6)


def stressed(name: str, severity: int, image: Image.Image, seed: int = 0) -> np.ndarray:
    return np.asarray(vlmbench.perturb.get(name)(image, severity=severity, seed=seed)[0])


def flat(value: int, size: tuple[int, int] = (224, 224)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def point(size: tuple[int, int] = (224, 224), at: tuple[int, int] = (112, 112), half: int = 1) -> Image.Image:
    """A bright square of 2 half + 1 pixels on black."""
    image = flat(0, size)
    x, y = at
    image.paste((255, 255, 255), (x - half, y - half, x + half + 1, y + half + 1))
    return image


def moments(grey: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre (x, y) and covariance of what is bright."""
    rows, columns = np.indices(grey.shape) + 0.5
    mass = grey.sum()
    places = np.stack([columns, rows])
    centre = (places * grey).sum((1, 2)) / mass
    off = places - centre[:, None, None]
    return float(mass), centre, np.einsum("ahw,bhw,hw->ab", off, off, grey) / mass


# ---------------------------------------------------------------- all families


@pytest.mark.parametrize("name", STRESSED)
def test_stronger_changes_more(name: str) -> None:
    image = render(make_scene(11))
    off = [np.abs(stressed(name, s, image, 3).astype(float) - np.asarray(image)).mean() for s in range(6)]
    assert off[0] == 0
    assert off[1] > 2
    assert all(after > 1.02 * before for before, after in pairwise(off)), off


@pytest.mark.parametrize("name", STRESSED)
def test_every_whole_severity_is_taken_and_no_other(name: str) -> None:
    entry = IMAGES.get(name)
    assert entry.draw_key(entry.part(severity=1)) == entry.draw_key(entry.part(severity=5)) == (name,)
    assert [part.label for part in IMAGES.expand(f"{name}(severity=2)")] == [f"{name}(severity=2)"]
    for wrong, told in (("6", r"severity must be in \[0, 5\]: got 6"), ("2.5", "severity must be int")):
        with pytest.raises(UsageError, match=told):
            IMAGES.expand(f"{name}(severity={wrong})")


@pytest.mark.parametrize("name", STRESSED)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3, 500), (5000, 2), (17, 23)], ids=str)
def test_any_size_works(name: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for severity in LEVELS:
        new, transform = vlmbench.perturb.get(name)(image, severity=severity, seed=2)
        assert (new.size, transform.out_size) == (size, size)
    if name in ("fog", "shot_noise") or (name in ("pixelate", "down_up") and max(size) > 1):
        assert np.asarray(new).tobytes() != image.tobytes()


@pytest.mark.parametrize("name", STRESSED)
def test_strength_is_in_proportion_to_the_image(name: str) -> None:
    """A picture three times as large, brought back to its size, has suffered about as much."""
    small = render(make_scene(12)).resize((224, 224), Image.Resampling.BOX)
    large = small.resize((672, 672), Image.Resampling.BICUBIC)

    def hurt(image: Image.Image) -> float:
        after = Image.fromarray(stressed(name, 3, image, 5)).resize((224, 224), Image.Resampling.BOX)
        return float(np.abs(np.asarray(after, float) - np.asarray(small)).mean())

    assert hurt(large) == pytest.approx(hurt(small), rel=0.25)


# ---------------------------------------------------------------- blurs


@pytest.mark.parametrize("severity", LEVELS)
def test_defocus_of_a_point_is_a_disc(severity: int) -> None:
    seen = stressed("defocus_blur", severity, point(half=0)).astype(float)[..., 0]
    radius = (3, 4, 6, 8, 10)[severity - 1]
    rows, columns = np.indices(seen.shape)
    away = np.hypot(rows - 112, columns - 112)
    level = 255 / (math.pi * radius**2)
    assert (seen[away > radius + 0.5] == 0).all()
    assert np.abs(seen[away < radius - 0.5] - level).max() <= 0.5 + 0.05 * level


def test_blurs_keep_the_mass_and_the_centre() -> None:
    image = point(half=12)
    before, centre, _ = moments(np.asarray(image).astype(float)[..., 0])
    for name in ("defocus_blur", "motion_blur"):
        for severity in LEVELS:
            mass, now, _ = moments(stressed(name, severity, image, 4).astype(float)[..., 0])
            assert mass == pytest.approx(before, rel=0.005), name  # half a grey level of rounding a pixel
            assert now == pytest.approx(centre, abs=0.05), name


@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_motion_of_a_point_is_a_line(severity: int, seed: int) -> None:
    size = 448
    seen = stressed("motion_blur", severity, point((size, size), (224, 224), half=2), seed).astype(float)[
        ..., 0
    ]
    _, _, spread = moments(seen)
    own = 2.0 + 1 / 6  # variance of the 5 px square, and of sharing out among pixels
    along = np.array([math.cos(math.radians(angle(seed))), -math.sin(math.radians(angle(seed)))])
    length = 2 * LENGTH[severity]
    assert math.sqrt(12 * (along @ spread @ along - own)) == pytest.approx(length, abs=0.5)
    across = along[::-1] * (1, -1)
    assert across @ spread @ across == pytest.approx(own, abs=0.25)
    assert -45 <= angle(seed) < 45


def test_a_flat_picture_stays_flat() -> None:
    for name in STRESSED:
        if name not in ("fog", "shot_noise"):
            for size in ((224, 224), (301, 77)):
                assert (stressed(name, 5, flat(77, size)) == 77).all(), name


@pytest.mark.parametrize("size", [(224, 224), (448, 672)])
def test_glass_takes_each_grain_from_nearby(size: tuple[int, int]) -> None:
    """Against a ramp: how far each pixel looked is read off its brightness."""
    entry = IMAGES.get("glass_blur")
    middle = slice(size[0] // 2 - 20, size[0] // 2 + 20)
    ramp = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    ramp[...] = np.clip(128 + 3 * (np.arange(size[0]) - size[0] // 2), 0, 255)[None, :, None]
    s = min(size) / 224
    looked = {}
    for severity in LEVELS:
        new = entry.build(entry.part(severity=severity))(Image.fromarray(ramp), 6)[0]
        looked[severity] = (np.asarray(new).astype(float)[..., 0] - ramp[..., 0])[:, middle] / 3
        assert np.abs(looked[severity]).max() <= REACH[severity] * s + 1.5
    flat_draws = [looked[s].ravel() for s in LEVELS]
    # the second blur mixes neighbouring grains, the more the stronger, so the draw shows through in part
    assert all(np.corrcoef(mild, strong)[0, 1] > 0.6 for mild, strong in pairwise(flat_draws))
    other = entry.build(entry.part(severity=5))(Image.fromarray(ramp), 7)[0]
    unlike = (np.asarray(other).astype(float)[..., 0] - ramp[..., 0])[:, middle].ravel()
    assert abs(np.corrcoef(unlike, flat_draws[-1])[0, 1]) < 0.1
    assert abs(flat_draws[-1].mean()) < 0.1 * s


@pytest.mark.parametrize("severity", LEVELS)
def test_glass_spreads_a_point_by_its_blurs_and_its_reach(severity: int) -> None:
    """Over many draws: two Gaussians and an even draw within the reach, at two pixels per grain."""
    image = point((448, 448), (224, 224), half=6)
    seen = sum(stressed("glass_blur", severity, image, seed).astype(float)[..., 0] for seed in range(24))
    mass, centre, spread = moments(np.asarray(seen))
    own = (13**2 - 1) / 12
    added = 4 * (2 * SIGMA[severity] ** 2 + REACH[severity] ** 2 / 3)
    assert mass == pytest.approx(24 * 255 * 169, rel=0.05)
    assert centre == pytest.approx((224.5, 224.5), abs=4 * 0.72 / math.sqrt(24))  # 0.72 px per draw at most
    assert np.diag(spread) - own == pytest.approx(added, rel=0.15)


# ---------------------------------------------------------------- resampling


@pytest.mark.parametrize(("size", "blocks"), [((224, 224), 112), ((448, 896), 112), ((100, 60), 30)])
def test_pixelate_shows_block_means(size: tuple[int, int], blocks: int) -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    side = min(size) // blocks
    cut = pixels.reshape(size[1] // side, side, size[0] // side, side, 3).astype(int)
    means = np.floor(cut.mean((1, 3)) + 0.5).astype(np.uint8)
    oracle = means.repeat(side, 0).repeat(side, 1)
    assert np.array_equal(stressed("pixelate", 2, Image.fromarray(pixels)), oracle)


@pytest.mark.parametrize("size", [(200, 150), (640, 480), (31, 500)])
def test_pixelate_of_uneven_blocks(size: tuple[int, int]) -> None:
    random = np.random.default_rng(4)
    pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for severity, factor in zip(LEVELS, (0.6, 0.5, 0.4, 0.3, 0.25), strict=True):
        new = stressed("pixelate", severity, Image.fromarray(pixels))
        assert new.mean() == pytest.approx(pixels.mean(), abs=0.2)
        wanted = [int(n * factor * min(224 / min(size), 1) + 0.5) for n in size]
        seams = [int((np.diff(new.astype(int), axis=axis) != 0).any((1 - axis, 2)).sum()) for axis in (1, 0)]
        assert seams == [n - 1 for n in wanted]


def test_down_up_loses_what_the_thumbnail_cannot_hold() -> None:
    rows, columns = np.indices((448, 448))
    for severity, shorter in zip(LEVELS, (112, 78, 56, 45, 34), strict=True):
        for waves, kept in ((shorter / 8, True), (shorter * 0.75, False)):
            wave = 128 + 100 * np.sin(2 * math.pi * waves * (columns + 0.5) / 448) + 0 * rows
            image = Image.fromarray(np.repeat(wave.astype(np.uint8)[..., None], 3, axis=2))
            left = stressed("down_up", severity, image).astype(float).std() / np.asarray(image).std()
            assert (left > 0.85) if kept else (left < 0.25)


# ---------------------------------------------------------------- noise and fog


@pytest.mark.parametrize("severity", LEVELS)
@pytest.mark.parametrize("value", [0, 20, 128, 255])
def test_shot_noise_is_a_clipped_poisson_law(severity: int, value: int) -> None:
    photons = PHOTONS[severity]
    seen = stressed("shot_noise", severity, flat(value), 8).astype(float)
    counts = np.arange(200)
    levels = np.floor(np.minimum(counts * 255 / photons, 255) + 0.5)
    law = poisson.pmf(counts, value * photons / 255)
    mean = (law * levels).sum()
    deviation = math.sqrt((law * (levels - mean) ** 2).sum())
    error = deviation / math.sqrt(seen.size)
    assert seen.mean() == pytest.approx(mean, abs=4 * error + 0.01)
    assert seen.std() == pytest.approx(deviation, rel=0.02, abs=1e-9)
    if value * 2 < 255 and severity <= 3:  # nothing is clipped, so the mean is the picture's own
        assert seen.mean() == pytest.approx(value, abs=4 * error + 0.2)


def test_shot_noise_keeps_its_draw_and_counts_channels_apart() -> None:
    dark = {s: stressed("shot_noise", s, flat(120), 9).astype(float) for s in LEVELS}
    assert np.corrcoef([d.ravel() for d in dark.values()]).min() > 0.85
    assert np.abs(np.corrcoef(dark[3].reshape(-1, 3).T) - np.eye(3)).max() < 0.02
    other = stressed("shot_noise", 3, flat(120), 10).astype(float)
    assert abs(np.corrcoef(dark[3].ravel(), other.ravel())[0, 1]) < 0.02
    grains = stressed("shot_noise", 3, flat(120, (448, 672)), 9)
    assert (grains[::2, ::2] == grains[1::2, 1::2]).all(), "grains of two pixels at twice the size"


@pytest.mark.parametrize("severity", LEVELS)
def test_fog_is_a_mix_with_one_cloud(severity: int) -> None:
    image = render(make_scene(13))
    c = (1.5, 2, 2.5, 2.75, 3)[severity - 1]
    air = cloud(7, image.size).astype(float)[..., None]
    oracle = (np.asarray(image) + c * 255 * air) / (1 + c)
    assert np.abs(stressed("fog", severity, image, 7) - oracle).max() <= 0.501
    assert (air.min(), air.max()) == (0, 1)
    # neighbours are alike and far places are not: drifts, no grain
    assert np.abs(np.diff(air, axis=1)).mean() < 0.25 * air.std()
    assert air.std() > 0.1
    assert not np.array_equal(cloud(7, image.size), cloud(8, image.size))


# ---------------------------------------------------------------- elastic


def sheet(severity: int, size: tuple[int, int], seed: int = 0) -> Warp:
    return Warp(net(seed, size) * STRETCH[severity], size)


@pytest.mark.parametrize("severity", LEVELS)
def test_elastic_points_follow_a_bright_dot(severity: int) -> None:
    size = (448, 336)
    rows, columns = np.indices((size[1], size[0])) + 0.5
    random = np.random.default_rng(severity)
    moved = []
    for seed, (x, y) in enumerate(random.uniform((30, 30), (418, 306), (8, 2))):
        dot = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
        image = Image.fromarray(np.repeat(np.round(dot).astype(np.uint8)[..., None], 3, axis=2))
        new, transform = vlmbench.perturb.get("elastic")(image, severity=severity, seed=seed)
        place = transform.points(np.array([[x, y]]))[0]
        _, centre, _ = moments(np.asarray(new).astype(float)[..., 0])
        assert centre == pytest.approx(place, abs=0.25)
        moved.append(math.dist(place, (x, y)))
    assert np.mean(moved) > 2 * STRETCH[severity]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from(LEVELS), st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_elastic_is_one_to_one(seed: int, severity: int, size: tuple[int, int]) -> None:
    warp = sheet(severity, size, seed)
    assert largest_stretch(warp.knots, size) == pytest.approx(STRETCH[severity])
    random = np.random.default_rng(seed)
    new = random.uniform(0, size, (200, 2))
    old = new + warp.distances(new)
    on = ((old >= 0) & (old <= size)).all(1)
    back = warp.points(old)
    assert np.allclose(back[on], new[on], atol=1e-6), "the place a pixel came from goes to that pixel"
    assert np.isnan(back[~on]).all(), "what was never on the canvas stands nowhere"
    a, b = new[:100], new[100:]
    apart = np.linalg.norm(a - b, axis=1)
    drift = np.linalg.norm(warp.distances(a) - warp.distances(b), axis=1)
    assert (drift <= STRETCH[severity] * apart + 1e-9).all()


def test_elastic_grows_along_one_field() -> None:
    spots = np.random.default_rng(0).uniform(0, 300, (50, 2))
    one, five = (sheet(severity, (300, 400), 3).distances(spots) for severity in (1, 5))
    assert five == pytest.approx(one * STRETCH[5] / STRETCH[1])
    assert not np.allclose(one, sheet(1, (300, 400), 4).distances(spots))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from(LEVELS), st.data())
def test_elastic_box_is_the_tight_bound_of_its_points(seed: int, severity: int, data: st.DataObject) -> None:
    """Against brute force: a lattice of points in the box, moved one by one; some hang over the border."""
    size = (120, 90)
    warp = sheet(severity, size, seed)
    x0, y0 = data.draw(st.tuples(st.floats(-10, 100), st.floats(-10, 70)))
    x1, y1 = x0 + data.draw(st.floats(12, 60)), y0 + data.draw(st.floats(12, 60))
    x, y = np.meshgrid(np.linspace(x0, x1, 81), np.linspace(y0, y1, 81))
    moved = warp.points(np.stack([x.ravel(), y.ravel()], axis=1))
    moved = moved[~np.isnan(moved[:, 0])]
    box = warp.box((x0, y0, x1, y1))
    if box is None:
        assert len(moved) < 200
        return
    assert (*moved.min(0), *moved.max(0)) == pytest.approx(
        box, abs=4.0
    )  # a step of .75 px, stretched fivefold
    assert (moved >= np.array(box[:2]) - 0.05).all()
    assert (moved <= np.array(box[2:]) + 0.05).all()


def test_warp_loses_what_leaves_and_refuses_folds() -> None:
    knots = np.zeros((3, 3, 2))
    knots[..., 0] = 5.0  # every place shows what was 5 px to its right
    warp = Warp(knots, (20, 10))
    moved = warp.points(np.array([[12.0, 4.0], [3.0, 4.0], [-1.0, 4.0], [np.nan, 1.0]]))
    assert moved[0] == pytest.approx((7, 4))
    assert np.isnan(moved[1:]).all()
    assert warp.box((2, 1, 9, 3)) == pytest.approx((0, 1, 4, 3))
    assert warp.box((1, 1, 4, 3)) is None
    assert warp.box((6, 2, 6 + EPS / 2, 4)) is None
    after = Affine((1.0, 0.0, 1.0, 0.0, 1.0, 0.0), (20, 10), (20, 10))
    assert warp.then(after).points(np.array([[12.0, 4.0]])) == pytest.approx(np.array([[8.0, 4.0]]))
    knots[:, 1, 0] = -8.0
    with pytest.raises(ValueError, match="folds over"):
        Warp(knots, (20, 10))


# ---------------------------------------------------------------- risks


def test_what_the_stress_set_may_break() -> None:
    def tags(name: str, severity: int) -> set[str]:
        entry = IMAGES.get(name)
        return set(entry.build(entry.part(severity=severity)).risks())

    for name in STRESSED:
        assert tags(name, 0) == set()
        grown = [tags(name, severity) for severity in range(6)]
        assert all(mild <= strong for mild, strong in pairwise(grown))
        assert tags(name, 5) >= {"ocr", "count"}
        assert "location" not in tags(name, 5), "nothing leaves its place"
    assert tags("defocus_blur", 1) == {"ocr", "clarity"}
    assert tags("elastic", 1) == {"edge", "orientation", "clarity"}
    assert tags("fog", 3) == {"clarity"}
    assert tags("fog", 4) == {"ocr", "count", "colour", "clarity"}
