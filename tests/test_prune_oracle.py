"""`oracle` against its definition in plain Python, with ties and duplicate tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from test_prune_selection import context
from torch import Tensor

from vlmbench.errors import NotApplicableError
from vlmbench.prune import get
from vlmbench.prune.greedy import TIE, unit_length
from vlmbench.prune.oracle import _steps, _steps_on_cpu, in_turn


def by_definition(features: list[list[float]], evidence: list[list[float]], k: int) -> list[int]:
    """evidence: per box, of each token."""

    def distance(i: int, j: int) -> float:
        length = math.hypot(*features[i]) * math.hypot(*features[j])
        dot = sum(a * b for a, b in zip(features[i], features[j], strict=True))
        return 1 - dot / length if length else 1.0

    chosen: list[int] = []
    queues = [sorted((i for i, e in enumerate(box) if e > 0), key=lambda i: (-box[i], i)) for box in evidence]
    for turn in range(len(features)):
        for queue in queues:
            if turn < len(queue) and queue[turn] not in chosen and len(chosen) < k:
                chosen.append(queue[turn])
    while len(chosen) < k:
        left = {i: min(distance(i, j) for j in chosen) for i in range(len(features)) if i not in chosen}
        chosen.append(min(i for i, v in left.items() if v >= max(left.values()) - TIE))
    return sorted(chosen)


@st.composite
def images(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Small whole numbers: duplicates, parallel and zero vectors; up to three boxes, some overlapping and
    some seen by no token; tied evidence."""
    n, d, batch = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    boxes = draw(st.integers(1, 3))
    features = draw(st.lists(st.integers(-2, 2), min_size=batch * n * d, max_size=batch * n * d))
    share = st.sampled_from([0.0, 0.0, 0.125, 0.25, 0.5])
    count = batch * n * boxes
    evidence = torch.tensor(draw(st.lists(share, min_size=count, max_size=count))).view(batch, n, boxes)
    for row in evidence:
        row[draw(st.integers(0, n - 1)), draw(st.integers(0, boxes - 1))] = 0.125
    return torch.tensor(features).float().view(batch, n, d), evidence, draw(st.integers(1, n))


@settings(max_examples=200, deadline=None)
@given(images())
def test_oracle_is_the_definition(drawn: tuple[Tensor, Tensor, int]) -> None:
    features, evidence, k = drawn
    base = context([(1, features.shape[1])])
    contexts = [replace(base, features=f, evidence=e) for f, e in zip(features, evidence, strict=True)]
    got = get("oracle")(keep=k).select_many(contexts, [k] * len(contexts))
    wanted = [by_definition(f.tolist(), e.mT.tolist(), k) for f, e in zip(features, evidence, strict=True)]
    assert [g.tolist() for g in got] == wanted
    order, counts = in_turn(evidence)
    inputs = unit_length(features), order, counts.clamp(max=k), k
    assert _steps(*inputs).sort(1).values.tolist() == wanted
    assert _steps_on_cpu(*inputs).sort(1).values.tolist() == wanted


def test_larger_evidence_first_where_the_region_exceeds_the_budget() -> None:
    evidence = torch.tensor([0.1, 0.0, 0.3, 0.2, 0.2, 0.2])
    ctx = replace(context([(2, 3)]), evidence=evidence[:, None])
    assert [get("oracle")().select(ctx, k).tolist() for k in (1, 2, 3, 5)] == [
        [2],
        [2, 3],
        [2, 3, 4],
        [0, 2, 3, 4, 5],
    ]


def test_boxes_choose_in_turn() -> None:
    """The first two see the one box, the last three the other, of which the fourth sees most; the third sees
    most of both."""
    evidence = torch.tensor([[0.2, 0], [0.2, 0], [0.6, 0.5], [0, 0.3], [0, 0.2], [0, 0]])
    ctx = replace(context([(2, 3)]), evidence=evidence)
    kept = [get("oracle")().select(ctx, k).tolist() for k in range(1, 6)]
    assert kept == [[2], [0, 2], [0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_a_token_that_grazes_a_box_does_not_take_its_turn() -> None:
    evidence = torch.tensor([[0.9, 1e-4], [0.1, 0], [0, 0.8], [0, 0.1]])
    ctx = replace(context([(2, 2)]), evidence=evidence)
    assert get("oracle")().select(ctx, 2).tolist() == [0, 2]


def test_images_of_a_batch_have_boxes_of_their_own() -> None:
    contexts = [context([(3, 4)], seed=i) for i in range(3)]
    shares = [torch.rand(12, b, generator=torch.Generator().manual_seed(b)).round() for b in (1, 3, 2)]
    contexts = [replace(ctx, evidence=share) for ctx, share in zip(contexts, shares, strict=True)]
    for k in (1, 4, 9):
        many = get("oracle")().select_many(contexts, [k] * 3)
        assert [kept.tolist() for kept in many] == [get("oracle")().select(c, k).tolist() for c in contexts]


def test_a_sliver_of_the_region_is_more_than_nothing() -> None:
    ctx = replace(context([(1, 4)]), evidence=torch.tensor([[0.0], [0.0], [0.9], [1e-9]]))
    assert get("oracle")().select(ctx, 2).tolist() == [2, 3]


def test_what_the_region_leaves_goes_to_diversity() -> None:
    """With one token of evidence, the steps are DivPrune's from a start of that token."""
    features = torch.eye(6)[[0, 0, 1, 1, 2, 3]]
    evidence = torch.tensor([0.0, 1, 0, 0, 0, 0])[:, None]
    ctx = replace(context([(2, 3)]), features=features, evidence=evidence)
    assert get("oracle")().select(ctx, 4).tolist() == [1, 2, 4, 5]


def test_an_image_beside_the_region_s_is_divprune_s() -> None:
    contexts = [context([(4, 4)], seed=i) for i in range(2)]
    contexts[0] = replace(contexts[0], evidence=torch.zeros(16, 2))
    alone = [get("oracle")().select(ctx, 5).tolist() for ctx in contexts]
    assert [kept.tolist() for kept in get("oracle")().select_many(contexts, [5, 5])] == alone
    assert alone[0] == get("divprune")().select(contexts[0], 5).tolist()


def test_without_a_region_it_does_not_apply() -> None:
    with pytest.raises(NotApplicableError, match="boxes of the asked") as error:
        get("oracle")().select(context([(2, 2)], evidence=None), 2)
    assert str(error.value).endswith("use divprune")
    assert "\n" not in str(error.value)
