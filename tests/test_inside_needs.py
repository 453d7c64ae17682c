"""What methods inside the language model are shown, against eager attention, caches and hooks of the same
model; for all families, in front of a first cut and of a second one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_inside import (
    NEW,
    TWO,
    Attended,
    Loaded,
    Oracle,
    attention,
    generate,
    gone_per_layer,
    loaded_from,
    pruned,
    raster,
    traces,
)
from tiny_models import FAMILIES, build
from torch import Tensor
from transformers import DynamicCache

from vlmbench.errors import ContractError, UsageError
from vlmbench.models.inside import ImageSpan, prune_inside
from vlmbench.models.inside_needs import final_norm, mean_rows
from vlmbench.models.taps import AttentionCall
from vlmbench.prune.base import Context

Tiny = Callable[[str], Path]
Load = Callable[[str], Loaded]
ALL = frozenset(
    {"llm_attention", "llm_next_attention", "llm_text_attention", "llm_keys", "llm_inputs", "llm_all_inputs"},
)
FIELDS = {
    "llm_attention": {"attention"},
    "llm_next_attention": {"next_attention"},
    "llm_text_attention": {"text_attention"},
    "llm_keys": {"keys", "text_keys"},
    "llm_inputs": {"inputs", "text_inputs"},
    "llm_all_inputs": {"all_inputs", "text_inputs"},
}


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: loaded_from(tiny_model(family)))


@dataclass(frozen=True, kw_only=True)
class Seeing(Attended):
    """Keeps what is long, and asks for `asks`."""

    cuts: tuple[tuple[int, float], ...] = TWO
    asks: frozenset[str] = ALL

    @property
    def needs(self) -> frozenset[str]:
        return self.asks

    def select(self, ctx: Context, k: int) -> Tensor:
        chosen = ctx.features.norm(dim=-1).argsort(descending=True)[:k].sort().values
        self.seen.append((ctx, chosen))
        return chosen


@dataclass(frozen=True, eq=False)
class Run:
    """One eager run, per layer: attention [B, H, S, S], keys [B, H_k, S, D], inputs [B, S, d]."""

    attention: tuple[Tensor, ...]
    keys: list[Tensor]
    hidden: list[Tensor]


def observed(loaded: Loaded, inputs: dict[str, Any], oracle: Oracle | None = None) -> Run:
    """By `generate`: PaliGemma's adds one to the position ids."""
    hidden: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda m, a: hidden.append(a[0].clone())) for layer in loaded.layers
    ]
    kept = DynamicCache(config=loaded.model.config)
    with (
        attention(loaded.model, "eager"),
        oracle.hooks() if oracle else nullcontext(),
        torch.inference_mode(),
    ):
        if oracle:
            oracle.eager = True
        output = loaded.model.generate(
            **inputs,
            max_new_tokens=1,
            past_key_values=kept,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    for handle in handles:
        handle.remove()
    return Run(output.attentions[0], [layer.keys for layer in kept.layers], hidden)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_a_method_may_see(family: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    spans = loaded.spans(inputs)
    images = [(b, image) for b, row in enumerate(spans) for image in row]
    full = observed(loaded, inputs)
    for positions in ("original", "compact"):
        pruner = Seeing()
        pruned(loaded, inputs, pruner, positions)
        assert len(pruner.seen) == 2 * len(images)
        first = Seeing(cuts=TWO[:1], seen=pruner.seen[: len(images)])
        gone = gone_per_layer(first, spans, len(loaded.layers), inputs["input_ids"].shape)
        valid = inputs["attention_mask"].bool()
        masked = observed(loaded, inputs, Oracle(loaded.model, gone, valid, positions == "compact"))
        left = [image.index for _, image in images]
        for cut, (layer, _) in enumerate(TWO):
            run = (full, masked)[cut]
            for i, (b, span) in enumerate(images):
                ctx, chosen = pruner.seen[cut * len(images) + i]
                text = torch.arange(int(max(image.index.max() for image in spans[b])) + 1, valid.shape[1])
                assert len(text) > 1
                compare(loaded, ctx, run, b, layer, left[i], text)
                assert ctx.llm is not None
                assert ctx.llm.all_inputs is not None
                assert ctx.llm.all_inputs.shape[0] == len(span.index)
                assert (ctx.llm.all_inputs - full.hidden[0][b, span.index]).abs().max() <= 1e-5
                left[i] = left[i][chosen]


def compare(loaded: Loaded, ctx: Context, run: Run, b: int, layer: int, image: Tensor, text: Tensor) -> None:
    """`image`, `text`: columns of the full prompt."""
    llm = ctx.llm
    assert llm is not None
    assert (llm.layer, llm.layers) == (layer, len(loaded.layers))
    before, at = run.attention[layer - 1][b].mean(0), run.attention[layer][b].mean(0)
    keys = run.keys[layer - 1][b].transpose(0, 1).flatten(1)
    norm = loaded.model.base_model.get_decoder().norm
    for got, expected, close in (
        (llm.attention, before[-1, image], 1e-5),
        (llm.next_attention, at[-1, image], 1e-5),
        (llm.text_attention, before[text][:, image], 1e-5),
        (llm.keys, keys[image], 1e-4),
        (llm.text_keys, keys[text], 1e-4),
        (llm.inputs, run.hidden[0][b, image], 1e-5),
        (llm.text_inputs, run.hidden[0][b, text], 1e-5),
        (llm.text, run.hidden[layer][b, text], 1e-4),
        (ctx.features, run.hidden[layer][b, image], 1e-4),
        (llm.norm(llm.text), norm(run.hidden[layer][b, text]), 1e-4),
    ):
        assert got is not None
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= close * max(1.0, float(expected.abs().max()))


def test_a_layer_that_slides_in_front_of_the_cut(tmp_path: Path) -> None:
    """Gemma 3's layers 3 and 4 do, over fewer tokens than the prompt has; its layer 5 does not."""
    loaded = loaded_from(build("gemma3", tmp_path / "gemma3", sliding_window=12))
    inputs = loaded.inputs(0)
    (image,) = loaded.spans(inputs)[0]
    pruner = Seeing(cuts=((5, 0.25),))
    pruned(loaded, inputs, pruner)
    run, (ctx, _) = observed(loaded, inputs), pruner.seen[0]
    text = torch.arange(int(image.index.max()) + 1, inputs["input_ids"].shape[1])
    far = run.attention[4][0, :, -1, image.index].mean(0)
    assert (far == 0).any(), "the window must hide some of the image"
    assert ctx.llm is not None
    assert ctx.llm.keys is not None
    assert ctx.llm.keys.shape == (len(image.index), run.keys[5].shape[1] * run.keys[5].shape[3])
    for got, expected in (
        (ctx.llm.attention, far),
        (ctx.llm.text_attention, run.attention[4][0].mean(0)[text][:, image.index]),
        (ctx.llm.next_attention, run.attention[5][0, :, -1, image.index].mean(0)),
    ):
        assert got is not None
        assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_leaves_no_trace(family: str, load: Load) -> None:
    """Logits of the full model to the last bit, caches of the right length, hooks of others fire once."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    before, (full, full_logits) = traces(loaded.model), generate(loaded.model, inputs)
    length = inputs["input_ids"].shape[1]
    fired: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda m, a, i=i: fired.append(i))
        for i, layer in enumerate(loaded.layers)
    ]
    for positions in ("original", "compact"):
        cache_ = DynamicCache(config=loaded.model.config)
        keep_all = Seeing(cuts=((2, 1.0), (3, 1.0)))
        fired.clear()
        with prune_inside(loaded.model, keep_all, loaded.spans(inputs), positions):
            tokens, logits = generate(loaded.model, inputs, past_key_values=cache_)
        assert torch.equal(tokens, full)
        assert (logits - full_logits).abs().max() == 0
        assert fired == list(range(len(loaded.layers))) * NEW
        assert {cache_.get_seq_length(i) for i in range(len(loaded.layers))} == {length + NEW - 1}
        cache_ = DynamicCache(config=loaded.model.config)
        with prune_inside(loaded.model, Seeing(), loaded.spans(inputs), positions) as log:
            generate(loaded.model, inputs, past_key_values=cache_)
        longest = [cache_.get_seq_length(i) - NEW + 1 for i in range(len(loaded.layers))]
        real = inputs["attention_mask"].sum(1)
        padding = length - int(real.max())
        for i, entered in enumerate(log.entered):
            gone = [a - b for a, b in zip(log.entered[0], entered, strict=True)]
            assert longest[i] == max(int(n) - g for n, g in zip(real, gone, strict=True)) + padding
    for handle in handles:
        handle.remove()
    assert traces(loaded.model) == before


@pytest.mark.parametrize("need", sorted(ALL))
def test_nothing_else_is_computed(need: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields nobody asked for are None; only the attention of the layer itself runs a part of it again."""
    loaded = load("llava")
    inputs = loaded.inputs(0, 1)
    runs: list[int] = []
    softmax: list[int] = []
    handles = [
        layer.input_layernorm.register_forward_hook(lambda *_, i=i: runs.append(i))
        for i, layer in enumerate(loaded.layers)
    ]
    weights = AttentionCall.weights
    monkeypatch.setattr(AttentionCall, "weights", lambda *a: softmax.append(1) or weights(*a))
    pruner = Seeing(cuts=((2, 0.5),), asks=frozenset({need}))
    pruned(loaded, inputs, pruner)
    for handle in handles:
        handle.remove()
    inner = pruner.seen[0][0].llm
    assert inner is not None
    optional = {name for names in FIELDS.values() for name in names}
    assert {name for name in optional if getattr(inner, name) is not None} == FIELDS[need]
    again = need == "llm_next_attention"
    assert [runs.count(i) for i in range(len(loaded.layers))] == [NEW + (i == 2 and again) for i in range(5)]
    computed = {"llm_attention": 1, "llm_next_attention": 1, "llm_text_attention": 2}
    assert len(softmax) == computed.get(need, 0), "once for the batch, or once for each row"


def test_text_where_none_is_behind_the_image(load: Load) -> None:
    """Then all of the prompt's, without its padding and without the images."""
    loaded = load("llava")
    inputs = loaded.inputs(0, 1)
    length = inputs["input_ids"].shape[1]
    first, last = (ImageSpan(torch.arange(at, at + 9), raster(9)) for at in (length - 25, length - 9))
    pruner = Seeing(cuts=((2, 0.9), (3, 0.5)))
    with prune_inside(loaded.model, pruner, [[last], [first, last]]):
        generate(loaded.model, inputs)
    for row, seen in ((0, 0), (1, 1), (1, 2), (0, 3), (1, 4), (1, 5)):
        count = int(inputs["attention_mask"][row].sum()) - 9 * (1 + row)
        llm = pruner.seen[seen][0].llm
        assert llm is not None
        assert llm.text.shape[0] == count
        assert llm.text_attention is not None
        assert llm.text_attention.shape == (count, pruner.seen[seen][0].n)


def test_tokens_between_images_are_no_text_behind_them(load: Load) -> None:
    """Also where the last tokens of the image are gone: what stood in it does not count from then on."""
    loaded = load("llava")
    inputs = loaded.inputs(1)
    place = (inputs["input_ids"][0] == loaded.adapter.image_token_id).nonzero()[:, 0]
    even = place[::2]  # the others play row breaks, which are text
    pruner = Seeing(cuts=((1, 0.5), (2, 0.2), (3, 0.1)))
    with prune_inside(loaded.model, pruner, [[ImageSpan(even, raster(len(even)))]]):
        generate(loaded.model, inputs)
    behind = inputs["input_ids"].shape[1] - int(even.max()) - 1
    assert [ctx.llm.text.shape[0] for ctx, _ in pruner.seen if ctx.llm] == [behind] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind_by_an_exception(family: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0, 1)
    before = traces(loaded.model)

    class Broken(Seeing):
        def select(self, ctx: Context, k: int) -> Tensor:
            raise RuntimeError("planted")

    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    for place in (None, loaded.layers[0].self_attn, loaded.layers[2].input_layernorm, loaded.layers[3].mlp):
        handle = place.register_forward_pre_hook(fail) if place else None
        with pytest.raises(RuntimeError, match="planted"):
            pruned(loaded, inputs, Seeing() if place else Broken(), "compact")
        if handle:
            handle.remove()
        assert traces(loaded.model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_sees_what_each_row_sees_alone(family: str, load: Load) -> None:
    loaded = load(family)
    together = Seeing()
    pruned(loaded, loaded.inputs(0, 1, 2), together)
    alone = [Seeing() for _ in range(3)]
    for row, pruner in enumerate(alone):
        pruned(loaded, loaded.inputs(row, padding=7), pruner, rows=[row])
    apart = [
        seen
        for cut in range(2)
        for p in alone
        for seen in p.seen[cut * len(p.seen) // 2 :][: len(p.seen) // 2]
    ]
    for (one, _), (other, _) in zip(together.seen, apart, strict=True):
        for name in sorted({"text", *itertools.chain(*FIELDS.values())}):
            a, b = getattr(one.llm, name), getattr(other.llm, name)
            assert a.shape == b.shape
            assert (a - b).abs().max() < 1e-4 * max(1.0, float(b.abs().max()))


def test_rows_of_many_heads_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, h, 20, 8, generator=generator) for h in (6, 3))
    call = AttentionCall(q, k, k, None, 0.3, True, {})
    at = torch.tensor([3, 7, 19])
    expected = call.weights(at)[0].mean(0)
    for limit in (1, 120, 2**20):
        monkeypatch.setattr("vlmbench.models.inside_needs._AT_ONCE", limit)
        assert torch.allclose(mean_rows(call, at), expected, atol=1e-7)


def test_a_decoder_without_a_known_norm() -> None:
    class Odd:
        ln_f = staticmethod(torch.tanh)

    assert final_norm(Odd()) is torch.tanh
    with pytest.raises(UsageError, match="Module has no final norm"):
        final_norm(torch.nn.Module())(torch.zeros(1))


@pytest.mark.parametrize(
    "change",
    [
        lambda ids, n: ids.flip(0),
        lambda ids, n: ids[:1].expand_as(ids),
        lambda ids, n: ids[:-1],
        lambda ids, n: ids[:0],
        lambda ids, n: ids - 1 - ids[0],
        lambda ids, n: ids + n,
        lambda ids, n: ids[None],
    ],
    ids=["unsorted", "repeated", "too few", "none", "negative", "beyond", "two axes"],
)
def test_selections_that_break_the_contract(change: Callable[..., Tensor], load: Load) -> None:
    class Wrong(Seeing):
        def select(self, ctx: Context, k: int) -> Tensor:
            return change(super().select(ctx, k), ctx.n)

    loaded = load("llava")
    before = traces(loaded.model)
    with pytest.raises(
        ContractError, match=r"pruner Wrong broke its contract: select must return \d+ indices"
    ):
        pruned(loaded, loaded.inputs(0), Wrong())
    assert traces(loaded.model) == before
