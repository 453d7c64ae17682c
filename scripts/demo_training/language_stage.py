"""Stages A and B: the language model learns to answer, on cached features, then with the vision tower."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from demo_training.checkpoints import Checkpoint
from demo_training.data import Views
from demo_training.export import BOS, BREAK, EOS
from demo_training.muon import Optimisers, trapezoid
from demo_training.packing import KIND_WEIGHTS, Packed, Questions, pack, packed_language_model, question_mask
from demo_training.parallel import rank_and_world, same_start, wait
from demo_training.pretext import PretextHeads, own_positions, patch_truth
from demo_training.views import SIDE
from vlmbench.demo.scenes import make_scene


@dataclass(frozen=True)
class Settings:
    """One language stage. Steps count updates; learning rates are for AdamW and Muon."""

    name: str
    steps: int
    batch: int
    adam: float
    muon: float
    joint: bool
    """Train the vision tower too, at a fifth of the rate, with the pretext loss x .3."""
    easy: float
    """Share of the steps that only see scenes of up to three objects."""
    two_images: float = 0.42
    """Share of the steps, after the easy ones, that append a second image: the whole again or a crop."""
    grounding: float = 0.7
    position: float = 0.3


class LanguageHeads(nn.Module):
    """Thrown away after training. `noun` reads an object's centre at its noun in the middle of the language
    model (without it relations stay at chance); `patch` keeps positions alive behind the projector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noun = nn.Linear(width, 2)
        self.patch = nn.Linear(width, 4)


def read_packed(
    model: LlavaForConditionalGeneration, projected: list[Tensor], packed: Packed
) -> tuple[Tensor, Tensor]:
    """Run the language model. projected: one [B, 144, text width] per image.

    Returns the question tokens' states [B, S, text width], last layer and after the middle layer.
    """
    body = model.model
    embed = body.get_input_embeddings()
    batch = len(packed.ids)
    device = packed.ids.device
    break_, bos = (embed(torch.full((batch, 1), i, device=device)) for i in (BREAK, BOS))
    prefix = torch.cat([bos, *(part for p in projected for part in (p, break_))], 1)
    start = prefix.shape[1]
    with packed_language_model(body.language_model):
        states = body.language_model(
            inputs_embeds=torch.cat([prefix, embed(packed.ids)], 1),
            attention_mask=question_mask(packed.segment, start, prefix.dtype),
            position_ids=torch.cat(
                [torch.arange(start, device=device).expand(batch, -1), start + packed.offset], 1
            ),
            use_cache=False,
            output_hidden_states=True,
        )
    middle = states.hidden_states[len(body.language_model.layers) // 2]
    return states.last_hidden_state[:, start:], middle[:, start:]


def answer_loss(
    model: LlavaForConditionalGeneration, heads: LanguageHeads, features: list[Tensor], truth: Tensor,
    packed: Packed, settings: Settings,
) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """features: one [B, 144, vision width] per image. Returns loss, correct [N], error at nouns in pixels."""
    projected = [model.model.multi_modal_projector(f) for f in features]
    final, middle = read_packed(model, projected, packed)
    rows, columns = packed.answer_at.T
    logits = model.lm_head(final[rows, columns]).float()
    stop = model.lm_head(final[rows[::4], columns[::4] + 1]).float()
    loss = F.cross_entropy(logits, packed.answer)
    loss = loss + 0.1 * F.cross_entropy(stop, torch.full_like(rows[::4], EOS))
    at_nouns = heads.noun(middle[packed.noun_at[:, 0], packed.noun_at[:, 1]].float())
    loss = loss + settings.grounding * 4 * F.smooth_l1_loss(at_nouns, packed.noun_centre, beta=0.05)
    loss = loss + settings.position * _position_loss(heads, projected[0], truth)
    error = (at_nouns - packed.noun_centre).abs().mean().item() * SIDE
    return loss, logits.detach().argmax(-1) == packed.answer, error


def _position_loss(heads: LanguageHeads, projected: Tensor, objects: Tensor) -> Tensor:
    truth = patch_truth(objects, objects.new_zeros(len(objects), 2, SIDE // 2, SIDE // 2))
    own, centre = heads.patch(projected.float()).split(2, -1)
    loss = F.smooth_l1_loss(own, own_positions(own.device).expand_as(own), beta=0.05)
    return loss + 4 * F.smooth_l1_loss(centre[truth.on], truth.centre[truth.on], beta=0.05)


@torch.no_grad()
def cache_features(
    model: LlavaForConditionalGeneration, views: Views, masters: int, device: torch.device
) -> Tensor:
    """Vision features of both views of this process's masters, fp16 [masters / world, 2, 144, width]."""
    vision = model.model.vision_tower.eval()
    rank, world = rank_and_world()
    mine = np.arange(rank, masters // world * world, world)
    cache = torch.empty(len(mine), 2, 144, vision.config.hidden_size, dtype=torch.float16, device=device)
    for start in range(0, len(mine), 32):
        index = mine[start : start + 32]
        for view in (0, 1):
            pixels = views.batch(index, np.full(len(index), view))[0].to(device)
            cache[start : start + 32, view] = vision(pixels).last_hidden_state[:, 1:].half()
    return cache


def run(
    model: LlavaForConditionalGeneration, questions: Questions, views: Views, cache: Tensor | None,
    pretext: PretextHeads, out: Path, settings: Settings, seed: int, device: torch.device, resume: bool,
    on_checkpoint: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Train in place. `cache`: features by `cache_features`, needed unless the stage is joint."""
    body = model.model
    heads = LanguageHeads(model.config.text_config.hidden_size).to(device)
    body.vision_tower.requires_grad_(settings.joint)
    speaking = [body.language_model.layers, body.multi_modal_projector]
    optimisers = Optimisers(
        speaking, [body.language_model, body.multi_modal_projector, model.lm_head, heads],
        settings.adam, settings.muon,
    )  # fmt: skip
    seeing = None
    if settings.joint:
        seeing = Optimisers(
            body.vision_tower.encoder, [body.vision_tower, pretext], settings.adam / 5, settings.muon / 5
        )
    model.train()
    modules = {"model": model, "heads": heads, "pretext": pretext}
    trained = [optimisers] if seeing is None else [optimisers, seeing]
    checkpoint = Checkpoint(out / f"{settings.name}.safetensors", modules, *trained)
    step = checkpoint.load() if resume else 0
    if step == 0 and settings.joint:
        # The heads of the stage before fit the same features: start from them.
        Checkpoint(out / "A.safetensors", {"heads": heads}).load()
    same_start([model, heads, pretext])
    rank, world = rank_and_world()
    count = len(views) if cache is None else len(cache) * world
    objects = np.concatenate([o[:, 0, :, 2] for o in views.objects])[:count]
    # Each process keeps to its own masters, so that each caches only those.
    mine = np.arange(rank, count, world)
    easy = mine[(objects[mine] > 0).sum(-1) <= 3]
    clock, recent = time.monotonic(), dict[str, float]()
    while step < settings.steps:
        shared, random = (np.random.RandomState((seed, 1 + settings.joint, step, r)) for r in (world, rank))
        pool = easy if step < settings.easy * settings.steps else mine
        masters = random.choice(pool, settings.batch // world)
        second = None
        if step >= settings.easy * settings.steps and shared.random_sample() < settings.two_images:
            second = int(shared.randint(10) > 2)
        packed = pack([questions.draw(make_scene(int(m)), random) for m in masters]).to(device)
        shown = [np.zeros_like(masters)] + ([] if second is None else [np.full_like(masters, second)])
        extra = torch.zeros((), device=device)
        if settings.joint or cache is None:
            features = []
            for view in shown:
                pixels, truth, masks = (t.to(device) for t in views.batch(masters, view))
                states = body.vision_tower(pixels, output_hidden_states=True).hidden_states
                extra = extra + 0.3 / len(shown) * pretext(states, patch_truth(truth, masks))[0]
                features.append(states[-1][:, 1:])
        else:
            index = torch.from_numpy(masters // world).to(device)
            features = [cache[index, int(view[0])].float() for view in shown]
        whole = views.objects_of(masters).to(device)
        loss, correct, error = answer_loss(model, heads, features, whole, packed, settings)
        (loss + extra).backward()
        factor = trapezoid(step, settings.steps)
        optimisers.step(factor)
        if seeing is not None:
            seeing.step(factor)
        step += 1
        _remember(recent, loss.item(), correct, packed.kind, error, second is not None)
        if step % 100 == 0 and rank == 0:
            pace = (time.monotonic() - clock) / 100
            line = " ".join(f"{name} {value:.3f}" for name, value in recent.items())
            where = f"{time.strftime('%H:%M:%S')} {settings.name} {step}/{settings.steps}"
            print(f"{where} {pace:.3f} s/step {line}", flush=True)
            clock = time.monotonic()
        if step % 500 == 0 or step == settings.steps:
            checkpoint.save(step)
            if on_checkpoint is not None and rank == 0:
                on_checkpoint(step)
    wait()


def _remember(
    recent: dict[str, float], loss: float, correct: Tensor, kind: Tensor, error: float, two: bool
) -> None:
    """Running means (rate .02) of loss, accuracy per kind and with two images, and grounding error."""
    values = {"loss": loss, "pixels": error, "two" if two else "one": correct.float().mean().item()}
    for i, name in enumerate(KIND_WEIGHTS):
        values[name] = correct[kind == i].float().mean().item()
    for name, value in sorted(values.items()):
        recent[name] = recent.get(name, value) * 0.98 + value * 0.02
