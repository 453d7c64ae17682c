"""A model that is given text alone and writes text: it rewrites questions, and checks rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from vlmbench.errors import UsageError
from vlmbench.models.aliases import resolve
from vlmbench.models.loading import (
    check_weights,
    choose_device,
    choose_dtype,
    folder_revision,
    need_tokenizer,
    pin,
    shown_name,
)
from vlmbench.models.processors import first_line


class TextModel:
    """A causal language model, or a vision-language model that is shown no image. Weights come from
    safetensors only, code never."""

    def __init__(self, name: str, *, dtype: str = "auto", device: str = "auto") -> None:
        """Raises UsageError for everything that the user can mend."""
        placed = choose_device(device)
        source = resolve(name)
        shown = shown_name(name, source)
        pinned = pin(source, shown)
        need_tokenizer(shown, Path(source))
        loader = _loader(source, shown, pinned)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **pinned)
        except Exception as error:
            raise UsageError(f"{shown}: the tokenizer cannot be loaded: {first_line(error)}") from error
        try:
            model, info = loader.from_pretrained(
                source,
                dtype=choose_dtype(dtype, placed),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **pinned,
            )
        except Exception as error:
            raise UsageError(f"{shown}: the weights cannot be loaded: {first_line(error)}") from error
        check_weights(shown, info)
        self.model: Any = model.to(placed).eval()
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.id = shown
        self.revision = pinned.get("revision") or folder_revision(Path(source))

    def about(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {
            "model": self.id,
            "revision": self.revision,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "chat_template": bool(self.tokenizer.chat_template),
        }

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """An answer to each prompt, greedy, as one batch. Raises UsageError where memory runs out."""
        templated = bool(self.tokenizer.chat_template)
        texts = [self._as_chat(prompt) for prompt in prompts] if templated else [f"{p}\n" for p in prompts]
        inputs = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            add_special_tokens=not templated,  # a template writes its own
            return_token_type_ids=False,
        ).to(self.model.device)
        # a checkpoint's own sampling settings would only cause warnings beside greedy decoding
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        try:
            written = self.model.generate(
                **inputs,
                **greedy,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        except torch.OutOfMemoryError:
            raise UsageError(
                f"{self.id}: memory ran out with {len(prompts)} prompts at a time; take a smaller "
                "--batch-size"
            ) from None
        new = written[:, inputs["input_ids"].shape[1] :]
        return [str(text).strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _as_chat(self, prompt: str) -> str:
        said: Any = None
        for content in (prompt, [{"type": "text", "text": prompt}]):  # the second is how VLMs want it
            try:
                said = self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}],
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,
                )
            except Exception as error:
                problem = error
                continue
            if prompt.strip() in said:
                return str(said)
        reason = first_line(problem) if said is None else "it leaves the prompt out"
        raise UsageError(f"{self.id}: its chat template takes no text alone: {reason}")


def _loader(source: str, shown: str, pinned: dict[str, str]) -> Any:
    """The class of transformers that loads this checkpoint for text."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned)
    except Exception as error:
        raise UsageError(f"{shown}: config.json cannot be used: {first_line(error)}") from error
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    raise UsageError(
        f"{shown}: model_type {config.model_type!r} writes no text: AutoModelForCausalLM does not load it"
    )
