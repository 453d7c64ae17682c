"""PruMerge and PruMerge+ against the formulas in plain Python, and against the published code's outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from vlmbench.conditions import Condition, split_list
from vlmbench.errors import NotApplicableError
from vlmbench.prune import PRUNERS, get, prumerge
from vlmbench.prune.base import Context, Reduced
from vlmbench.prune.budget import split_budget
from vlmbench.prune.prumerge import PruMerge, PruMergePlus, outliers

REFERENCE = Path(__file__).parent / "data" / "references" / "prumerge.json"


def image(attention: Tensor, keys: Tensor, x: Tensor, tiles: tuple[int, ...] | None = None) -> Context:
    """Tiles of one row each."""
    tiles = tiles or (len(x),)
    grid = torch.tensor([(t, 0, column) for t, n in enumerate(tiles) for column in range(n)])
    return Context(
        features=x, grid=grid, projector_in=x[:, None], last_attention=attention, last_keys=keys, extra=None
    )


def by_definition(
    ctx: Context, pruner: PruMerge, k: int, nearest: int
) -> tuple[list[list[float]], list[int]]:
    """Weights and places of the new tokens, in loops."""
    assert ctx.last_attention is not None
    assert ctx.last_keys is not None
    a, keys = ctx.last_attention.tolist(), ctx.last_keys.double().tolist()

    def cos(i: int, j: int) -> float:
        length = math.hypot(*keys[i]) * math.hypot(*keys[j])
        return math.fsum(x * y for x, y in zip(keys[i], keys[j], strict=True)) / length if length else 0.0

    rows, places = [], []
    tiles = [(ctx.grid[:, 0] == tile).nonzero()[:, 0].tolist() for tile in range(ctx.tiles)]
    for members, share in zip(tiles, split_budget(k, [len(m) for m in tiles]), strict=True):
        if not share:
            continue
        total, n = share - 1, len(members)
        if pruner.count == "adaptive":
            low, high = np.percentile([a[i] for i in members], [25, 75])
            outlying = sum(a[i] > high + 1.5 * (high - low) for i in members)
            total = min(total, outlying * (4 if isinstance(pruner, PruMergePlus) else 1))
        strided = total * 3 // 4 if isinstance(pruner, PruMergePlus) else 0
        kept = {members[i * n // strided] for i in range(strided)}
        kept |= set(
            sorted((i for i in members if i not in kept), key=lambda i: (-a[i], i))[: total - strided]
        )
        dropped = [i for i in members if i not in kept]
        if len(dropped) == 1:
            kept, dropped = set(members), []
        for i in sorted(kept):
            row = [0.0] * ctx.n
            others = dropped if pruner.neighbours == "dropped" or not dropped else [*members]
            others = [j for j in others if j != i]
            for j in sorted(others, key=lambda j: (-cos(i, j), j))[:nearest]:
                row[j] = a[j]
            row[i] = 1.0
            rows.append(row)
            places.append(i)
        if dropped:
            rows.append([a[i] if i in dropped else 0.0 for i in range(ctx.n)])
            places.append(dropped[-1])
    return rows, places


def check(new: Reduced, ctx: Context, rows: list[list[float]], places: list[int]) -> None:
    weights = torch.tensor(rows)
    assert new.position_from.tolist() == places
    torch.testing.assert_close(new.weights, weights, atol=0, rtol=0)
    torch.testing.assert_close(new.features[:, 0], weights @ ctx.features, atol=1e-5, rtol=1e-5)


@st.composite
def images(draw: st.DrawFn) -> tuple[Context, int]:
    """Keys along the axes, so that equal cosines are exactly equal; equal attention; duplicate tokens."""
    tiles = tuple(draw(st.lists(st.integers(1, 14), min_size=1, max_size=2)))
    n, width = sum(tiles), draw(st.integers(1, 3))
    axis = draw(
        st.lists(st.tuples(st.integers(0, width - 1), st.sampled_from([-2, 0, 1])), min_size=n, max_size=n)
    )
    keys = torch.zeros(n, width)
    for token, (place, value) in enumerate(axis):
        keys[token, place] = value
    attention = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.125, 0.25, 4.0]), min_size=n, max_size=n)))
    x = torch.tensor(draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n))).float()
    return image(attention, keys, torch.stack([x, x + 1], dim=1), tiles), draw(st.integers(1, n))


@pytest.mark.parametrize("neighbours", ["dropped", "all"])
@pytest.mark.parametrize("count", ["budget", "adaptive"])
@pytest.mark.parametrize("kind", [PruMerge, PruMergePlus])
@settings(max_examples=60, deadline=None)
@given(images())
def test_is_the_definition(
    kind: type[PruMerge], count: str, neighbours: str, drawn: tuple[Context, int]
) -> None:
    ctx, k = drawn
    pruner = kind(count=count, neighbours=neighbours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prumerge, "NEAREST", 3)
        new = pruner.reduce(ctx, k)
    check(new, ctx, *by_definition(ctx, pruner, k, 3))
    assert len(new.features) == k if count == "budget" else 1 <= len(new.features) <= k


@pytest.mark.parametrize("kind", [PruMerge, PruMergePlus])
def test_is_the_definition_beyond_32_neighbours(kind: type[PruMerge]) -> None:
    g = torch.Generator().manual_seed(0)
    attention = torch.rand(150, generator=g) ** 4
    ctx = image(attention, torch.randn(150, 5, generator=g), torch.randn(150, 4, generator=g), (90, 60))
    for neighbours in ("dropped", "all"):
        pruner = kind(neighbours=neighbours)
        check(pruner.reduce(ctx, 33), ctx, *by_definition(ctx, pruner, 33, 32))


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0]), min_size=1, max_size=30))
def test_outliers_are_those_of_numpy(values: list[float]) -> None:
    low, high = np.percentile(np.float64(np.float32(values)), [25, 75])
    expected = int((np.float64(np.float32(values)) > high + 1.5 * (high - low)).sum())
    assert outliers(torch.tensor(values)) == expected


def test_all_and_one() -> None:
    """With nothing to drop tokens stay as they are; a single token is the attention's sum."""
    g = torch.Generator().manual_seed(1)
    ctx = image(torch.rand(40, generator=g), torch.randn(40, 3, generator=g), torch.randn(40, 4, generator=g))
    assert ctx.last_attention is not None
    for pruner in (PruMerge(), PruMergePlus(neighbours="all")):
        whole = pruner.reduce(ctx, 40)
        assert torch.equal(whole.features[:, 0], ctx.features)
        assert whole.source.tolist() == list(range(40))
        (one,) = pruner.reduce(ctx, 1).features[:, 0]
        torch.testing.assert_close(one, ctx.last_attention @ ctx.features)


def test_plus_keeps_an_even_grid() -> None:
    """Of 65 tokens of 576, 48 lie 12 apart; the 16 most attended others join them, then the extra one."""
    attention = torch.arange(576) / 576
    ctx = image(attention, torch.randn(576, 3), torch.randn(576, 2))
    grid = set(range(0, 576, 12))
    places = PruMergePlus().reduce(ctx, 65).position_from.tolist()
    attended = sorted(set(range(576)) - grid)[-16:]
    assert set(places[:-1]) == grid | set(attended)


# --- the published code ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("case", ["budget", "adaptive", "plus"])
def test_equals_the_published_code(case: str, published: dict[str, Any]) -> None:
    """Its kept sets and its merged features. On purpose ours stand in raster order, its own by attention;
    and by default ours take neighbours from the dropped tokens, as the paper says and its code does not.
    """
    query, keys, x = (torch.tensor(published["inputs"][name]) for name in ("query", "keys", "x"))
    attention = (keys @ query / math.sqrt(len(query))).softmax(0)[1:]
    ctx = image(attention, keys[1:], x)
    theirs = published["outputs"][case]
    kept, features = theirs["kept"], torch.tensor(theirs["features"])
    count = "budget" if case == "budget" else "adaptive"
    # adaptive: as many as it finds, no cap
    k = len(features) if count == "budget" else 576
    kind = PruMergePlus if case == "plus" else PruMerge
    new = kind(count=count, neighbours="all").reduce(ctx, k)
    assert new.position_from[:-1].tolist() == sorted(kept)
    in_raster = [*np.argsort(kept).tolist(), len(kept)]
    torch.testing.assert_close(new.features[:, 0], features[in_raster], atol=2e-5, rtol=1e-5)
    paper = kind(count=count).reduce(ctx, k)
    assert paper.position_from.tolist() == new.position_from.tolist()
    torch.testing.assert_close(paper.features[-1], new.features[-1])
    among_kept = (new.weights[:-1][:, sorted(kept)] > 0).sum(1) > 1
    differs = (paper.features[:-1] - new.features[:-1]).abs().amax((1, 2)) > 1e-6
    assert torch.equal(differs, among_kept)


def test_plus_fills_what_the_published_code_leaves_empty(published: dict[str, Any]) -> None:
    """Where a token is both attended and on the grid, the published code keeps fewer; here the next most
    attended one takes the place, so that the number is the declared one."""
    attention = torch.rand(576, generator=torch.Generator().manual_seed(2)) * 0.1
    attention[0:384:12] = 1.0  # 32 outliers, all on the grid of stride 6
    ctx = image(attention, torch.randn(576, 3), torch.randn(576, 2))
    places = PruMergePlus(count="adaptive").reduce(ctx, 576).position_from[:-1].tolist()
    theirs = set(range(0, 384, 12)) | set(range(0, 575, 6))
    assert len(theirs) == 96
    assert len(places) == 128
    assert theirs < set(places)


# --- the name ----------------------------------------------------------------------------------------------


def test_name_with_a_plus_is_read_and_shown() -> None:
    parts = [
        PRUNERS.expand(spec)[0] for spec in split_list("prumerge@0.9,prumerge+@0.9,prumerge+(count=adaptive)")
    ]
    assert [part.label for part in parts] == [
        "prumerge(ratio=0.9)",
        "prumerge+(ratio=0.9)",
        "prumerge+(count=adaptive)",
    ]
    assert isinstance(PRUNERS.get("prumerge+").build(parts[1]), PruMergePlus)
    assert Condition(image=None, prune=parts[1], repeat=1).id == "prumerge+(ratio=0.9)+repeat(index=1)"


def test_what_is_missing_is_named() -> None:
    ctx = Context(features=torch.ones(2, 2), grid=torch.zeros(2, 3).long(), projector_in=torch.ones(2, 1, 2))
    with pytest.raises(NotApplicableError, match=r"^prumerge\+ needs last_attention .*use divprune$"):
        get("prumerge+")().reduce(ctx, 1)
