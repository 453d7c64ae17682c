"""Selection and merging: every method against formulas written out in plain Python."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.prune import PRUNERS, get
from vlmbench.prune.base import Context, Cut, Inner, Pruner, top_k
from vlmbench.prune.downsample import Downsample
from vlmbench.prune.fastv import FastV
from vlmbench.prune.forms import Mlp
from vlmbench.prune.greedy import TIE, greedy, greedy_many
from vlmbench.prune.pool import Pool, shape
from vlmbench.prune.projector import Projector
from vlmbench.prune.visionzip import VisionZip, contextual_count

C, D, D_K, T = 6, 8, 5, 4  # widths of X, Z and keys; text tokens

PER_TOKEN = (
    "features",
    "projector_in",
    "attention",
    "keys",
    "received_attention",
    "middle_attention",
    "last_attention",
    "last_keys",
    "relevance",
)
PER_TOKEN_INSIDE = ("attention", "next_attention", "text_attention", "keys", "inputs", "all_inputs")


def loaded(name: str) -> type[Pruner] | None:
    try:
        return PRUNERS.get(name).load()
    except ImportError:
        return None


CLASSES = {name: cls for name in PRUNERS.names if (cls := loaded(name)) is not None}
SETTINGS: dict[str, dict[str, Any]] = {"zoo": {"estimator": "sampled", "m": 8}}
BUDGETED = [name for name, cls in CLASSES.items() if cls.budgeted]
SELECTING = [name for name in BUDGETED if not CLASSES[name].merges and CLASSES[name].stage != "image"]
MERGING = [name for name in BUDGETED if CLASSES[name].merges]


def context(sides: list[tuple[int, int]], seed: int = 0, extra: int = 1, **changed: Any) -> Context:
    """Random tensors; one tile of (rows, columns) per entry of `sides`, `extra` class tokens per tile."""
    g = torch.Generator().manual_seed(seed)
    grid = [(t, r, c) for t, (h, w) in enumerate(sides) for r in range(h) for c in range(w)]
    n = len(grid)
    hidden, out = torch.randn(C, 16, generator=g), torch.randn(16, D, generator=g)

    def mlp(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x.flatten(-2) @ hidden) @ out

    x = torch.randn(n, 1, C, generator=g)
    given: dict[str, Any] = {
        "features": mlp(x),
        "grid": torch.tensor(grid),
        "projector_in": x,
        "projector": Projector(apply=mlp),
        "attention": torch.rand(n, generator=g),
        "keys": torch.randn(n, D_K, generator=g),
        "received_attention": torch.rand(n, generator=g),
        "middle_attention": torch.rand(n, generator=g),
        "last_attention": torch.rand(n, generator=g),
        "last_keys": torch.randn(n, D_K, generator=g),
        "extra": torch.randn(extra * len(sides), 1, C, generator=g) if extra else None,
        "text": torch.randn(T, D, generator=g),
        "evidence": torch.rand(n, 2, generator=g),
        "relevance": torch.rand(n, generator=g),
        "llm": Inner(
            layer=2,
            layers=8,
            text=torch.randn(T, D, generator=g),
            norm=torch.nn.functional.normalize,
            attention=torch.rand(n, generator=g),
            next_attention=torch.rand(n, generator=g),
            text_attention=torch.rand(T, n, generator=g),
            keys=torch.randn(n, D_K, generator=g),
            text_keys=torch.randn(T, D_K, generator=g),
            inputs=torch.randn(n, D, generator=g),
            all_inputs=torch.randn(n, D, generator=g),
            text_inputs=torch.randn(T, D, generator=g),
        ),
        "seed": seed,
    }
    return Context(**{**given, **changed})


def with_values(ctx: Context, change: Callable[[Tensor], Tensor], names: Collection[str]) -> Context:
    """The same with `change` done to what is said of each token; names as in the fields' own."""
    of_image = {f: change(getattr(ctx, f)) for f in PER_TOKEN if f in names}
    assert ctx.llm is not None
    of_llm = {f: change(getattr(ctx.llm, f)) for f in PER_TOKEN_INSIDE if f in names}
    return replace(ctx, **of_image, llm=replace(ctx.llm, **of_llm))


def with_words(ctx: Context, fewer: int) -> Context:
    """The same behind a prompt of fewer words, still of one at least."""
    assert ctx.llm is not None
    of_text = ("text", "text_attention", "text_keys", "text_inputs")
    return replace(ctx, llm=replace(ctx.llm, **{f: getattr(ctx.llm, f)[fewer:] for f in of_text}))


def all_equal(ctx: Context) -> Context:
    """The same image with every token like the first."""
    same = with_values(
        ctx, lambda v: v[:1].expand_as(v).clone(), {*PER_TOKEN, *PER_TOKEN_INSIDE} - {"text_attention"}
    )
    assert same.llm is not None
    assert same.llm.text_attention is not None
    seen = same.llm.text_attention
    return replace(same, llm=replace(same.llm, text_attention=seen[:, :1].expand_as(seen).clone()))


def method(name: str, **budget: Any) -> Pruner:
    return get(name)(**SETTINGS.get(name, {}), **budget)


IMAGES = [[(1, 1)], [(1, 5)], [(4, 6)], [(3, 3), (2, 5)]]


# --- every method ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("equal", [False, True], ids=["random", "equal"])
@pytest.mark.parametrize("sides", IMAGES, ids=str)
@pytest.mark.parametrize("name", SELECTING)
def test_selects_the_declared_number_of_distinct_sorted_tokens(
    name: str, sides: list[tuple[int, int]], equal: bool
) -> None:
    ctx = context(sides)
    ctx = all_equal(ctx) if equal else ctx
    for keep in range(1, ctx.n + 1):
        pruner = method(name, keep=keep)
        kept = pruner.select(ctx, pruner.budget(ctx.n))
        assert kept.dtype == torch.long
        assert kept.tolist() == sorted(set(kept.tolist()) & set(range(ctx.n)))
        assert len(kept) == keep
    assert kept.tolist() == list(range(ctx.n))


@pytest.mark.parametrize("name", [*SELECTING, *MERGING])
def test_many_images_equal_one_by_one(name: str) -> None:
    """Of mixed sizes, tiles and budgets, with prompts of mixed lengths."""
    shapes = [*IMAGES, [(4, 6)], [(6, 4)], [(4, 6)], [(12, 12)], [(12, 12)], [(12, 12)], [(12, 12)]]
    contexts = [with_words(context(sides, seed), seed % 3) for seed, sides in enumerate(shapes)]
    pruner = method(name, ratio=0.6)
    ks = [pruner.budget(ctx.n) for ctx in contexts]
    ks[-1] = 31
    if pruner.merges:
        alone = [pruner.reduce(ctx, k) for ctx, k in zip(contexts, ks, strict=True)]
        for one, of_many in zip(alone, pruner.reduce_many(contexts, ks), strict=True):
            assert one.position_from.tolist() == of_many.position_from.tolist()
            assert one.source.tolist() == of_many.source.tolist()
            torch.testing.assert_close(of_many.weights, one.weights)
            torch.testing.assert_close(of_many.features, one.features)
    else:
        many = pruner.select_many(contexts, ks)
        assert [chosen.tolist() for chosen in many] == [
            pruner.select(ctx, k).tolist() for ctx, k in zip(contexts, ks, strict=True)
        ]


class Waits(TorchDispatchMode):
    """Counts values that Python asks for, for which a GPU is waited for; places, which are whole numbers, are
    on the CPU."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += op is torch.ops.aten._local_scalar_dense.default and args[0].dtype != torch.long
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*SELECTING, *MERGING])
def test_the_device_is_waited_for_once_for_all_images(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    form = Mlp(torch.randn(16, C, generator=g), None, "gelu", torch.randn(D, 16, generator=g), None)
    counts = []
    for images in (2, 5):
        contexts = [context([(4, 6)], seed, projector=Projector(form, form)) for seed in range(images)]
        contexts = [replace(ctx, projector=contexts[0].projector) for ctx in contexts]
        pruner = get(name)(keep=9)
        with Waits() as waits:
            (pruner.reduce_many if pruner.merges else pruner.select_many)(contexts, [9] * images)
        counts.append(waits.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", [*SELECTING, *MERGING])
@pytest.mark.parametrize("field", dict.fromkeys([*PER_TOKEN, *PER_TOKEN_INSIDE]))
def test_what_is_not_finite_is_an_error_in_one_line(name: str, field: str) -> None:
    ctx = context([(3, 4)])
    # a network that makes NaN of X makes NaN of all that follows

    def spoil(value: Tensor) -> Tensor:
        value = value.clone()
        value[3] = math.nan
        return value

    broken = with_values(ctx, spoil, {field, "features"})
    pruner = method(name, keep=3)
    with pytest.raises(ItemError, match="not finite") as error:
        (pruner.reduce if pruner.merges else pruner.select)(broken, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CLASSES)
def test_configuration_survives_the_registry(name: str) -> None:
    entry = PRUNERS.get(name)
    parameters = {p.name for p in entry.params}
    given = {"ratio": 0.75, "positions": "original"}
    part = entry.part(**{key: value for key, value in given.items() if key in parameters})
    pruner = entry.build(part)
    assert {p: getattr(pruner, p) for p in parameters} == part.parameters
    assert repr(pruner) == repr(entry.build(part))
    # the registry's defaults are the class's own
    assert all(p.default == getattr(CLASSES[name](), p.name) for p in entry.params)
    declared = {f.name for f in fields(CLASSES[name])} - {"ratio", "keep", "positions", "mask"}
    assert declared <= parameters
    if pruner.budgeted:
        assert get(name)(ratio=0.75).budget(576) == 144


def test_controls_without_budget() -> None:
    ctx = context([(2, 3)])
    assert (
        get("identity")().select(ctx, 6).tolist() == get("swapped")().select(ctx, 6).tolist() == [*range(6)]
    )
    assert get("identity")().budget(6) == get("swapped")().budget(6) == 6
    assert get("blind")().budget(6) == 0
    assert get("blind")().select(ctx, 0).tolist() == []


# --- greedy ------------------------------------------------------------------------------------------------


def by_formula(features: list[list[float]], scores: list[float] | None, k: int) -> list[int]:
    """argmax of score x distance to the nearest chosen, in float64, for one image."""

    def cos(a: list[float], b: list[float]) -> float:
        length = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0

    def best(value: dict[int, float]) -> int:
        top = max(value.values())
        return min(i for i, v in value.items() if v >= top - TIE)

    n = len(features)
    distance = [[1 - cos(a, b) for b in features] for a in features]
    left = set(range(n))
    first = {i: min((distance[i][j] for j in range(n) if j != i), default=0.0) for i in left}
    chosen = [best(first if scores is None else dict(enumerate(scores)))]
    while len(chosen) < k:
        left -= {chosen[-1]}
        weight = [1.0] * n if scores is None else scores
        chosen.append(best({i: weight[i] * min(distance[i][p] for p in chosen) for i in left}))
    return sorted(chosen)


@st.composite
def images(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    """Small whole numbers: exact duplicates, parallel and zero vectors, tied scores."""
    n, d, batch = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    whole = st.integers(-2, 2)
    features = draw(st.lists(whole, min_size=batch * n * d, max_size=batch * n * d))
    scores = draw(
        st.none() | st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=batch * n, max_size=batch * n)
    )
    k = draw(st.integers(1, n))
    weights = None if scores is None else torch.tensor(scores, dtype=torch.float32).view(batch, n)
    return torch.tensor(features, dtype=torch.float32).view(batch, n, d), weights, k


@pytest.mark.parametrize("share", [0, 6, 10**6], ids=["rows", "default", "matrix"])
@settings(max_examples=150, deadline=None)
@given(images())
def test_greedy_equals_the_formula(share: int, drawn: tuple[Tensor, Tensor | None, int]) -> None:
    import vlmbench.prune.greedy as module

    features, scores, k = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MATRIX_SHARE", share)
        patch.setattr(module, "_BLOCK", 5)
        got = greedy(features, scores, k)
        alone = [
            greedy(f[None], None if scores is None else scores[i : i + 1], k) for i, f in enumerate(features)
        ]
    wanted = [
        by_formula(f.tolist(), None if scores is None else scores[i].tolist(), k)
        for i, f in enumerate(features)
    ]
    assert got.tolist() == wanted
    assert torch.cat(alone).tolist() == wanted


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize(("side", "block"), [(4096, 192), (16, 7)], ids=["matrix", "large image"])
def test_greedy_equals_the_formula_on_larger_images(
    scored: bool, side: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmbench.prune.greedy._MATRIX_SIDE", side)
    monkeypatch.setattr("vlmbench.prune.greedy._BLOCK", block)
    g = torch.Generator().manual_seed(1)
    features = torch.randn(2, 60, 32, generator=g)
    features[:, 40:50] = features[:, 10:20]
    scores = torch.rand(2, 60, generator=g) if scored else None
    wanted = [
        by_formula(features[i].tolist(), None if scores is None else scores[i].tolist(), 55) for i in range(2)
    ]
    assert greedy(features, scores, 55).tolist() == wanted


def test_greedy_many_groups_by_shape() -> None:
    images = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 7, 5)]
    scores = [None, torch.rand(7), torch.rand(5)]
    got = greedy_many(images, scores, [2, 3, 0])
    assert [g.tolist() for g in got] == [
        greedy(f[None], None if s is None else s[None], k)[0].tolist()
        for f, s, k in zip(images, scores, [2, 3, 0], strict=True)
    ]


def test_scores_that_are_not_finite() -> None:
    with pytest.raises(ItemError, match="token scores are not finite"):
        greedy(torch.randn(1, 3, 2), torch.tensor([[0.1, math.inf, 0.2]]), 2)


IN_INTERPRETER = """
import torch
from vlmbench.prune.greedy import greedy, unit_length
from vlmbench.prune.greedy_triton import select
for seed, (n, k) in enumerate([(1, 1), (7, 3), (16, 16), (33, 9), (70, 12)]):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(3, n, 6, generator=g).round()  # duplicates, zero vectors
    scores = torch.randint(0, 4, (3, n), generator=g) / 3
    for s in (scores, None):
        a, b = select(unit_length(features), s, k), greedy(features, s, k)
        assert a.tolist() == b.tolist(), (n, k, s is None, a.tolist(), b.tolist())
print("same")
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or importlib.util.find_spec("triton") is None,
    reason="triton is published for Linux only",
)
def test_the_gpu_program_equals_the_vectorised_version() -> None:
    # the interpreter must be chosen before triton is imported, so in a process of its own
    done = subprocess.run(
        [sys.executable, "-c", IN_INTERPRETER],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]


# --- single methods ----------------------------------------------------------------------------------------


def test_norm_is_the_formula_per_tile() -> None:
    ctx = context([(3, 4), (2, 5)])
    wanted = []
    for start, stop in ((0, 12), (12, 22)):
        z = ctx.features[start:stop].tolist()
        norms = [math.hypot(*row) for row in z]
        scores = [(s - min(norms)) / (max(norms) - min(norms) + 1e-8) for s in norms]
        wanted += [start + i for i in by_formula(z, scores, 4)]
    assert method("norm", keep=8).select(ctx, 8).tolist() == wanted


def test_divprune_is_the_formula_over_all_tiles() -> None:
    ctx = context([(3, 4), (2, 5)])
    assert method("divprune", keep=7).select(ctx, 7).tolist() == by_formula(ctx.features.tolist(), None, 7)


def test_norm_without_differences_is_divprune() -> None:
    features = torch.nn.functional.normalize(context([(4, 6)]).features, dim=-1)
    ctx = context([(4, 6)], features=features)
    assert method("norm").select(ctx, 5).tolist() == method("divprune").select(ctx, 5).tolist()


def test_random_follows_the_seed_alone() -> None:
    ctx = context([(5, 5)], seed=3)
    first = method("random").select(ctx, 6).tolist()
    assert method("random").select(replace(ctx, features=ctx.features + 1), 6).tolist() == first
    assert method("random").select(replace(ctx, seed=4), 6).tolist() != first


@pytest.mark.parametrize("k", [1, 4, 9, 16, 64, 100, 192])
def test_uniform_leaves_no_large_hole(k: int) -> None:
    side = 24
    ctx = context([(side, side)])
    places = ctx.grid[method("uniform", keep=k).select(ctx, k), 1:].float()
    hole = torch.cdist(ctx.grid[:, 1:].float(), places, p=math.inf).min(1).values.max().item()
    assert hole <= math.ceil(side / math.sqrt(k) / 2) + 1  # squares of side 2 hole cover the grid


def test_fastv_reaches_the_published_averages() -> None:
    kept = [FastV(keep=k).schedule(576, 32) for k in (192, 128, 64, 576)]
    assert kept == [(Cut(2, after),) for after in (166, 98, 30, 576)]
    ctx = context([(4, 6)])
    assert ctx.llm is not None
    assert ctx.llm.attention is not None
    assert method("fastv").select(ctx, 7).tolist() == top_k(ctx.llm.attention, 7).tolist()


@given(st.integers(1, 600), st.floats(0, 0.99), st.integers(2, 40), st.integers(1, 5))
def test_fastv_meets_the_budget_or_says_why_not(n: int, ratio: float, layers: int, cut: int) -> None:
    pruner = FastV(ratio=ratio, K=cut)
    k = pruner.budget(n)
    try:
        (after,) = pruner.schedule(n, layers)
    except NotApplicableError:
        assert cut >= layers or layers * k <= cut * n
    else:
        assert 1 <= after.keep <= n
        assert after.keep == 1 or abs(cut * n + (layers - cut) * after.keep - layers * k) <= 0.5 * (
            layers - cut
        )


def test_fastv_names_the_smallest_share() -> None:
    with pytest.raises(NotApplicableError) as error:
        FastV(ratio=0.9).schedule(1000, 8)
    assert str(error.value) == (
        "fastv(K=2) cannot keep 10 % of the tokens averaged over 8 layers: layers before the first cut"
        " alone are 25 %; keep more than 25 % (ratio below 0.75) or use divprune"
    )
    with pytest.raises(NotApplicableError, match=r"more than 2 layers: this one has 2; use K=1$"):
        FastV().schedule(10, 2)
    with pytest.raises(NotApplicableError, match="needs llm_attention"):
        FastV().select(context([(2, 2)], llm=None), 1)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.sampled_from([14, 28, 32]))
def test_downsample_snaps_and_never_grows(wide: int, high: int, share: float, snap: int) -> None:
    size, n = (wide * snap, high * snap), wide * high
    k = max(1, round(share * n))
    small = Downsample().size(size, n, k, snap)
    assert all(s // snap >= 1 and s % snap == 0 and s <= whole for s, whole in zip(small, size, strict=True))
    scale = math.sqrt(k / n)
    assert all(abs(s - max(snap, whole * scale)) < snap for s, whole in zip(small, size, strict=True))
    assert small == size or k < n


def test_downsample_of_a_square_is_exact() -> None:
    assert Downsample().size((672, 672), 576, 144, 28) == (336, 336)
    assert Downsample().size((672, 672), 576, 576, 28) == (672, 672)
    assert Downsample().size((675, 20), 24, 6, 28)[1] == 28


# --- methods that merge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("sides", IMAGES, ids=str)
@pytest.mark.parametrize("name", MERGING)
def test_weights_sources_and_positions_describe_the_new_tokens(
    name: str, sides: list[tuple[int, int]], extra: int
) -> None:
    ctx = context(sides, extra=extra)
    for equal in (False, True):
        ctx = all_equal(ctx) if equal else ctx
        for k in range(1, ctx.n + 1):
            pruner = method(name, keep=k)
            new = pruner.reduce(ctx, k)
            count = len(new.features)
            assert count == k or (pruner.adaptive and 1 <= count < k)
            old = ctx.features
            if pruner.stage == "encoder":
                assert ctx.projector_in is not None
                old = torch.cat([ctx.projector_in, *([] if ctx.extra is None else [ctx.extra])])
            assert new.weights.shape == (count, len(old))
            made = torch.tensordot(new.weights, old, dims=1)
            torch.testing.assert_close(made, new.features)
            positions = new.position_from.tolist()
            assert len(set(positions)) == count
            assert set(positions) <= set(range(ctx.n))
            for row, source, position in zip(new.weights, new.source.tolist(), positions, strict=True):
                copied = row.nonzero()[:, 0].tolist()
                unmerged = len(copied) == 1 and copied[0] < ctx.n
                assert source == (copied[0] if unmerged else -1)
                assert source in (-1, position)


def visionzip_by_definition(ctx: Context, k: int) -> tuple[list[Tensor], list[int], list[int]]:
    """Rows, sources and positions of one tile, in loops."""
    assert ctx.projector_in is not None
    assert ctx.attention is not None
    assert ctx.keys is not None
    n, x, keys = ctx.n, ctx.projector_in, ctx.keys.double()
    contextual = math.floor(5 * k / 32 + 0.5)
    wanted = k - contextual - (ctx.extra is not None)
    by_attention = sorted(range(n), key=lambda i: (-ctx.attention[i].item(), i))  # type: ignore[index]
    dominant = sorted(by_attention[:wanted])
    rest = [i for i in range(n) if i not in dominant]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual] if contextual else []
    joined: dict[int, list[int]] = {t: [] for t in targets}
    for i in rest:
        if i not in targets and targets:
            cos = [(keys[i] @ keys[t] / (keys[i].norm() * keys[t].norm())).item() for t in targets]
            joined[targets[[c >= max(cos) - TIE for c in cos].index(True)]].append(i)
    rows = [x[i] for i in dominant]
    rows += [x[t] + sum(x[i] for i in who) / len(who) if who else x[t] for t, who in joined.items()]
    sources = dominant + [-1 if who else t for t, who in joined.items()]
    positions = dominant + targets
    if ctx.extra is not None:
        rows.insert(0, ctx.extra[0])
        sources.insert(0, -1)
        positions.insert(0, min(set(range(n)) - set(positions)))
    return rows, sources, positions


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("equal", [False, True], ids=["random", "equal"])
def test_visionzip_is_the_definition(extra: int, equal: bool) -> None:
    ctx = context([(5, 8)], extra=extra)
    ctx = all_equal(ctx) if equal else ctx
    for k in range(1, ctx.n + 1):
        new = VisionZip(keep=k).reduce(ctx, k)
        rows, sources, positions = visionzip_by_definition(ctx, k)
        torch.testing.assert_close(new.features, torch.stack(rows))
        assert new.source.tolist() == sources
        assert new.position_from.tolist() == positions


def test_visionzip_splits_budgets_as_published() -> None:
    assert [contextual_count(k) for k in (192, 128, 64)] == [30, 20, 10]
    with pytest.raises(NotApplicableError, match="visionzip needs keys"):
        VisionZip().reduce(context([(2, 2)], keys=None), 2)


def test_visionzip_keeps_the_precision_of_the_encoder() -> None:
    ctx = context([(2, 3)])
    assert ctx.projector_in is not None
    assert ctx.extra is not None
    ctx = replace(ctx, projector_in=ctx.projector_in.bfloat16(), extra=ctx.extra.bfloat16())
    assert VisionZip().reduce(ctx, 4).features.dtype == torch.bfloat16


def nearest_to_the_middle(places: list[list[int]], members: list[int]) -> int:
    middle = [sum(places[i][axis] for i in members) / len(members) for axis in (0, 1)]
    return min(members, key=lambda i: (math.dist(places[i], middle), i))


@given(st.integers(1, 14), st.integers(1, 14), st.data())
@settings(max_examples=60, deadline=None)
def test_pool_is_the_mean_over_cells(height: int, width: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, height * width))
    ctx = context([(height, width)])
    h, w = shape(height, width, k)
    everything = [(a, b) for a in range(1, height + 1) for b in range(1, width + 1) if a * b <= k]

    def distortion(a: int, b: int) -> float:
        return abs(math.log(a / height * width / b))

    near = [s for s in everything if distortion(*s) <= math.log(2) + 1e-9]
    assert (h, w) in everything
    if near:
        assert h * w == max(a * b for a, b in near)
        assert distortion(h, w) <= min(distortion(a, b) for a, b in near if a * b == h * w) + 1e-9
    else:
        assert distortion(h, w) <= min(distortion(*s) for s in everything) + 1e-9
    cells: dict[tuple[int, int], list[int]] = {}
    for i, (_, r, c) in enumerate(ctx.grid.tolist()):
        cells.setdefault((r * h // height, c * w // width), []).append(i)
    new = Pool(keep=k).reduce(ctx, k)
    assert len(new.features) == len(cells) == h * w
    by_position = sorted(zip(new.position_from.tolist(), new.features, strict=True), key=lambda pair: pair[0])
    for (position, feature), cell in zip(by_position, sorted(cells), strict=True):
        assert position == nearest_to_the_middle(ctx.grid[:, 1:].tolist(), cells[cell])
        torch.testing.assert_close(feature, ctx.features[cells[cell]].mean(0))
    torch.testing.assert_close(new.weights.sum(1), torch.ones(h * w))


def test_pool_of_everything_changes_nothing() -> None:
    ctx = context([(4, 6), (3, 3)])
    new = Pool().reduce(ctx, ctx.n)
    assert torch.equal(new.features, ctx.features)
    assert new.source.tolist() == new.position_from.tolist() == [*range(ctx.n)]


@pytest.mark.parametrize("with_matrix", [True, False])
def test_steps_in_torch_equal_those_on_the_cpu(with_matrix: bool) -> None:
    """The torch loop serves devices other than the CPU where Triton is missing."""
    from vlmbench.prune.greedy import _distances, _steps, _steps_on_cpu, unit_length

    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, 60, 16, generator=generator)
    features[:, 30:40] = features[:, :10]
    scores = torch.rand(4, 60, generator=generator).round(decimals=1)
    unit = unit_length(features)
    matrix = _distances(unit) if with_matrix else None
    first = scores.argmax(-1)
    expected = _steps_on_cpu(unit, matrix, scores, first, 25)
    assert torch.equal(_steps(unit, matrix, scores, first, 25), expected)
