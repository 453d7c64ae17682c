"""Tokenizer, processor and the saved model folder."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from itertools import product
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from demo_training.architecture import PATCH
from demo_training.views import SIDE
from vlmbench.demo.phrasings import EXTRA_WORDS, FRAMES, TEMPLATES, language, noun_phrase
from vlmbench.demo.questions import CHOICES
from vlmbench.demo.scenes import COLOURS, SHAPES

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<break>", "<answer>")
PAD, BOS, EOS, UNK, IMAGE, BREAK, ANSWER = range(len(SPECIAL))
IDS = {"pad": PAD, "bos": BOS, "eos": EOS, "image": IMAGE}
WORD = r"\w+(?:['-]\w+)*|[^\w\s]"
"""A word with its inner apostrophes and hyphens ("top-left", "l'image"), or one sign."""

# Every image, wherever it stands in the message, is followed by a break, so that two are told apart.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image><break>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Word -> id, special tokens first, the rest sorted: the same on every machine."""
    texts = [*FRAMES, *(choice for choices in CHOICES.values() for choice in choices)]
    for templates in TEMPLATES.values():
        for name, template in templates.items():
            texts.append(template.format(a="", b="", s="", o="", an="", items=""))
            for slot, colour, shape in product(("a", "b", "s", "o", "an"), COLOURS, SHAPES):
                texts.append(noun_phrase(slot, colour, shape, language(name)))
            texts += [noun_phrase("items", c, None, language(name)) for c in COLOURS]
            texts += [noun_phrase("items", None, s, language(name)) for s in SHAPES]
    words = {word for text in texts for word in re.findall(WORD, text.lower())} | set(EXTRA_WORDS)
    words -= {"{", "}"}
    return {word: i for i, word in enumerate((*SPECIAL, *sorted(words)))}


def build_processor() -> LlavaProcessor:
    """Word-level tokenizer, 144 x 144 image processor and chat template as one stock processor."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace("\u2019", "'"), normalizers.Lowercase()]
    )
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>", "<break>", "<answer>"], padding_side="left",
        model_max_length=1024, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, resample=3,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", chat_template=CHAT_TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write the folder that stock AutoProcessor and AutoModelForImageTextToText load; weights in fp16.

    Written beside and renamed, so that nobody ever loads half a model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as partial:
        fresh = Path(partial) / "model"
        halved = LlavaForConditionalGeneration(model.config)
        halved.load_state_dict(model.state_dict())
        halved.generation_config = GenerationConfig(
            bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=4
        )
        halved.to(torch.float16).save_pretrained(fresh)
        _load_as_fp32(fresh / "config.json")
        build_processor().save_pretrained(fresh)
        for path in fresh.iterdir():
            path.chmod(0o644)
        if folder.exists():
            folder.replace(Path(partial) / "old")
        fresh.replace(folder)
        shutil.rmtree(Path(partial) / "old", ignore_errors=True)


def _load_as_fp32(path: Path) -> None:
    # Stored in half the bytes, computed in fp32: "auto" reads the dtype here, and CPUs are slow in fp16.
    config = json.loads(path.read_text())
    for part in (config, config["vision_config"], config["text_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
