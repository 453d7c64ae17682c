"""Methods that merge inside the language model against an oracle that removes nothing: merged features stand
in their slots, the other tokens are masked from the layer of the cut on; for all families."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_inside import (
    BATCH,
    CLOSE,
    NEW,
    ONE,
    TWO,
    Attended,
    Loaded,
    Oracle,
    attention,
    generate,
    loaded_from,
    pruned,
    raster,
    traces,
)
from tiny_models import FAMILIES
from torch import Tensor
from transformers import DynamicCache

from vlmbench.errors import ContractError
from vlmbench.models.inside import ImageSpan, InsideLog, prune_inside
from vlmbench.models.inside_left import Left
from vlmbench.prune.base import Context, Cut, Reduced

Tiny = Callable[[str], Path]
Load = Callable[[str], Loaded]


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: loaded_from(tiny_model(family)))


@dataclass(frozen=True, kw_only=True)
class Blended(Attended):
    """The most attended token as it is, the others dealt out to k - 1 averages; the least attended goes.

    Rows and positions come in the order of attention, which is none of the image's.
    """

    merges = True
    asks: frozenset[str] = frozenset({"llm_attention"})
    made: list[tuple[Context, Reduced]] = field(default_factory=list, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        return self.asks

    def reduce(self, ctx: Context, k: int) -> Reduced:
        assert ctx.llm is not None
        assert ctx.llm.attention is not None
        assert ctx.features.shape[0] == ctx.grid.shape[0] == ctx.llm.attention.shape[0]
        order = ctx.llm.attention.argsort(descending=True, stable=True)
        weights = torch.zeros(k, ctx.n)
        for rank, token in enumerate(order[: max(k, ctx.n - 1)].tolist()):
            weights[0 if rank == 0 else 1 + (rank - 1) % max(1, k - 1) if k > 1 else 0, token] = 1
        weights /= weights.sum(1, keepdim=True)
        single = (weights > 0).sum(1) == 1
        reduced = Reduced(
            features=(weights @ ctx.features.float()).to(ctx.features.dtype),
            source=torch.where(single, weights.argmax(1), -1),
            weights=weights,
            position_from=order[:k],
        )
        self.made.append((ctx, reduced))
        return reduced


@dataclass(frozen=True, eq=False)
class Told:
    """What a run of `Blended` did, in columns of the full prompt, by brute force."""

    gone: list[Tensor]
    source: list[Tensor]
    merged: dict[int, list[tuple[int, Tensor, Tensor, Tensor]]]
    origin: dict[tuple[int, int], Tensor]
    share: dict[tuple[int, int], Tensor]


def told(pruner: Blended, spans: Sequence[Sequence[ImageSpan]], layers: int, shape: torch.Size) -> Told:
    gone = [torch.zeros(shape, dtype=torch.bool) for _ in range(layers)]
    source = [torch.arange(shape[1]).repeat(shape[0], 1) for _ in range(layers)]
    merged: dict[int, list[tuple[int, Tensor, Tensor, Tensor]]] = {}
    images = {(b, i): image for b, row in enumerate(spans) for i, image in enumerate(row)}
    columns = {key: image.index for key, image in images.items()}
    origin = {key: torch.arange(len(image.index)) for key, image in images.items()}
    weights = {key: torch.eye(len(image.index)) for key, image in images.items()}
    calls = iter(pruner.made)
    for layer, _ in pruner.cuts:
        for key, image in images.items():
            ctx, reduced = next(calls)
            b, before, at = key[0], columns[key], reduced.position_from
            assert ctx.seed == image.seed
            assert torch.equal(ctx.grid, image.grid[origin[key]])
            slots = before[at.sort().values]
            merged.setdefault(layer, []).append((b, before, slots, reduced.weights))
            columns[key], origin[key] = slots, origin[key][at]
            weights[key] = reduced.weights @ weights[key]
            for after in range(layer, layers):
                gone[after][b, before] = True
                gone[after][b, slots] = False
                source[after][b, slots] = image.index[origin[key]]
    assert next(calls, None) is None
    return Told(gone, source, merged, origin, {key: w.amax(0) for key, w in weights.items()})


def check_log(log: InsideLog, known: Told) -> None:
    for (b, i), origin in known.origin.items():
        assert torch.equal(log.kept[b][i], origin.sort().values)
        assert log.share[b][i].dtype == torch.float32
        assert torch.allclose(log.share[b][i], known.share[b, i], atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merging_equals_masking(family: str, implementation: str, load: Load) -> None:
    """Logits of several steps, a ragged batch; one cut and two; original and compact ids."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    spans = loaded.spans(inputs)
    cases = itertools.product((ONE, TWO), ("original", "compact"))
    with attention(loaded.model, implementation):
        full_logits = generate(loaded.model, inputs)[1]
        for cuts, positions in [(TWO, "original")] if implementation == "eager" else cases:
            pruner = Blended(cuts=cuts)
            tokens, logits, log = pruned(loaded, inputs, pruner, positions)
            known = told(pruner, spans, len(loaded.layers), inputs["input_ids"].shape)
            valid, compact = inputs["attention_mask"].bool(), positions == "compact"
            with Oracle(loaded.model, known.gone, valid, compact, known.merged, known.source).hooks():
                expected, expected_logits = generate(loaded.model, inputs)
            assert torch.equal(tokens, expected)
            assert (logits - expected_logits).abs().max() < CLOSE
            assert (logits - full_logits).abs().max() > 1e-2
            if positions == "original" and cuts == TWO:
                with Oracle(loaded.model, known.gone, valid, compact, known.merged).hooks():
                    own = generate(loaded.model, inputs)[1]
                assert (logits - own).abs().max() > 1e-2, "position_from must be seen to matter"
            check_log(log, known)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merging_batch_equals_one_by_one(family: str, load: Load) -> None:
    loaded = load(family)
    for cuts, positions in ((ONE, "compact"), (TWO, "original")):
        _, logits, log = pruned(loaded, loaded.inputs(0, 1, 2), Blended(cuts=cuts), positions)
        for row in range(3):
            _, one, own = pruned(loaded, loaded.inputs(row, padding=7), Blended(cuts=cuts), positions, [row])
            for a, b in zip(log.kept[row] + log.share[row], own.kept[0] + own.share[0], strict=True):
                assert torch.equal(a, b)
            assert (logits[row] - one[0]).abs().max() < BATCH


@dataclass(frozen=True, kw_only=True)
class Unchanged(Blended):
    """Makes every token of itself."""

    cuts: tuple[tuple[int, float], ...] = ((2, 1.0), (3, 1.0))

    def reduce(self, ctx: Context, k: int) -> Reduced:
        at = torch.arange(ctx.n)
        return Reduced(ctx.features, source=at, weights=torch.eye(ctx.n), position_from=at)


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_nothing_is_identity(family: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    before, full_logits = traces(loaded.model), generate(loaded.model, inputs)[1]
    for positions in ("original", "compact"):
        _, logits, log = pruned(loaded, inputs, Unchanged(), positions)
        assert (logits - full_logits).abs().max() == 0
        assert all(bool((share == 1).all()) for row in log.share for share in row)
    pruned(loaded, inputs, Blended(cuts=TWO))
    assert traces(loaded.model) == before


@dataclass(frozen=True, kw_only=True)
class Fewer(Blended):
    adaptive = True

    def reduce(self, ctx: Context, k: int) -> Reduced:
        return super().reduce(ctx, max(1, k // 2))


def test_an_adaptive_method_may_make_fewer(load: Load) -> None:
    """A later cut then keeps what is left where its count is more than that."""
    loaded = load("llava")
    inputs = loaded.inputs(1)
    pruner = Fewer(cuts=((2, 0.5), (3, 0.4), (4, 0.3)))
    kept = DynamicCache(config=loaded.model.config)
    with prune_inside(loaded.model, pruner, loaded.spans(inputs, 1)) as log:
        generate(loaded.model, inputs, past_key_values=kept)
    n = loaded.rows[1].visual_tokens
    half = round(0.5 * n) // 2
    left = [n, n, half, half // 2, half // 4]
    assert [row[0] for row in log.entered] == left
    rest = inputs["input_ids"].shape[1] - n + NEW - 1
    assert [kept.get_seq_length(i) for i in range(5)] == [rest + count for count in left]
    check_log(log, told(pruner, loaded.spans(inputs, 1), 5, inputs["input_ids"].shape))


BROKEN: dict[str, tuple[Callable[[Reduced], Reduced], str]] = {
    "shared position": (lambda r: replace(r, position_from=r.position_from * 0), "position_from"),
    "position beyond": (lambda r: replace(r, position_from=r.position_from + 999), "position_from"),
    "too few": (
        lambda r: Reduced(r.features[1:], r.source[1:], r.weights[1:], r.position_from[1:]),
        r"must return 18 tokens .* got 17 tokens",
    ),
    "weights of others": (lambda r: replace(r, weights=r.weights[:, 1:]), "weights of shape"),
    "no position": (lambda r: replace(r, position_from=r.position_from[1:]), "positions for"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_merges_that_break_the_contract(name: str, load: Load) -> None:
    change, said = BROKEN[name]

    class Wrong(Blended):
        def reduce(self, ctx: Context, k: int) -> Reduced:
            return change(super().reduce(ctx, k))

    loaded = load("llava")
    before = traces(loaded.model)
    with pytest.raises(ContractError, match=f"pruner Wrong broke its contract: reduce .*{said}"):
        pruned(loaded, loaded.inputs(0), Wrong(cuts=((2, 0.5),)))
    assert traces(loaded.model) == before


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_later_cuts_see_inputs_of_merged_tokens(family: str, load: Load) -> None:
    """The same weighted sums of what layer 0 received, and what it received for all tokens."""
    loaded = load(family)
    inputs = loaded.inputs(0, 2)
    received: list[Tensor] = []
    hook = loaded.layers[0].register_forward_pre_hook(lambda m, a: received.append(a[0].clone()))
    pruner = Blended(cuts=TWO, asks=frozenset({"llm_attention", "llm_inputs", "llm_all_inputs"}))
    spans = loaded.spans(inputs, 0, 2)
    pruned(loaded, inputs, pruner, rows=[0, 2])
    hook.remove()
    images = [(b, image) for b, row in enumerate(spans) for image in row]
    first, second = pruner.made[: len(images)], pruner.made[len(images) :]
    for (b, image), (early, reduced), (late, _) in zip(images, first, second, strict=True):
        own = received[0][b, image.index]
        assert early.llm is not None
        assert late.llm is not None
        assert early.llm.inputs is not None
        assert late.llm.inputs is not None
        assert torch.equal(early.llm.inputs, own)
        assert torch.equal(early.llm.all_inputs, own)
        assert torch.equal(late.llm.all_inputs, own)
        assert torch.allclose(late.llm.inputs, reduced.weights @ own, atol=1e-5)
        assert torch.equal(early.llm.text_inputs, late.llm.text_inputs)


def test_share_of_dropped_kept_and_merged() -> None:
    left = Left(
        0, 0, ImageSpan(torch.arange(4, 9), raster(5)), (Cut(1, 3),), torch.arange(4, 9), torch.arange(5)
    )
    assert left.share().tolist() == [1] * 5
    assert left.selected(torch.tensor([1, 4])).share().tolist() == [0, 1, 0, 0, 1]
    weights = torch.tensor([[0.0, 0, 0, 1, 0.5], [0.25, 0.75, 0, 0, 0]])
    made = Reduced(torch.zeros(2, 3), torch.tensor([-1, -1]), weights, torch.tensor([3, 0]))
    once = left.merged(made)
    assert once.share().tolist() == [0.25, 0.75, 0, 1, 0.5]
    assert once.columns.tolist() == [4, 7]
    assert once.origin.tolist() == [3, 0]
    half = Reduced(torch.zeros(1, 3), torch.tensor([-1]), torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    twice = once.merged(half)
    assert twice.share().tolist() == [0.125, 0.375, 0, 0.5, 0.25]
    assert (twice.columns.tolist(), twice.origin.tolist()) == ([7], [0])
    assert torch.equal(once.mix(torch.eye(5)), weights)
    whole: Any = left.mix(torch.eye(5))
    assert torch.equal(whole, torch.eye(5))
