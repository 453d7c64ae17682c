"""One small byte-level vocabulary for all families; each adds its own special tokens after it."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "What colour is the shape in the image? Answer with a single word or phrase.",
    "What is the object on the left of the picture? Answer the question with one word.",
    "How many red circles are there in the image? zero one two three four five",
    "Is there a blue square above the green triangle? Answer yes or no.",
    "Which option is correct? A. yellow B. purple C. white D. black",
    "Answer with the option's letter from the given choices directly.",
    "Where is the orange star? top left, top right, bottom left, bottom right, centre",
    "user assistant system model User Assistant: USER: ASSISTANT: You are a helpful assistant.",
    "yes no true false left right above below red green blue yellow cat dog car tree house",
)
VOCABULARY = 512


@lru_cache(maxsize=1)
def _trained() -> str:
    """The shared vocabulary as JSON; all 256 bytes are in it, so any text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def make_tokenizer(
    special: tuple[str, ...],
    *,
    bos: str | None,
    eos: str,
    pad: str,
    adds_bos: bool,
    named: dict[str, str],
    plain: tuple[str, ...] = (),
) -> PreTrainedTokenizerFast:
    """A fast tokenizer; `named` become attributes such as `tokenizer.image_token`, as in real checkpoints."""
    backend = Tokenizer.from_str(_trained())
    ends = [token for token in (bos, eos, pad) if token]
    backend.add_special_tokens(list(dict.fromkeys([*ends, *special])))
    backend.add_tokens(list(plain))
    if adds_bos and bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
    )
