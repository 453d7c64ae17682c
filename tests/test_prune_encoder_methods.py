"""FasterVLM, VisPruner, HiPrune and LoFi: against their formulas in plain Python and against public code."""

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

from vlmbench.errors import NotApplicableError
from vlmbench.prune import get
from vlmbench.prune.base import Context
from vlmbench.prune.lofi import leverage
from vlmbench.prune.vispruner import _distinct, _distinct_on_cpu

REFERENCES = Path(__file__).parent / "data" / "references"
Vectors = list[list[float]]


def image(tiles: int, rows: int, columns: int, **given: Tensor) -> Context:
    grid = [(t, r, c) for t in range(tiles) for r in range(rows) for c in range(columns)]
    n = len(grid)
    features = given.pop("features", torch.zeros(n, 2))
    return Context(features=features, grid=torch.tensor(grid), **given)


def shares(k: int, tiles: int) -> list[int]:
    return [k // tiles + (t < k % tiles) for t in range(tiles)]


def best(score: list[float], k: int) -> list[int]:
    return sorted(range(len(score)), key=lambda i: (-score[i], i))[:k]


# --- the formulas ------------------------------------------------------------------------------------------


def vispruner_by_formula(attention: list[float], x: Vectors, k: int, r: float) -> list[int]:
    def cos(a: list[float], b: list[float]) -> float:
        length = math.hypot(*a) * math.hypot(*b)
        return min(sum(p * q for p, q in zip(a, b, strict=True)) / length, 1 - 1e-6) if length else 0.0

    order = best(attention, len(attention))
    important, left = order[: int(k * r)], order[int(k * r) :]
    while len(important) < k < len(important) + len(left):
        even, odd = left[::2], left[1::2]
        drop = min(8, len(left) - (k - len(important)), len(even))
        nearest = [max(cos(x[i], x[j]) for j in odd) for i in even]
        left = [even[i] for i in best(nearest, len(even))][drop:] + odd
    return sorted(important + (left if len(important) < k else []))


def hiprune_by_formula(
    attention: list[float], middle: list[float], columns: int, k: int, a: float, wrapped: bool = False
) -> list[int]:
    """`wrapped`: neighbours as +-1 and +-columns of the index, cut to the range, whatever the row."""
    n = len(attention)
    anchors = best(middle, round(k * a / 5))
    near = set()
    for i in anchors:
        row, column = divmod(i, columns)
        for down, right in ((0, -1), (0, 1), (-1, 0), (1, 0)):
            if wrapped:
                near.add(min(max(i + down * columns + right, 0), n - 1))
            elif 0 <= row + down < n // columns and 0 <= column + right < columns:
                near.add(i + down * columns + right)
    buffers = sorted(near - set(anchors), key=lambda i: (-middle[i], i))
    rest = [i for i in best(attention, n) if i not in near and i not in anchors]
    return sorted([*anchors, *buffers, *rest][:k])


def leverage_by_formula(tokens: list[list[float]], rank: int) -> list[float]:
    u, s, _ = np.linalg.svd(np.array(tokens, dtype=np.float64), full_matrices=False)
    rank = min(rank, len(s))
    counted = [j for j in range(len(s)) if s[j] > 1e-5 * s[0] and s[j] ** 2 >= (1 - 1e-5) * s[rank - 1] ** 2]
    return [sum(u[i, j] ** 2 for j in counted) for i in range(len(tokens))]


def lofi_by_formula(tokens: list[list[float]], k: int, rank: int) -> list[int]:
    score = leverage_by_formula(tokens, rank or k)
    mean = sum(score) / len(score) or 1.0
    order = sorted(range(len(score)), key=lambda i: -score[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and score[groups[-1][-1]] - score[i] <= 1e-5 * mean:
            groups[-1].append(i)
        else:
            groups.append([i])
    return sorted([i for group in groups for i in sorted(group)][:k])


@st.composite
def images(draw: st.DrawFn) -> tuple[Context, int]:
    """Few values: ties and duplicates everywhere; vectors of length 2 or 0, whose cosines are exact."""
    tiles, rows, columns = draw(st.integers(1, 2)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    n = tiles * rows * columns
    values = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.7]), min_size=n, max_size=n)
    spread = st.lists(st.integers(0, 10**6).map(lambda v: v / 10**6), min_size=n, max_size=n)
    signs = st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4)
    vectors = draw(st.lists(signs | st.just([0.0] * 4), min_size=n, max_size=n))
    ctx = image(
        tiles,
        rows,
        columns,
        attention=torch.tensor(draw(values | spread)),
        received_attention=torch.tensor(draw(values | spread)),
        middle_attention=torch.tensor(draw(values | spread)),
        projector_in=torch.tensor(vectors).view(n, 2, 2),
    )
    return ctx, draw(st.sampled_from([1, n]) | st.integers(1, n))


def by_tile(ctx: Context, k: int) -> list[tuple[range, int]]:
    n = ctx.n // ctx.tiles
    return [(range(t * n, (t + 1) * n), share) for t, share in enumerate(shares(k, ctx.tiles))]


@settings(max_examples=120, deadline=None)
@given(images(), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_methods_on_attention_are_their_formulas_on_each_tile(
    drawn: tuple[Context, int], part: float
) -> None:
    ctx, k = drawn
    assert ctx.attention is not None
    assert ctx.received_attention is not None
    assert ctx.middle_attention is not None
    assert ctx.projector_in is not None
    columns = int(ctx.grid[:, 2].max()) + 1
    wanted: dict[str, list[int]] = {"fastervlm": [], "vispruner": [], "hiprune": []}
    for tile, share in by_tile(ctx, k):
        here = slice(tile.start, tile.stop)
        attention = ctx.attention[here].tolist()
        end, middle = ctx.received_attention[here].tolist(), ctx.middle_attention[here].tolist()
        x = ctx.projector_in[here].flatten(1).tolist()
        wanted["fastervlm"] += [tile[i] for i in sorted(best(attention, share))]
        wanted["vispruner"] += [tile[i] for i in vispruner_by_formula(attention, x, share, part)]
        wanted["hiprune"] += [tile[i] for i in hiprune_by_formula(end, middle, columns, share, part)]
    assert get("fastervlm")().select(ctx, k).tolist() == wanted["fastervlm"]
    assert get("vispruner")(r=part).select(ctx, k).tolist() == wanted["vispruner"]
    assert get("hiprune")(a=part).select(ctx, k).tolist() == wanted["hiprune"]


def test_vispruner_is_the_formula_on_a_whole_image() -> None:
    g = torch.Generator().manual_seed(2)
    x, attention = torch.randn(120, 1, 12, generator=g), torch.rand(120, generator=g)
    x[90:] = 2 * x[:30]  # duplicates but for their length
    ctx = image(1, 10, 12, attention=attention, projector_in=x)
    for k in (1, 7, 20, 21, 64, 119, 120):
        wanted = vispruner_by_formula(attention.tolist(), x[:, 0].tolist(), k, 0.5)
        assert get("vispruner")().select(ctx, k).tolist() == wanted


def test_rounds_in_torch_equal_those_on_the_cpu() -> None:
    """The torch loop serves every other device, all images at once."""
    unit = torch.nn.functional.normalize(
        torch.randn(3, 120, 16, generator=torch.Generator().manual_seed(1)), dim=2
    )
    unit[:, 60:80] = unit[:, :20]
    for count in (1, 10, 37, 119):
        assert torch.equal(_distinct(unit, count), _distinct_on_cpu(unit, count))


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Vectors, int, int]:
    n, c = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    row = st.lists(st.integers(-2, 2).map(float), min_size=c, max_size=c)
    rows = draw(st.lists(row, min_size=n, max_size=n))
    if draw(st.booleans()):  # more dimensions than tokens
        rows = [r + [0.0] * i + [7.0] + [0.0] * (n - 1 - i) for i, r in enumerate(rows)]
    return rows, draw(st.integers(1, n)), draw(st.integers(0, 8))


@settings(max_examples=120, deadline=None)
@given(matrices())
def test_lofi_is_the_formula(drawn: tuple[Vectors, int, int]) -> None:
    rows, k, rank = drawn
    tokens = torch.tensor(rows)
    assert leverage(tokens, rank or k).tolist() == pytest.approx(
        leverage_by_formula(rows, rank or k), abs=1e-5
    )
    ctx = image(1, 1, len(rows), projector_in=tokens[:, None], features=tokens)
    wanted = list(range(k)) if k == len(rows) else lofi_by_formula(rows, k, rank)
    assert get("lofi")(rank=rank).select(ctx, k).tolist() == wanted
    assert get("lofi")(rank=rank, space="features").select(ctx, k).tolist() == wanted


def test_lofi_decomposes_each_tile() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(12, 5, generator=g), 100 * torch.randn(12, 5, generator=g)
    ctx = image(2, 3, 4, projector_in=torch.cat([first, second])[:, None])
    wanted = lofi_by_formula(first.tolist(), 4, 0) + [12 + i for i in lofi_by_formula(second.tolist(), 3, 0)]
    assert get("lofi")().select(ctx, 7).tolist() == wanted


@pytest.mark.parametrize("decay", [1.0, 1.5])
@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_lofi_iterates_close_to_the_decomposition(decay: float, turned: bool) -> None:
    g = torch.Generator().manual_seed(4)
    n, c = 320, 512
    left = torch.linalg.qr(torch.randn(n, n, generator=g) * (1 + 9 * torch.rand(n, 1, generator=g) ** 4)).Q
    right = torch.linalg.qr(torch.randn(c, n, generator=g)).Q
    tokens = (left * torch.arange(1.0, n + 1) ** -decay) @ right.T
    tokens = tokens.T.contiguous() if turned else tokens
    exact, near = leverage(tokens, 32), leverage(tokens, 32, iterations=3)
    assert near.sum().item() == pytest.approx(32, abs=1e-2)
    # the last directions are rough: a few tokens at the cut differ
    assert (near - exact).abs().max() < 0.05
    kept = [set(s.topk(32).indices.tolist()) for s in (exact, near)]
    assert len(kept[0] & kept[1]) >= 30
    assert torch.equal(near, leverage(tokens, 32, iterations=3))


# --- public code -------------------------------------------------------------------------------------------


def recorded(name: str) -> list[Any]:
    file = json.loads((REFERENCES / f"{name}.json").read_text())
    return [
        pytest.param(case, kept, id=f"{case['name']}-{i}")
        for case in file["cases"]
        for i, kept in enumerate(case["selections"])
    ]


def of_case(case: dict[str, Any]) -> Context:
    n = case["tiles"] * case["rows"] * case["columns"]
    fields = {name: torch.tensor(case[name]) for name in ("attention", "middle_attention") if name in case}
    fields["received_attention"] = fields.get("attention")
    if "x" in case:
        fields["projector_in"] = torch.tensor(case["x"]).view(n, 1, -1)
    return image(case["tiles"], case["rows"], case["columns"], **fields)


@pytest.mark.parametrize(("case", "kept"), recorded("fastervlm"))
def test_fastervlm_keeps_what_the_authors_code_keeps(case: dict[str, Any], kept: dict[str, Any]) -> None:
    assert get("fastervlm")().select(of_case(case), kept["keep"]).tolist() == kept["kept"]


@pytest.mark.parametrize(("case", "kept"), recorded("vispruner"))
def test_vispruner_keeps_what_the_authors_code_keeps(case: dict[str, Any], kept: dict[str, Any]) -> None:
    """Theirs stops with an error where an odd number of tokens, or fewer than 16, is left to a round: ours
    goes on, as the formula's test shows."""
    assert get("vispruner")(r=kept["r"]).select(of_case(case), kept["keep"]).tolist() == kept["kept"]


@pytest.mark.parametrize(("case", "kept"), recorded("hiprune"))
def test_hiprune_keeps_what_the_authors_code_keeps(case: dict[str, Any], kept: dict[str, Any]) -> None:
    """Theirs takes the neighbours of an anchor at the border by index alone: of the last column, the first
    of the next row; above the first row, token 0. Ours are on the grid."""
    ours = get("hiprune")(a=kept["a"]).select(of_case(case), kept["keep"]).tolist()
    n, columns = case["rows"] * case["columns"], case["columns"]
    wrapped, border = [], False
    for t, share in enumerate(shares(kept["keep"], case["tiles"])):
        attention, middle = (case[f][t * n : (t + 1) * n] for f in ("attention", "middle_attention"))
        theirs = hiprune_by_formula(attention, middle, columns, share, kept["a"], wrapped=True)
        wrapped += [t * n + i for i in theirs]
        border |= theirs != hiprune_by_formula(attention, middle, columns, share, kept["a"])
    assert wrapped == kept["kept"]
    assert (ours != kept["kept"]) == border
    assert border <= (case["name"] == "random, anchors anywhere")


# --- what a model may lack ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "lacking", "line"),
    [
        ("fastervlm", "attention", "fastervlm needs attention .* use divprune"),
        ("vispruner", "attention", "vispruner needs attention .* use divprune"),
        ("vispruner", "projector_in", "vispruner needs projector_in .* use fastervlm"),
        ("hiprune", "received_attention", "hiprune needs received_attention .* use divprune"),
        ("hiprune", "middle_attention", "hiprune needs middle_attention .* use fastervlm"),
        ("lofi", "projector_in", r"lofi needs projector_in .* use lofi\(space=features\)"),
    ],
)
def test_what_is_lacking_is_said_with_a_method_that_works(method: str, lacking: str, line: str) -> None:
    fields = {
        "attention": torch.rand(6),
        "received_attention": torch.rand(6),
        "middle_attention": torch.rand(6),
        "projector_in": torch.rand(6, 1, 3),
    }
    fields.pop(lacking)
    with pytest.raises(NotApplicableError, match=line) as error:
        get(method)().select(image(1, 2, 3, **fields), 2)
    assert "\n" not in str(error.value)
