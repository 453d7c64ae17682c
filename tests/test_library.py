"""`vlmbench.pruning` in other people's loops, against the adapter and against plain `generate`; for all
families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapter import ASKS, QUESTIONS, Ask, prepare
from tiny_models import FAMILIES
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, pipeline
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vlmbench
import vlmbench.demo
from vlmbench.demo.questions import ask
from vlmbench.demo.scenes import SPLITS, make_scene, render
from vlmbench.errors import ItemError, NotApplicableError, UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import VisualInput
from vlmbench.models.inputs import RowInputs, merge_vision, pad_left
from vlmbench.models.loading import load_model
from vlmbench.prune import get
from vlmbench.prune.base import Context, Pruner
from vlmbench.prune.random import Random

Tiny = Callable[[str], Path]
Load = Callable[[str], "Loaded"]

NEW = 4
METHODS = ("zoo", "divprune", "random", "visionzip", "zoo(positions=original)", "fastv")
DEMO = Path(vlmbench.demo.__file__).parent / "model"


@dataclass(frozen=True)
class Loaded:
    adapter: Adapter
    rows: tuple[RowInputs, ...]
    """One image, another one, two images and, where the processor can, none."""

    @property
    def model(self) -> Any:
        return self.adapter.model

    def inputs(self, *rows: int, padding: int = 0) -> dict[str, Any]:
        """What a processor makes of these rows as one left-padded batch."""
        chosen = [self.rows[i] for i in rows or range(len(self.rows))]
        length = max(row.length for row in chosen) + padding
        vision = merge_vision([row.vision for row in chosen if row.vision])
        return {**pad_left(chosen, length, self.adapter.pad_id), **vision}

    def generate(self, inputs: dict[str, Any], **options: Any) -> Any:
        return self.model.generate(**{"max_new_tokens": NEW, "do_sample": False, **inputs, **options})

    def texts(self, inputs: dict[str, Any], sequences: Tensor) -> list[str]:
        new = sequences[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.adapter.tokenizer.batch_decode(new, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    @cache
    def loaded(family: str) -> Loaded:
        adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
        asks = [ASKS[0], ASKS[3], ASKS[7]]
        if family != "paligemma":  # whose processor needs an image
            asks.append(Ask(QUESTIONS[1], ()))
        return Loaded(adapter, tuple(prepare(adapter, ask) for ask in asks))

    return loaded


def ratio_for(method: str) -> float:
    return 0.3 if method == "fastv" else 0.75


def by_adapter(
    loaded: Loaded, pruner: Pruner, seeds: Sequence[tuple[int, ...]]
) -> tuple[list[str], list[list[int] | None]]:
    """Texts, and the placeholders that each row keeps, where pruning is before the language model."""
    rows, adapter = loaded.rows, loaded.adapter
    encoded = adapter.encode([row for row in rows if row.visual_tokens], pruner.needs)
    left = iter(encoded.features)
    whole = [next(left) if row.visual_tokens else None for row in rows]
    applied = adapter.apply(pruner, rows, whole, seeds)
    texts = [g.text for g in adapter.answer(rows, encoded, applied, NEW)]
    parts = [part if isinstance(part, VisualInput) else None for part in applied.visual]
    return texts, [] if applied.inside else [part and part.keep.tolist() for part in parts]


def joined(loaded: Loaded, kept: Sequence[Sequence[Tensor]], needs: frozenset[str]) -> list[list[int] | None]:
    """Indices within images as indices within rows."""
    found: list[list[int] | None] = []
    for row, images in zip(loaded.rows, kept, strict=True):
        if not row.visual_tokens:
            found.append(None)
            continue
        places = loaded.adapter.encode([row], needs).features[0].images
        found.append([int(i) + p.start for p, own in zip(places, images, strict=True) for i in own])
    return found


# ------------------------------------------------------------------------------------ same as the adapter


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_new_tokens_are_the_adapters(family: str, method: str, load: Load) -> None:
    """A batch with padding and with a row without image; the prompt comes back as it was given."""
    loaded = load(family)
    inputs = loaded.inputs()
    ids = inputs["input_ids"]
    given = {key: value.clone() for key, value in inputs.items()}
    with vlmbench.pruning(loaded.model, method, ratio=ratio_for(method), seed=7) as pruned:
        out = loaded.generate(inputs)
    assert torch.equal(out[:, : ids.shape[1]], ids)
    assert inputs.keys() == given.keys()
    assert all(torch.equal(inputs[key], given[key]) for key in given)
    last = pruned.last
    assert last is not None
    texts, kept = by_adapter(loaded, pruned.pruner, last.seeds)
    assert loaded.texts(inputs, out) == texts
    assert last.before == tuple(row.visual_tokens for row in loaded.rows)
    assert last.after == tuple(sum(len(i) for i in row) for row in last.kept)
    assert all(0 < after < before for before, after in zip(last.before, last.after, strict=True) if before)
    if kept:
        assert joined(loaded, last.kept, pruned.pruner.needs) == kept


@pytest.mark.parametrize("method", ["zoo", "random", "visionzip", "fastv"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_rows_one_by_one(family: str, method: str, load: Load) -> None:
    """Whatever else is in the batch, and in whatever order: draws follow the image."""
    loaded = load(family)
    with vlmbench.pruning(loaded.model, method, ratio=ratio_for(method), seed=3) as pruned:
        inputs = loaded.inputs(padding=5)
        together = loaded.texts(inputs, loaded.generate(inputs))
        batch = pruned.last
        backwards = loaded.inputs(*reversed(range(len(loaded.rows))))
        assert loaded.texts(backwards, loaded.generate(backwards)) == together[::-1]
        for i, text in enumerate(together):
            one = loaded.inputs(i)
            assert loaded.texts(one, loaded.generate(one)) == [text]
            assert batch is not None
            assert pruned.last is not None
            assert pruned.last.seeds[0] == batch.seeds[i]
            same = [torch.equal(*pair) for pair in zip(pruned.last.kept[0], batch.kept[i], strict=True)]
            assert all(same)


@pytest.mark.parametrize(
    "method", ["zoo", "identity", "visionzip(keep=3)", "fastv", "fastv(positions=compact)"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_is_plain_generate(family: str, method: str, load: Load) -> None:
    """Exactly, but for a method that merges, which must differ."""
    loaded = load(family)
    inputs = loaded.inputs()
    options = {"return_dict_in_generate": True, "output_logits": True}
    plain = loaded.generate(inputs, **options)
    budget = {} if "keep" in method or method == "identity" else {"ratio": 0}
    with vlmbench.pruning(loaded.model, method, **budget):
        pruned = loaded.generate(inputs, **options)
    same = [torch.equal(*pair) for pair in zip(plain.logits, pruned.logits, strict=False)]
    if "keep" in method:
        assert not all(same)
        return
    assert torch.equal(plain.sequences, pruned.sequences)
    assert all(same)


@pytest.mark.parametrize("family", FAMILIES)
def test_blind_sees_no_image(family: str, load: Load) -> None:
    """The same prompt about other pixels gives the same tokens."""
    loaded = load(family)
    inputs = loaded.inputs(0, 1)
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}
    assert not torch.equal(*(logits_of(loaded, each) for each in (inputs, other)))
    with vlmbench.pruning(loaded.model, "blind") as pruned:
        assert torch.equal(*(logits_of(loaded, each) for each in (inputs, other)))
    assert pruned.last is not None
    assert pruned.last.after == (0, 0)


def logits_of(loaded: Loaded, inputs: dict[str, Any]) -> Tensor:
    out = loaded.generate(inputs, return_dict_in_generate=True, output_logits=True)
    return torch.stack(out.logits)


# --------------------------------------------------------------------------------------- other harnesses


def test_a_plain_pipeline() -> None:
    """`pipeline("image-text-to-text")`, built outside the block, on the embedded model."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(DEMO)
    processor = AutoProcessor.from_pretrained(DEMO)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    scenes = [make_scene(SPLITS["test"][i]) for i in range(3)]
    chats = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": render(scene)},
                    {"type": "text", "text": question.question},
                ],
            }
        ]
        for scene in scenes
        for question in ask(scene, 0)[:4]
    ]

    def answers(**options: Any) -> list[str]:
        return [found[0]["generated_text"] for found in pipe(text=chats, return_full_text=False, **options)]

    full = answers()
    with vlmbench.pruning(model, "zoo", ratio=0) as pruned:
        assert answers() == full
        assert pruned.last is not None
        assert (pruned.last.before, pruned.last.after) == ((144,), (144,))
    with vlmbench.pruning(model, "zoo", ratio=0.5) as pruned:
        half = answers()
        assert pruned.last is not None
        assert (pruned.last.before, pruned.last.after) == ((144,), (72,))
    with vlmbench.pruning(model, "blind"):
        blind = answers()
    assert answers() == full
    agree = [sum(a == b for a, b in zip(full, each, strict=True)) for each in (half, blind)]
    assert agree[0] > agree[1]


@pytest.mark.parametrize("method", ["zoo", "fastv"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_generate_shows_the_whole_prompt(family: str, method: str, load: Load) -> None:
    """To max_length, min_length, logits processors, stopping criteria and streamers, as without pruning."""
    loaded = load(family)
    inputs = loaded.inputs(0, 2)
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    seen: list[Tensor] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            seen.append(value)

        def end(self) -> None:
            seen.append(torch.zeros(0))

    def process(sequence: Tensor, scores: Tensor) -> Tensor:
        seen.append(sequence)
        return scores

    def stop(sequence: Tensor, scores: Any, **_: Any) -> Tensor:
        seen.append(sequence)
        return torch.full((len(sequence),), sequence.shape[1] - length >= 3)

    config = GenerationConfig(do_sample=False, max_length=length + 5, min_length=length + 5)
    with vlmbench.pruning(loaded.model, method, ratio=ratio_for(method)):
        out = loaded.model.generate(
            **inputs, generation_config=config, return_dict_in_generate=True, output_hidden_states=True
        )
        assert out.sequences.shape[1] == length + 5
        assert torch.equal(out.sequences[:, :length], ids)
        assert out.hidden_states[0][-1].shape[1] < length
        short = loaded.model.generate(**inputs, max_length=length + 2, min_length=length + 2, do_sample=False)
        assert torch.equal(short, out.sequences[:, : length + 2])
        stopped = loaded.model.generate(
            ids,
            **{key: value for key, value in inputs.items() if key != "input_ids"},
            generation_config=config,
            logits_processor=LogitsProcessorList([process]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )
        assert torch.equal(stopped, out.sequences[:, : length + 3])
        assert seen
        assert all(torch.equal(sequence[:, :length], ids) for sequence in seen)
        seen.clear()
        one = loaded.inputs(0)
        loaded.generate(one, streamer=Streamer())
        assert torch.equal(seen[0], one["input_ids"])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_cache(family: str, load: Load) -> None:
    """Every step reads the prompt again, and must prune it again."""
    loaded = load(family)
    inputs = loaded.inputs()
    for method in ("zoo", "zoo(positions=original)"):
        with vlmbench.pruning(loaded.model, method, ratio=0.75):
            assert torch.equal(loaded.generate(inputs), loaded.generate(inputs, use_cache=False))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "paligemma"])
def test_calls_without_images_pass(family: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(3)
    expected = loaded.generate(inputs, num_beams=2), loaded.model(**inputs).logits
    for method in ("zoo", "fastv"):
        with vlmbench.pruning(loaded.model, method, ratio=0.3) as pruned:
            assert torch.equal(loaded.generate(inputs, num_beams=2), expected[0])
            assert torch.equal(loaded.model(**inputs).logits, expected[1])
        assert pruned.last is not None
        assert (pruned.last.before, pruned.last.after, pruned.last.kept) == ((0,), (0,), ((),))


def test_guidance_reads_its_own_prompt(load: Load) -> None:
    """Classifier-free guidance calls the model from within a logits processor."""
    loaded = load("llava")
    inputs = loaded.inputs(0)
    expected = loaded.generate(inputs, guidance_scale=1.5)
    with vlmbench.pruning(loaded.model, "zoo", ratio=0):
        assert torch.equal(loaded.generate(inputs, guidance_scale=1.5), expected)
    with vlmbench.pruning(loaded.model, "zoo", ratio=0.75):
        assert loaded.generate(inputs, guidance_scale=1.5).shape[1] > inputs["input_ids"].shape[1]


def test_draws_follow_seed_and_image(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0, 1, 0)

    def kept(method: str | Pruner, **options: Any) -> list[list[int]]:
        with vlmbench.pruning(loaded.model, method, **options) as pruned:
            loaded.generate(inputs)
        assert pruned.last is not None
        return [row[0].tolist() for row in pruned.last.kept]

    first = kept("random", ratio=0.75)
    assert first[0] == first[2] != first[1]
    assert kept("random@0.75") == kept(Random(ratio=0.75)) == kept("random", keep=9) == first
    assert kept("random", ratio=0.75, seed=1) != first
    more = kept("random", ratio=0.5)
    assert all(set(a) <= set(b) for a, b in zip(first, more, strict=True)), "one draw for all ratios"


def test_methods_that_read_get_the_words_behind_the_image(load: Load) -> None:
    loaded = load("llava")
    seen: list[Tensor] = []

    class Reads(Pruner):
        @property
        def needs(self) -> frozenset[str]:
            return frozenset({"text"})

        def score(self, ctx: Context) -> Tensor:
            assert ctx.text is not None
            seen.append(ctx.text)
            return torch.zeros(ctx.n)

    inputs = loaded.inputs(0, 1)
    with vlmbench.pruning(loaded.model, Reads(keep=4)):
        loaded.generate(inputs)
    embed = loaded.model.get_input_embeddings()
    for row, text in zip(loaded.rows, seen, strict=False):
        ids = row.sequence["input_ids"][0].tolist()
        behind = len(ids) - ids[::-1].index(loaded.adapter.image_token_id)
        assert torch.equal(text, embed(torch.tensor(ids[behind:])))
    assert len(seen) == 2


@pytest.mark.parametrize("newline", ["kept", "dropped"])
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_newlines(family: str, newline: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0)
    (image,) = loaded.adapter.encode([loaded.rows[0]], frozenset()).features[0].images
    lines = (image.grid[:, 1] < 0).nonzero()[:, 0].tolist()
    real = len(image.grid) - len(lines)
    for method, budget in (("zoo", 5), ("fastv", 2 * real // 3)):
        with vlmbench.pruning(loaded.model, method, keep=budget, newline=newline) as pruned:
            loaded.generate(inputs)
        assert pruned.last is not None
        ((kept,),) = pruned.last.kept
        assert kept.tolist() == sorted(set(kept.tolist()))
        if method == "zoo":
            assert len(kept) == budget + len(lines) * (newline == "kept")
        assert pruned.last.after == (len(kept),)
        if newline == "kept":
            assert set(lines) <= set(kept.tolist())
        else:
            assert not set(lines) & set(kept.tolist())


@pytest.mark.parametrize("method", ["zoo", "fastv"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_half_precision_stays(family: str, method: str, tiny_model: Tiny) -> None:
    adapter = Adapter(load_model(str(tiny_model(family)), device="cpu", dtype="bfloat16"))
    rows = tuple(prepare(adapter, ASKS[i]) for i in (0, 7))
    loaded = Loaded(adapter, rows)
    inputs = loaded.inputs()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    options = {"return_dict_in_generate": True, "output_hidden_states": True}
    plain = loaded.generate(inputs, **options)
    with vlmbench.pruning(loaded.model, method, ratio=0):
        assert torch.equal(loaded.generate(inputs), plain.sequences)
    with vlmbench.pruning(loaded.model, method, ratio=0.3):
        out = loaded.generate(inputs, **options)
    assert out.hidden_states[0][0].dtype == torch.bfloat16
    assert out.hidden_states[0][-1].shape[1] < plain.hidden_states[0][-1].shape[1]


def test_grad_mode_is_the_callers(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), vlmbench.pruning(loaded.model, "zoo", ratio=0.75):
            before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            out = loaded.generate(inputs)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
            assert out.is_inference() == before[1]


def test_a_compiled_model_is_the_model_in_it(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    compiled: Any = torch.compile(loaded.model)
    before = trace(loaded.model)
    with vlmbench.pruning(loaded.model, "zoo", ratio=0.75):
        expected = loaded.generate(inputs)
    with vlmbench.pruning(compiled, "zoo", ratio=0.75) as pruned:
        assert torch.equal(compiled.generate(**inputs, max_new_tokens=NEW, do_sample=False), expected)
        assert pruned.last is not None
    assert trace(loaded.model) == before


# ---------------------------------------------------------------------------------------------- restored


def trace(model: Any) -> list[Any]:
    """Everything that a context could leave behind, by identity and in order."""
    own = {"rope_deltas"}  # transformers itself keeps the offset of the last positions there
    found: list[Any] = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in own:
                continue
            content = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else None
            found.append((name, key, id(value), content))
    found += [(name, id(f)) for name, f in ALL_ATTENTION_FUNCTIONS.items()]
    found += [
        (name, p.data_ptr(), p._version, p.requires_grad, p.dtype) for name, p in model.named_parameters()
    ]
    settings = (getattr(model, name, None) for name in ("config", "generation_config"))
    return [*found, *(each and each.to_dict() for each in settings)]


class PlantedError(Exception):
    pass


def fault(*_: Any, **__: Any) -> Any:
    raise PlantedError


@pytest.mark.parametrize("method", ["zoo", "visionzip", "fastv(positions=compact)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_what_it_was(family: str, method: str, load: Load) -> None:
    """After use, after an exception in the block, in the encoder, in the selection and while decoding."""
    loaded = load(family)
    model, inputs = loaded.model, loaded.inputs(0, 2)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = trace(model)
    ratio = ratio_for("fastv" if "fastv" in method else method)
    with vlmbench.pruning(model, method, ratio=ratio):
        assert trace(model) != before
        loaded.generate(inputs)
    assert trace(model) == before
    with pytest.raises(PlantedError), vlmbench.pruning(model, method, ratio=ratio):
        fault()
    assert trace(model) == before
    with pytest.raises(PlantedError), vlmbench.pruning(model, method, ratio=ratio):
        loaded.generate(inputs, logits_processor=LogitsProcessorList([fault]))
    assert trace(model) == before
    tower = next(module for name, module in model.base_model.named_modules() if name.startswith("vis"))
    hook = tower.register_forward_hook(fault)
    planted = trace(model)
    with pytest.raises(PlantedError), vlmbench.pruning(model, method, ratio=ratio):
        loaded.generate(inputs)
    assert trace(model) == planted
    hook.remove()
    after = model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


def test_a_block_goes_on_after_an_error(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    with vlmbench.pruning(loaded.model, "zoo", ratio=0.75) as pruned:
        expected = loaded.generate(inputs)
        last = pruned.last
        with pytest.raises(PlantedError):
            loaded.generate(inputs, logits_processor=LogitsProcessorList([fault]))
        assert pruned.last is last
        with pytest.raises(UsageError, match="call generate"):
            loaded.model(**inputs)
        assert torch.equal(loaded.generate(inputs), expected)
        broken = {**inputs, "pixel_values": inputs["pixel_values"] * torch.nan}
        with pytest.raises(ItemError):
            loaded.generate(broken)


def test_somebody_elses_generate_comes_back(load: Load) -> None:
    loaded = load("llava")
    calls: list[str] = []
    original = loaded.model.generate

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append("theirs")
        return original(*args, **kwargs)

    loaded.model.generate = theirs
    try:
        with vlmbench.pruning(loaded.model, "zoo", ratio=0.75) as pruned:
            loaded.model.generate(**loaded.inputs(0), max_new_tokens=1)
        assert pruned.last is not None
        assert loaded.model.generate is theirs
        assert calls == ["theirs"]
    finally:
        del loaded.model.generate


def test_two_models_two_blocks(load: Load) -> None:
    one, two = load("llava"), load("qwen2_vl")
    with (
        vlmbench.pruning(one.model, "zoo", ratio=0.75) as first,
        vlmbench.pruning(two.model, "fastv", ratio=0.3) as second,
    ):
        one.generate(one.inputs(0))
        two.generate(two.inputs(0))
    assert first.last is not None
    assert second.last is not None
    assert (first.last.before, second.last.before) == ((36,), (16,))


# ----------------------------------------------------------------------------------------------- refused


def assert_refused(match: str, model: Any, *args: Any, **kwargs: Any) -> None:
    before = trace(model) if isinstance(model, torch.nn.Module) else None
    with pytest.raises(UsageError, match=match) as caught, vlmbench.pruning(model, *args, **kwargs):
        pass
    assert "\n" not in str(caught.value)
    assert before is None or trace(model) == before


def test_bad_arguments_in_one_line(load: Load) -> None:
    model = load("llava").model
    assert_refused("unknown pruner 'zo': did you mean 'zoo'", model, "zo", ratio=0.5)
    assert_refused(r"ratio must be in \[0, 1\): got 1.2", model, "zoo", ratio=1.2)
    assert_refused(r"ratio must be in \[0, 1\): got 1", model, "zoo@1")
    assert_refused(r"ratio must be in \[0, 1\): got 1.5", model, Random(ratio=1.5))
    assert_refused("keep must be in", model, "zoo", keep=-1)
    assert_refused("keep must be in", model, Random(keep=-1))
    assert_refused("give a budget", model, "zoo")
    assert_refused("give a budget", model, "zoo", keep=0)
    assert_refused("same budget", model, "zoo", ratio=0.5, keep=8)
    assert_refused("same budget", model, "zoo@0.5", keep=8)
    assert_refused("ratio is given twice", model, "zoo@0.5", ratio=0.5)
    assert_refused("m is given twice", model, "zoo(m=8)", ratio=0.5, m=16)
    assert_refused("no parameter 'mm'", model, "zoo", ratio=0.5, mm=8)
    assert_refused(
        "estimator='exakt' is unknown: did you mean 'exact'", model, "zoo", ratio=0.5, estimator="exakt"
    )
    assert_refused("no parameter 'ratio'", model, "blind", ratio=0.5)
    assert_refused("where it is made", model, Random(ratio=0.5), ratio=0.5)
    assert_refused("newline must be one of", model, "zoo", ratio=0.5, newline="some")
    assert_refused("downsample .* use pool", model, "downsample", ratio=0.5)
    assert_refused("swapped .* use blind", model, "swapped")
    assert_refused("Swapped .* use blind", model, get("swapped")())
    assert_refused("got Adapter; pass its .model", load("llava").adapter, "zoo", ratio=0.5)
    assert_refused("got Linear$", torch.nn.Linear(1, 1), "zoo", ratio=0.5)
    assert_refused("got LlamaModel$", model.base_model.get_decoder(), "zoo", ratio=0.5)


def test_text_only_models_are_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
    )
    assert_refused("LlamaForCausalLM takes no encoded images", LlamaForCausalLM(config), "zoo", ratio=0.5)


def test_nested_blocks_are_refused(load: Load) -> None:
    loaded = load("llava")
    with vlmbench.pruning(loaded.model, "zoo", ratio=0.75) as outer:
        inside = trace(loaded.model)
        assert_refused("leave that block first", loaded.model, "random", ratio=0.5)
        assert trace(loaded.model) == inside
        loaded.generate(loaded.inputs(0))
        assert outer.last is not None
        assert outer.last.after == (9,)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_would_not_be_pruned_is_refused(family: str, load: Load) -> None:
    loaded = load(family)
    inputs = loaded.inputs(0)
    embeds = torch.zeros(1, 3, loaded.model.get_input_embeddings().weight.shape[1])
    for method in ("zoo", "fastv"):
        with vlmbench.pruning(loaded.model, method, ratio=0.3):
            with pytest.raises(UsageError, match=r"call generate.*pixel_values"):
                loaded.model(**inputs)
            if family == "llava":  # others want them by name
                with pytest.raises(UsageError, match=r"call generate.*pixel_values"):
                    loaded.model(inputs["input_ids"], inputs["pixel_values"])
            with pytest.raises(UsageError, match="inputs_embeds"):
                loaded.model(inputs_embeds=embeds)
            with pytest.raises(UsageError, match="inputs_embeds"):
                loaded.generate({"inputs_embeds": embeds})
            with pytest.raises(UsageError, match="videos"):
                loaded.generate({**inputs, "pixel_values_videos": inputs["pixel_values"]})
            with pytest.raises(UsageError, match="pixel_values_images cannot be pruned"):
                loaded.generate({**inputs, "pixel_values_images": inputs["pixel_values"]})
            with pytest.raises(UsageError, match="pass input_ids"):
                loaded.generate({"pixel_values": inputs["pixel_values"]})
            with pytest.raises(UsageError, match="no image token"):
                loaded.generate({**inputs, "input_ids": inputs["input_ids"][:, -3:], "attention_mask": None})


@pytest.mark.parametrize("method", ["zoo", "fastv"])
@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("num_beams=2: use num_beams=1", {"num_beams": 2}),
        ("num_return_sequences=2", {"num_return_sequences": 2, "do_sample": True}),
        ("static cache", {"cache_implementation": "static"}),
        ("prefill_chunk_size", {"prefill_chunk_size": 8}),
        ("labels", {"labels": torch.zeros(1, 1)}),
        ("right padding", {"attention_mask": None}),
    ],
)
def test_generate_options_that_cannot_be_served(
    method: str, match: str, options: dict[str, Any], load: Load
) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    if "attention_mask" in options:
        options = {"attention_mask": inputs["attention_mask"].clone()}
        options["attention_mask"][:, -1] = 0
    with (
        vlmbench.pruning(loaded.model, method, ratio=0.3) as pruned,
        pytest.raises(UsageError, match=match) as caught,
    ):
        loaded.generate({**inputs, **options})
    assert "\n" not in str(caught.value)
    assert pruned.last is None


@pytest.mark.parametrize("method", ["zoo", "fastv"])
def test_beams_of_the_models_own_config(method: str, load: Load) -> None:
    """Where a config of the call leaves them open, `generate` takes them from the model's."""
    loaded = load("llava")
    loaded.model.generation_config.num_beams = 2
    try:
        with (
            vlmbench.pruning(loaded.model, method, ratio=0.3),
            pytest.raises(UsageError, match="num_beams=1"),
        ):
            loaded.generate(loaded.inputs(0), generation_config=GenerationConfig(max_new_tokens=2))
    finally:
        loaded.model.generation_config.num_beams = None


def test_budgets_that_an_image_cannot_meet(load: Load) -> None:
    loaded = load("llava")
    with vlmbench.pruning(loaded.model, "zoo", keep=37) as pruned:
        with pytest.raises(NotApplicableError, match="keep=37 exceeds the image's 36 visual tokens"):
            loaded.generate(loaded.inputs(0))
        assert pruned.last is None
    with (
        vlmbench.pruning(loaded.model, "fastv", ratio=0.9),
        pytest.raises(NotApplicableError, match="cannot keep"),
    ):
        loaded.generate(loaded.inputs(0))


def test_a_prompt_of_nothing_but_images(load: Load) -> None:
    loaded = load("llava")
    inputs = loaded.inputs(0)
    places = inputs["input_ids"][0] == loaded.adapter.image_token_id
    bare = {**inputs, "input_ids": inputs["input_ids"][:, places]}
    bare["attention_mask"] = torch.ones_like(bare["input_ids"])
    with vlmbench.pruning(loaded.model, "zoo", ratio=0.75):
        assert loaded.generate(bare).shape[1] > bare["input_ids"].shape[1]
    with vlmbench.pruning(loaded.model, "blind"), pytest.raises(UsageError, match="without any token"):
        loaded.generate(bare)
