"""Pruning inside the language model against an oracle that removes nothing: the same model, with the dropped
tokens masked from the layer of the cut on; for all families."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FAMILIES, build
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache

from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.models.inputs import RowInputs, bucket, merge_vision, pad_left
from vlmbench.models.inside import ImageSpan, InsideLog, attention_rows, prune_inside, refuse_generate
from vlmbench.models.loading import load_model
from vlmbench.prune.base import Context, Cut, Pruner, top_k
from vlmbench.prune.fastv import FastV

Tiny = Callable[[str], Path]
Load = Callable[[str], "Loaded"]

NEW = 4
CLOSE = 3e-5
BATCH = 1e-4
"""Other paddings and batch sizes run other kernels; unpruned batches differ as much."""
ONE, TWO = ((2, 0.25),), ((2, 0.5), (4, 0.2))


def picture(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))[..., None]
    return Image.fromarray((slope * rng.random(3) + rng.integers(0, 55, (height, width, 3))).astype(np.uint8))


SQUARE, WIDE, TALL = picture(1, 100, 100), picture(2, 90, 60), picture(3, 70, 150)
ASKS = (
    ("What colour is it?", (SQUARE,)),
    ("Is there a blue square above the green triangle in the picture? Answer yes or no.", (WIDE,)),
    ("Which of the two is larger?", (TALL, SQUARE)),
)


@dataclass(frozen=True, kw_only=True)
class Attended(Pruner):
    """Keeps what is attended to most, after each of `cuts` (layer, share of the image's tokens)."""

    stage = "llm"
    cuts: tuple[tuple[int, float], ...] = ONE
    seen: list[tuple[Context, Tensor]] = field(default_factory=list, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"llm_attention"})

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        return tuple(Cut(layer, max(1, round(share * n))) for layer, share in self.cuts)

    def select(self, ctx: Context, k: int) -> Tensor:
        assert ctx.llm is not None
        assert ctx.llm.attention is not None
        assert ctx.features.shape[0] == ctx.grid.shape[0] == ctx.llm.attention.shape[0]
        chosen = top_k(ctx.llm.attention, k)
        self.seen.append((ctx, chosen))
        return chosen


@dataclass(frozen=True)
class Loaded:
    adapter: Adapter
    rows: tuple[RowInputs, ...]

    @property
    def model(self) -> Any:
        return self.adapter.model

    @property
    def layers(self) -> Any:
        return self.model.base_model.get_decoder().layers

    def inputs(self, *rows: int, padding: int = 0) -> dict[str, Any]:
        """Arguments of `generate`; padded like the adapter does it, to a multiple of 32 columns."""
        return prompt_inputs(self.adapter, [self.rows[row] for row in rows], padding)

    def spans(self, inputs: dict[str, Any], *rows: int) -> list[list[ImageSpan]]:
        """Rows with two images are cut in the middle of their placeholders; `rows` number the seeds."""
        found = []
        for place, row in enumerate(rows or range(len(inputs["input_ids"]))):
            columns = (inputs["input_ids"][place] == self.adapter.image_token_id).nonzero()[:, 0]
            count = len(ASKS[row][1]) if len(columns) else 0
            parts = columns.tensor_split(count) if count else ()
            found.append([ImageSpan(p, raster(len(p)), 10 * row + i) for i, p in enumerate(parts)])
        return found


def raster(n: int) -> Tensor:
    return torch.stack([torch.zeros(n, dtype=torch.long), torch.arange(n) // 7, torch.arange(n) % 7], dim=1)


def prompt_inputs(adapter: Adapter, rows: Sequence[RowInputs], padding: int = 0) -> dict[str, Any]:
    length = bucket(max(row.length for row in rows)) + padding
    inputs: dict[str, Any] = pad_left(rows, length, adapter.pad_id)
    inputs["position_ids"] = adapter.position_ids(rows, inputs)
    inputs.pop("mm_token_type_ids", None)
    return inputs | merge_vision([row.vision for row in rows if row.vision])


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: loaded_from(tiny_model(family)))


def loaded_from(folder: Path) -> Loaded:
    adapter = Adapter(load_model(str(folder), device="cpu"))
    rows = [adapter.prepare(adapter.render(text, len(images)), images, NEW) for text, images in ASKS]
    return Loaded(adapter, tuple(rows))


@contextmanager
def attention(model: Any, implementation: str) -> Iterator[None]:
    """`sdpa`: as loaded; PaliGemma 2 has none in its language model and is loaded with eager there."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    before = [config._attn_implementation for config in configs]
    if implementation == "eager":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def generate(model: Any, inputs: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor]:
    """New tokens [B, NEW] and their logits [B, NEW, V]."""
    defaults = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    with torch.inference_mode():
        output = model.generate(
            **inputs, **(defaults | options), return_dict_in_generate=True, output_logits=True
        )
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


def pruned(
    loaded: Loaded,
    inputs: dict[str, Any],
    pruner: Pruner,
    positions: str = "original",
    rows: Sequence[int] = (),
) -> tuple[Tensor, Tensor, InsideLog]:
    with prune_inside(loaded.model, pruner, loaded.spans(inputs, *rows), positions) as log:
        tokens, logits = generate(loaded.model, inputs)
    return tokens, logits, log


# -------------------------------------------------------------------------------------------- the oracle


class Oracle:
    """Masks, at every layer, the tokens that are `gone` there; nothing is removed.

    `gone[layer]` is [B, S] bool. With `compact` the others are renumbered, by brute force: the ids of all
    axes of a row, sorted, without repeats, from the lowest on. Merged tokens stand in slots of the prompt:
    `merged[layer]` lists (row, columns [N], slots [k], weights [k, N]), and the column of the prompt whose
    original position each one has is in `source[layer]` [B, S].
    """

    def __init__(
        self,
        model: Any,
        gone: Sequence[Tensor],
        valid: Tensor,
        compact: bool,
        merged: Mapping[int, Sequence[tuple[int, Tensor, Tensor, Tensor]]] | None = None,
        source: Sequence[Tensor] = (),
    ) -> None:
        self.decoder = model.base_model.get_decoder()
        self.gone, self.valid, self.compact = gone, valid, compact
        self.merged, self.source = merged or {}, source
        self.eager = model.config.get_text_config()._attn_implementation == "eager"
        self.ids = torch.empty(0)
        self.shift: dict[int, Tensor] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = [
            layer.register_forward_pre_hook(self.hook(i), with_kwargs=True)
            for i, layer in enumerate(self.decoder.layers)
            if self.gone[i].any() or self.source
        ]
        handles.append(self.decoder.rotary_emb.register_forward_pre_hook(self.see, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see(self, module: Any, args: Any, kwargs: Any) -> None:
        self.ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)

    def hook(self, i: int) -> Any:
        def before(module: Any, args: Any, kwargs: Any) -> Any:
            hidden, gone = args[0], self.gone[i]
            old, new = kwargs["past_key_values"].get_seq_length(i), hidden.shape[1]
            gone = torch.nn.functional.pad(gone, (0, old + new - gone.shape[1]))[:, None, None]
            mask = kwargs["attention_mask"]
            if mask is None:
                mask = torch.arange(old + new) <= torch.arange(old, old + new)[:, None]
                mask = mask.expand(len(hidden), 1, -1, -1)
            low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
            kwargs["attention_mask"] = mask.masked_fill(gone, low)
            if old == 0 and self.merged.get(i):
                hidden = hidden.clone()
                for row, columns, slots, weights in self.merged[i]:
                    hidden[row, slots] = weights @ hidden[row, columns]
                args = (hidden, *args[1:])
            if old == 0 and self.source and not self.compact:
                kwargs["position_embeddings"] = tuple(
                    torch.stack([x[..., b % x.shape[-3], at, :] for b, at in enumerate(self.source[i])], -3)
                    for x in kwargs["position_embeddings"]
                )
            if self.compact:
                kind = getattr(self.decoder.config, "layer_types", ["full_attention"] * 99)[i]
                extra = (kind,) if self.decoder.config.model_type.startswith("gemma3") else ()
                ids = self.renumbered(i, self.ids, old == 0, len(hidden))
                kwargs["position_embeddings"] = self.decoder.rotary_emb.forward(hidden, ids, *extra)
            return args, kwargs

        return before

    def renumbered(self, i: int, ids: Tensor, reading: bool, rows: int) -> Tensor:
        ids = ids.expand(*ids.shape[:-2], rows, -1)
        if not reading:
            return ids - self.shift[i]
        dense = ids.clone()
        for row in range(rows):
            stays = self.valid[row] & ~self.gone[i][row]
            values = sorted(set(ids[..., row, stays].flatten().tolist()))
            rank = {value: values[0] + j for j, value in enumerate(values)}
            flat = [rank[value] for value in ids[..., row, stays].flatten().tolist()]
            dense[..., row, stays] = torch.tensor(flat).view(*ids.shape[:-2], -1)
        self.shift[i] = (ids - dense)[..., -1:]
        return dense


def gone_per_layer(
    pruner: Attended, spans: list[list[ImageSpan]], n_layers: int, shape: torch.Size
) -> list[Tensor]:
    """What the pruner, as it was called, dropped, by column of the full prompt."""
    gone = [torch.zeros(shape, dtype=torch.bool) for _ in range(n_layers)]
    calls = iter(pruner.seen)
    left = {(b, i): image.index for b, row in enumerate(spans) for i, image in enumerate(row)}
    for layer, _ in pruner.cuts:
        for (b, i), columns in left.items():
            ctx, chosen = next(calls)
            assert ctx.n == len(columns)
            assert ctx.seed == spans[b][i].seed
            left[b, i] = columns[chosen]
            for after in range(layer, n_layers):
                gone[after][b, columns] = True
                gone[after][b, left[b, i]] = False
    assert next(calls, None) is None
    return gone


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_removing_equals_masking(family: str, implementation: str, load: Load) -> None:
    """Logits of several steps, a ragged batch; one cut and two; original and compact ids."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    spans = loaded.spans(inputs)
    with attention(loaded.model, implementation):
        full_logits = generate(loaded.model, inputs)[1]
        for cuts, positions in itertools.product((ONE, TWO), ("original", "compact")):
            pruner = Attended(cuts=cuts)
            tokens, logits, _ = pruned(loaded, inputs, pruner, positions)
            gone = gone_per_layer(pruner, spans, len(loaded.layers), inputs["input_ids"].shape)
            valid = inputs["attention_mask"].bool()
            with Oracle(loaded.model, gone, valid, positions == "compact").hooks():
                expected, expected_logits = generate(loaded.model, inputs)
            assert torch.equal(tokens, expected)
            assert (logits - expected_logits).abs().max() < CLOSE
            assert (logits - full_logits).abs().max() > 1e-2, "the oracle must tell pruned from full"


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keep_all_is_identity(family: str, implementation: str, load: Load) -> None:
    """By the full path, to the last bit; PaliGemma counts its positions from 1."""
    loaded = load(family)
    keep_all = ((2, 1.0), (3, 1.0))
    with attention(loaded.model, implementation):
        for rows, padding in (((0, 1, 2), 0), ((1,), 32)):
            inputs = loaded.inputs(*rows, padding=padding)
            full, full_logits = generate(loaded.model, inputs)
            for positions in ("original", "compact"):
                tokens, logits, log = pruned(loaded, inputs, Attended(cuts=keep_all), positions, rows)
                assert torch.equal(tokens, full)
                assert (logits - full_logits).abs().max() == 0
                for row, kept in zip(rows, log.kept, strict=True):
                    assert sum(map(len, kept)) == loaded.rows[row].visual_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_by_one(family: str, load: Load) -> None:
    """Rows of different length that keep different counts, in several paddings."""
    loaded = load(family)
    for cuts, positions in ((ONE, "original"), (TWO, "compact")):
        together = loaded.inputs(0, 1, 2)
        _, logits, log = pruned(loaded, together, Attended(cuts=cuts), positions)
        assert len({sum(map(len, kept)) for kept in log.kept}) > 1
        for row in range(3):
            alone = loaded.inputs(row, padding=7)
            _, one, own = pruned(loaded, alone, Attended(cuts=cuts), positions, [row])
            assert all(torch.equal(a, b) for a, b in zip(log.kept[row], own.kept[0], strict=True))
            assert (logits[row] - one[0]).abs().max() < BATCH


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_are_really_shorter(family: str, load: Load) -> None:
    """Hidden states and caches: layers before a cut work on everything, those behind it on what is left."""
    loaded = load(family)
    inputs = loaded.inputs(1)
    widths: list[list[int]] = [[] for _ in loaded.layers]
    handles = [
        layer.register_forward_hook(lambda m, a, output, i=i: widths[i].append(output.shape[1]))
        for i, layer in enumerate(loaded.layers)
    ]
    cache_ = DynamicCache(config=loaded.model.config)
    n, length = loaded.rows[1].visual_tokens, inputs["input_ids"].shape[1]
    with prune_inside(loaded.model, Attended(cuts=TWO), loaded.spans(inputs, 1)) as log:
        generate(loaded.model, inputs, past_key_values=cache_)
    for handle in handles:
        handle.remove()
    first, second = max(1, round(0.5 * n)), max(1, round(0.2 * n))
    left = [n] * 2 + [first] * 2 + [second] * (len(loaded.layers) - 4)
    assert [row[0] for row in log.entered] == left
    assert [width[0] for width in widths] == [length - n + count for count in left]
    assert all(width[1:] == [1] * (NEW - 1) for width in widths)
    assert [cache_.get_seq_length(i) for i in range(len(left))] == [w[0] + NEW - 1 for w in widths]
    assert [len(log.kept[0][0]), log.cuts] == [second, [[(Cut(2, first), Cut(4, second))]]]


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_that_a_method_sees(family: str, load: Load) -> None:
    """Of the last prompt token, mean over heads: a row of eager attention, though sdpa runs."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1, 2)
    spans = loaded.spans(inputs)
    hidden: list[Tensor] = []
    with attention(loaded.model, "eager"), torch.inference_mode():
        expected = loaded.model(**inputs, output_attentions=True).attentions
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda m, a, i=i: ran.append(i))
        for i, layer in enumerate(loaded.layers)
    ]
    got = attention_rows(loaded.model, inputs, [0, 2])
    whole = attention_rows(loaded.model, inputs, [1], rows="all")
    assert ran == [0, 1, 2, 0, 1]
    for handle in handles:
        handle.remove()
    real = inputs["attention_mask"].bool()
    assert set(got) == {0, 2}
    for layer, row in got.items():
        assert (row - expected[layer][:, :, -1]).abs().max() < 1e-5
    by_query = (whole[1] - expected[1]).abs().amax((1, 3))
    assert by_query[real].max() < 1e-5
    with pytest.raises(UsageError, match=f"0..{len(loaded.layers) - 1}"):
        attention_rows(loaded.model, inputs, [99])

    handle = loaded.layers[2].register_forward_pre_hook(lambda m, a: hidden.append(a[0].clone()))
    with torch.inference_mode():
        loaded.model(**inputs)
    handle.remove()
    pruner = Attended()
    pruned(loaded, inputs, pruner)
    images = [(b, image) for b, row in enumerate(spans) for image in row]
    assert len(pruner.seen) == len(images)
    for (b, image), (ctx, _) in zip(images, pruner.seen, strict=True):
        assert ctx.llm is not None
        assert ctx.llm.attention is not None
        mean = expected[1][b, :, -1, image.index].mean(0)
        assert (ctx.llm.attention - mean).abs().max() < 1e-5
        assert torch.allclose(ctx.features, hidden[0][b, image.index], atol=1e-4)
        assert torch.equal(ctx.grid, image.grid)
        assert ctx.seed == image.seed


# ------------------------------------------------------------------------------- rows that are not alike


@dataclass(frozen=True, kw_only=True)
class Uneven(Attended):
    """Small images are not cut, large ones earlier than others; asks for no attention."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        return () if n < 12 else (Cut(1 if n > 30 else 3, 1),)

    def select(self, ctx: Context, k: int) -> Tensor:
        assert ctx.llm is not None
        assert ctx.llm.attention is None
        return top_k(ctx.features.norm(dim=-1), k)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "internvl", "gemma3"])
def test_rows_with_schedules_of_their_own(family: str, load: Load) -> None:
    """One of them has no image at all."""
    loaded = load(family)
    blind = loaded.adapter.prepare(loaded.adapter.render("Which option is correct?", 0), (), NEW)
    rows = (*loaded.rows, blind)
    inputs = prompt_inputs(loaded.adapter, rows)
    spans = loaded.spans(inputs, 0, 1, 2, 0)
    with prune_inside(loaded.model, Uneven(), spans) as log:
        _, logits = generate(loaded.model, inputs)
    assert log.entered[0] == [row.visual_tokens for row in rows]
    assert log.kept[3] == []
    for b, row in enumerate(rows):
        alone = prompt_inputs(loaded.adapter, [row])
        with prune_inside(loaded.model, Uneven(), loaded.spans(alone, min(b, 2))) as own:
            _, one = generate(loaded.model, alone)
        assert all(torch.equal(x, y) for x, y in zip(own.kept[0], log.kept[b], strict=True))
        assert [row[b] for row in log.entered] == [row[0] for row in own.entered]
        assert (logits[b] - one[0]).abs().max() < BATCH


def test_fastv_reaches_its_budget(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0, 1)
    pruner = FastV(ratio=0.5, K=1)
    with prune_inside(loaded.model, pruner, loaded.spans(inputs), pruner.positions) as log:
        generate(loaded.model, inputs)
    n = loaded.rows[0].visual_tokens
    mean = sum(row[0] for row in log.entered) / len(log.entered)
    assert mean == pytest.approx(0.5 * n, abs=0.5)
    before = traces(loaded.model)
    with pytest.raises(NotApplicableError, match="or use divprune"):
        pruned(loaded, inputs, FastV(ratio=0.95, K=2))
    assert traces(loaded.model) == before


def test_flash_masks(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in reads [B, K] masks as flash attention does: None means neither padding nor packing."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def flash(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        ids = kwargs.get("position_ids")
        assert mask is not None or ids is None or len(q) > 1 or (ids.diff() == 1).all()
        if mask is not None:
            assert mask.shape == (len(k), k.shape[2])
            old = k.shape[2] - q.shape[2]
            causal = torch.arange(k.shape[2]) <= torch.arange(old, k.shape[2])[:, None]
            mask = causal & mask.bool()[:, None, None]
        kwargs.pop("is_causal", None)
        return sdpa(module, q, k, v, mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "flash_attention_2", flash)
    loaded = load("llava")
    for rows in ((0, 1, 2), (0,)):
        inputs = loaded.inputs(*rows)
        if rows == (0,):  # no padding at all: every mask is None
            inputs = {k: v[..., -loaded.rows[0].length :] if v.ndim == 2 else v for k, v in inputs.items()}
        expected = pruned(loaded, inputs, Attended(cuts=TWO))
        config = loaded.model.config.get_text_config()
        config._attn_implementation = "flash_attention_2"
        try:
            got = pruned(loaded, inputs, Attended(cuts=TWO))
        finally:
            config._attn_implementation = "sdpa"
        assert (got[1] - expected[1]).abs().max() < CLOSE


# ------------------------------------------------------------------------------------------- leaving it


def traces(model: Any) -> Any:
    """Hooks and attributes of every module, and what attention calls lead to."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = {"rope_deltas"}  # transformers itself keeps the offset of the last positions there
    modules = {
        name: (
            sorted(set(vars(module)) - own),
            [
                len(hooks)
                for key, hooks in vars(module).items()
                if "_hooks" in key and isinstance(hooks, dict)
            ],
            vars(module).get("forward"),
        )
        for name, module in model.named_modules()
    }
    return modules, dict(ALL_ATTENTION_FUNCTIONS._local_mapping), model.config.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind(family: str, load: Load) -> None:
    """Neither by a normal exit nor by an exception in a layer, a selection or the block itself."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1)
    spans = loaded.spans(inputs)
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    before, full = traces(loaded.model), generate(loaded.model, inputs)[1]

    class Broken(Attended):
        def select(self, ctx: Context, k: int) -> Tensor:
            raise RuntimeError("planted")

    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    _, logits, _ = pruned(loaded, inputs, Attended(), "compact")
    assert not torch.equal(logits, full)
    assert traces(loaded.model) == before
    with pytest.raises(RuntimeError, match="planted"):
        pruned(loaded, inputs, Broken(), "compact")
    assert traces(loaded.model) == before
    handle = loaded.layers[3].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        pruned(loaded, inputs, Attended())
    handle.remove()
    assert traces(loaded.model) == before
    with prune_inside(loaded.model, Attended(), spans):
        assert traces(loaded.model) != before, "the test must be able to see a hook"
    assert traces(loaded.model) == before
    attention_rows(loaded.model, inputs, [1])
    assert traces(loaded.model) == before
    assert torch.equal(generate(loaded.model, inputs)[1], full)
    after = loaded.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("family", "cuts", "said"),
    [
        ("llava", ((0, 0.5),), "cut before layer 0: the language model has 5 layers, use 1 to 4"),
        ("llava", ((5, 0.5),), "use 1 to 4"),
        ("llava", ((3, 0.5), (2, 0.2)), "later layers"),
        ("llava", ((2, 0.2), (3, 0.5)), "fewer tokens"),
        ("qwen3_vl", ((1, 0.5),), "image features after each of its first 2 layers, use 2 to 5"),
    ],
)
def test_cuts_that_cannot_be(family: str, cuts: tuple[tuple[int, float], ...], said: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0)
    before = traces(loaded.model)
    with pytest.raises(UsageError, match=said):
        pruned(loaded, inputs, Attended(cuts=cuts))
    assert traces(loaded.model) == before


BOTH: list[tuple[dict[str, Any], str]] = [
    ({"labels": torch.zeros(1, 1)}, "labels: drop it"),
    ({"inputs_embeds": torch.zeros(1, 1, 1)}, "inputs_embeds: pass input_ids"),
    ({"cache_implementation": "static"}, "static cache: use the default"),
    ({"prefill_chunk_size": 8}, "prefill_chunk_size: leave it unset"),
    ({"num_beams": 2}, "num_beams=2: use num_beams=1"),
    ({"num_return_sequences": 2}, "num_return_sequences=1"),
    ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
    ({"assistant_model": object()}, "assisted decoding"),
    ({"attention_mask": torch.tensor([[1, 1, 0]])}, "pad on the left"),
]
INSIDE: list[tuple[dict[str, Any], str]] = [
    ({"use_cache": False}, "use use_cache=True"),
    ({"cache_implementation": "quantized"}, "use 'dynamic'"),
    ({"dola_layers": "high"}, "contrastive"),
    ({"penalty_alpha": 0.6}, "contrastive"),
]


@pytest.mark.parametrize(("kwargs", "said"), BOTH + INSIDE)
def test_arguments_of_generate_that_are_refused(kwargs: dict[str, Any], said: str, load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    refuse_generate(loaded.model, inputs, "llm")
    refuse_generate(loaded.model, inputs, "projector")
    with pytest.raises(UsageError, match=said) as error:
        refuse_generate(loaded.model, inputs | kwargs, "llm")
    assert "\n" not in str(error.value)
    if (kwargs, said) in BOTH:
        with pytest.raises(UsageError, match=said):
            refuse_generate(loaded.model, inputs | kwargs, "projector")
    else:
        refuse_generate(loaded.model, inputs | kwargs, "projector")


@pytest.mark.parametrize("name", ["prefill_chunk_size", "cache_implementation", "num_beams"])
def test_settings_of_the_models_own_configuration_are_refused_too(name: str, load: Load) -> None:
    """`generate` takes them over into a given configuration that leaves them open."""
    loaded = load("llava")
    own = loaded.model.generation_config
    value: Any = {"cache_implementation": "static"}.get(name, 2)
    before = getattr(own, name)
    setattr(own, name, value)
    try:
        given = {"generation_config": GenerationConfig(max_new_tokens=3)}
        with pytest.raises(UsageError, match=r"static|chunk|beams"):
            refuse_generate(loaded.model, loaded.inputs(0) | given, "projector")
    finally:
        setattr(own, name, before)


def test_what_is_only_seen_while_it_runs(load: Load) -> None:
    """For those who did not ask `refuse_generate`."""
    loaded = load("llava")
    inputs = loaded.inputs(0)
    static = StaticCache(config=loaded.model.config, max_cache_len=256)
    filled = DynamicCache(config=loaded.model.config)
    generate(loaded.model, inputs, past_key_values=filled)
    for options, said in (
        ({"use_cache": False}, "use_cache=True"),
        ({"num_beams": 2}, "num_beams=1"),
        ({"past_key_values": static}, "dynamic cache"),
        ({"prefill_chunk_size": 16}, "prefill_chunk_size"),
    ):
        before = traces(loaded.model)
        inside = prune_inside(loaded.model, Attended(), loaded.spans(inputs))
        with pytest.raises(UsageError, match=said), inside:
            generate(loaded.model, inputs, **options)
        assert traces(loaded.model) == before
    with pytest.raises(UsageError, match="filled"):
        refuse_generate(loaded.model, inputs | {"past_key_values": filled}, "llm")
    inside = prune_inside(loaded.model, Attended(), loaded.spans(inputs))
    with pytest.raises(UsageError, match="filled"), inside:
        loaded.model(input_ids=inputs["input_ids"][:, -1:], past_key_values=filled)
    cache = DynamicCache(config=loaded.model.config)
    with prune_inside(loaded.model, Attended(), loaded.spans(inputs)), torch.inference_mode():
        loaded.model(**inputs, past_key_values=cache)
        with pytest.raises(UsageError, match="assisted"):  # which checks several guesses at once
            loaded.model(input_ids=inputs["input_ids"][:, -2:], past_key_values=cache)
    with prune_inside(loaded.model, Attended(), loaded.spans(inputs)):
        generate(loaded.model, inputs)
        with pytest.raises(UsageError, match="enter it anew"):
            generate(loaded.model, inputs)
    with pytest.raises(UsageError, match="got 'sorted'"):
        pruned(loaded, inputs, Attended(), "sorted")
    loaded.model.config.get_text_config()._attn_implementation = "flex_attention"
    try:
        with pytest.raises(UsageError, match="load with 'sdpa'"):
            pruned(loaded, inputs, Attended())
    finally:
        loaded.model.config.get_text_config()._attn_implementation = "sdpa"


@pytest.mark.parametrize("family", ["gemma3", "llava_next"])
def test_short_sliding_windows(family: str, tmp_path: Path) -> None:
    """Refused where a layer behind the cut slides; Gemma 3's layers 2 and 5 do not."""
    loaded = loaded_from(build(family, tmp_path / family, sliding_window=24))
    inputs = loaded.inputs(0)
    length = inputs["input_ids"].shape[1]
    said = f"slides over 24 tokens and prompt [+] new tokens are {length + NEW}; use a shorter prompt"
    asked = inputs | {"max_new_tokens": NEW}
    with pytest.raises(UsageError, match=said):
        refuse_generate(loaded.model, asked, "llm")
    refuse_generate(loaded.model, asked, "projector")
    with pytest.raises(UsageError, match="slides over 24 tokens"):
        pruned(loaded, inputs, Attended(cuts=((2, 0.5),)))
    if family == "gemma3":
        refuse_generate(loaded.model, asked, "llm", first_cut=5)
        pruner = Attended(cuts=((5, 0.25),))
        _, logits, _ = pruned(loaded, inputs, pruner)
        gone = gone_per_layer(pruner, loaded.spans(inputs), 6, inputs["input_ids"].shape)
        with Oracle(loaded.model, gone, inputs["attention_mask"].bool(), False).hooks():
            assert (generate(loaded.model, inputs)[1] - logits).abs().max() < CLOSE


def test_a_window_that_decoding_reaches(tmp_path: Path) -> None:
    short = loaded_from(build("llava_next", tmp_path / "a", sliding_window=4096))
    length = short.inputs(0)["input_ids"].shape[1]
    loaded = loaded_from(build("llava_next", tmp_path / "b", sliding_window=length + 2))
    inputs = loaded.inputs(0)
    refuse_generate(loaded.model, inputs | {"max_new_tokens": 2}, "llm")
    with prune_inside(loaded.model, Attended(), loaded.spans(inputs)):
        generate(loaded.model, inputs, max_new_tokens=2, min_new_tokens=2)
    with pytest.raises(UsageError, match=f"tokens are {length + 3}"):
        pruned(loaded, inputs, Attended())
