"""How much each patch has to do with the question, by the text tower of the vision tower's own CLIP.

For CDPruner (https://arxiv.org/abs/2506.10967). Models with a CLIP vision tower carry neither its text tower
nor its projections into the joint space, so they come from a checkpoint of their own, whose cost is the
method's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmbench.errors import NotApplicableError, UsageError
from vlmbench.models.loading import folder_revision
from vlmbench.models.processors import first_line


@dataclass(frozen=True, eq=False)
class ClipText:
    """What is needed of a CLIP checkpoint, in float32; the rest of its vision tower is not kept."""

    name: str
    revision: str
    """The hub's commit; of a folder the sha256 of its files."""
    width: int
    """Of its vision tower."""
    length: int
    """Tokens that the text tower reads at once (77)."""
    tokenizer: Any
    text_tower: Any
    text_projection: Any
    post_layernorm: Any
    visual_projection: Any

    def embed(self, question: str) -> Tensor:
        """[M, D] unit vectors: the question in the joint space, one per `length` tokens of it."""
        encoded = self.tokenizer(question, return_tensors="pt")
        padding = -encoded["input_ids"].shape[1] % self.length
        device = self.text_projection.weight.device
        parts = {
            name: torch.nn.functional.pad(encoded[name], (0, padding)).view(-1, self.length).to(device)
            for name in ("input_ids", "attention_mask")
        }
        pooled = self.text_tower(**parts, return_dict=True).pooler_output
        return torch.nn.functional.normalize(self.text_projection(pooled), dim=-1)

    def project(self, hidden: Tensor) -> Tensor:
        """[N, c] patches -> [N, D] unit vectors in the joint space."""
        weight = self.visual_projection.weight
        projected = self.visual_projection(self.post_layernorm(hidden.to(weight)))
        return torch.nn.functional.normalize(projected, dim=-1)


def load_clip(name: str, device: torch.device | str = "cpu") -> ClipText:
    """The checkpoint in the folder or of the hub id `name`, from safetensors only; no code of it is run.

    Raises UsageError where it cannot be loaded or is no CLIP.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(name)
    if not folder.is_dir() and (folder.is_absolute() or name.startswith(".")):
        raise UsageError(f"clip={name}: no such folder")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "clip":
            raise UsageError(f"clip={name}: a checkpoint of CLIP is needed: this is {config.model_type}")
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"clip={name}: cannot be loaded: {first_line(error)}") from error
    model = model.eval().requires_grad_(False)
    return ClipText(
        name=name,
        revision=folder_revision(folder) if folder.is_dir() else str(config._commit_hash),
        width=int(config.vision_config.hidden_size),
        length=int(config.text_config.max_position_embeddings),
        tokenizer=tokenizer,
        text_tower=model.text_model.to(device),
        text_projection=model.text_projection.to(device),
        post_layernorm=model.vision_model.post_layernorm.to(device),
        visual_projection=model.visual_projection.to(device),
    )


_PUBLISHED = {
    (1024, 14, 336): "openai/clip-vit-large-patch14-336",
    (1024, 14, 224): "openai/clip-vit-large-patch14",
    (768, 16, 224): "openai/clip-vit-base-patch16",
    (768, 32, 224): "openai/clip-vit-base-patch32",
}
"""(width, patch, pixels) of a vision tower -> the checkpoint of OpenAI that has it."""


def check_tower(model: Any, clip: str = "") -> None:
    """Raises NotApplicableError where the model's vision tower is not CLIP's, so that no checkpoint helps,
    and where no checkpoint is named; the message says which one fits, if one is known."""
    vision: Any = getattr(model.config, "vision_config", None)
    kind = str(getattr(vision, "model_type", "unknown"))
    if kind != "clip_vision_model":
        raise NotApplicableError(
            f"cdpruner needs a vision tower of CLIP, this model's is {kind}; use cdpruner-llm"
        )
    if clip:
        return
    width = int(vision.hidden_size)
    known = _PUBLISHED.get((width, getattr(vision, "patch_size", 0), getattr(vision, "image_size", 0)))
    which = (
        f"name the checkpoint that its vision tower is from, as --method 'cdpruner(clip={known})',"
        if known
        else f"no published CLIP is known for a vision tower {width} wide: name its own, cdpruner(clip=..),"
    )
    raise NotApplicableError(
        f"this model lacks CLIP's text tower, which cdpruner needs; {which} or use cdpruner-llm"
    )


@torch.inference_mode()
def clip_relevance(model: Any, clip: ClipText, hidden: Tensor, question: str) -> Tensor:
    """[N] float32: cosine of each patch to the question, averaged over the question's parts.

    hidden [N, c]: patches of the vision tower's layer that the projector reads, class token left out, as the
    authors take them: layer -2, which the checkpoint's post_layernorm was not trained on. Questions longer
    than the text tower reads are cut into parts and padded with id 0.

    Raises NotApplicableError where the model's vision tower is not of the checkpoint's kind.
    """
    check_tower(model, clip.name)
    width = int(model.config.vision_config.hidden_size)
    if width != clip.width:
        raise NotApplicableError(
            f"clip={clip.name} is {clip.width} wide and the model's vision tower {width}: name the checkpoint"
            " that the tower is from, or use cdpruner-llm"
        )
    return (clip.project(hidden) @ clip.embed(question).T).mean(1)
