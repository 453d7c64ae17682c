"""The tokens that methods read: the question's own, found in the prompt of every family by brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from runs import picture
from tiny_models import FAMILIES
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmbench.items import Item
from vlmbench.models.adapter import Adapter
from vlmbench.models.before import Told
from vlmbench.models.features import VisualInput
from vlmbench.models.loading import load_model
from vlmbench.models.words import behind_images, question_ids
from vlmbench.prune.base import Context, Pruner
from vlmbench.prune.mmtok import MMTok

SHORT = Item("i", "What colour is the cat?", (), ("red",), "c", instruction="Answer with a single word.")
ITEMS = (
    SHORT,
    replace(SHORT, question="  Où est l'étoile 星 ?\nLeft or right ", instruction_first=True),
    replace(SHORT, question="Is it red?", frame="Question: {}\nAnswer:", options=("Is it red?", "no")),
    replace(SHORT, question="user", instruction=""),
    replace(SHORT, question="image"),
)


def of_question(adapter: Adapter, ids: list[int], question: str) -> list[int]:
    """The shortest, first run of tokens behind the images whose text holds the question."""
    start = len(ids) - ids[::-1].index(adapter.image_token_id)
    runs = [(b - a, a) for a in range(start, len(ids)) for b in range(a + 1, len(ids) + 1)]
    for length, a in sorted(runs):
        if question.strip() in adapter.tokenizer.decode(ids[a : a + length], skip_special_tokens=True):
            return ids[a : a + length]
    raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Reads(Pruner):
    seen: list[Context]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text"})

    def score(self, ctx: Context) -> torch.Tensor:
        self.seen.append(ctx)
        return torch.zeros(ctx.n)


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_read_the_tokens_of_the_question(family: str, tiny_model: Callable[[str], Path]) -> None:
    adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
    image = Image.new("RGB", (60, 60), "red")
    rows = [adapter.prepare(adapter.render(item.text(), 1), [image], 4) for item in ITEMS]
    pruner = Reads(keep=1, seen=[])
    whole = adapter.encode(rows, pruner.needs).features
    seeds = [(0,) * len(part.images) for part in whole]
    adapter.apply(pruner, rows, whole, seeds, told=[Told(item.question) for item in ITEMS])
    contexts = {id(ctx.text): ctx for ctx in pruner.seen}.values()
    assert len(contexts) == len(ITEMS)
    for row, item, ctx in zip(rows, ITEMS, contexts, strict=True):
        wanted = of_question(adapter, row.sequence["input_ids"][0].tolist(), item.question)
        assert ctx.text is not None
        assert torch.equal(ctx.text, adapter.model.get_input_embeddings()(torch.tensor(wanted)))
        assert ctx.family == adapter.model.config.model_type


@pytest.mark.parametrize(
    ("family", "temperature"), [("qwen2_5_vl", 0.01), ("qwen2_vl", 0.02), ("llava", 0.02)]
)
def test_mmtok_takes_the_temperature_of_the_model_that_it_prunes(
    family: str, temperature: float, tiny_model: Callable[[str], Path]
) -> None:
    adapter = Adapter(load_model(str(tiny_model(family)), device="cpu"))
    question = "What colour is the cat on the left?"
    row = adapter.prepare(adapter.render(question, 1), [picture(2, (336, 336))], 4)
    whole = adapter.encode([row], MMTok().needs).features

    def kept(temperature: float = 0) -> list[int]:
        pruner = MMTok(ratio=0.8, text_temperature=temperature)
        (visual,) = adapter.apply(pruner, [row], whole, [(0,)], told=[Told(question)]).served().visual
        assert isinstance(visual, VisualInput)
        return visual.keep.tolist()

    own = {t: kept(t) for t in (0.01, 0.02)}
    assert own[0.01] != own[0.02]
    assert kept() == own[temperature]


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: a space in front of everything, spaces that belong to the word behind them."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(["USER: What colour is the cat? ASSISTANT:"] * 3, trainer)
    backend.add_special_tokens(["<image>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_words_keep_the_form_that_they_have_in_the_prompt() -> None:
    tokenizer = sentencepiece()

    def read(prompt: str, question: str = "is the cat") -> list[str]:
        ids = question_ids(tokenizer, "<image>", prompt, question)
        return [str(token) for token in tokenizer.convert_ids_to_tokens(list(ids))]

    behind = ["▁is", "▁the", "▁cat?"]
    assert read("What is the cat? <image> colour is the cat? ASSISTANT:") == behind
    assert read("colour is the cat? <image> USER:") == behind
    assert read("<image> USER: What?") == tokenizer.tokenize("is the cat") == ["▁is", "▁the", "▁c", "at"]


def test_a_slow_tokenizer_reads_the_question_alone() -> None:
    fast = sentencepiece()

    class Slow(SimpleNamespace):
        def __call__(self, text: str, add_special_tokens: bool) -> Any:
            return fast(text, add_special_tokens=add_special_tokens)

    read = question_ids(Slow(is_fast=False), "<image>", "<image> What colour is the cat?", " the cat?")
    assert list(read) == fast("the cat?", add_special_tokens=False)["input_ids"]


def test_an_unknown_question_is_all_text_behind_the_last_image() -> None:
    image, valid = torch.tensor([0, 0, 1, 0, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 1, 1, 1, 1]).bool()
    assert behind_images(image, valid).nonzero()[:, 0].tolist() == [5, 6]
    assert behind_images(image[:5], valid[:5]).nonzero()[:, 0].tolist() == [1, 3]
    assert behind_images(image & False, valid).nonzero()[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
