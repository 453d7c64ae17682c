"""Held-out accuracy of a saved model folder, through stock AutoModel, AutoProcessor and generate."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlmbench.demo.phrasings import FRAMES
from vlmbench.demo.questions import KINDS, SceneQuestion, ask
from vlmbench.demo.scenes import SPLITS, STRATA, Scene, make_scene, render


@dataclass(frozen=True)
class Shown:
    """One thing asked of the model."""

    images: tuple[Image.Image, ...]
    question: str


@dataclass(frozen=True)
class Score:
    """Share of right answers. error: standard error, clustered by scene."""

    right: float
    n: int
    error: float


@dataclass(frozen=True)
class Case:
    scene: Scene
    master: Image.Image
    other: Image.Image
    """Another scene's master of the same stratum: what a blind model sees."""
    item: SceneQuestion


def cases(scenes: int, split: str) -> list[Case]:
    """One question per kind on each of the first scenes of a split."""
    layouts = [make_scene(seed) for seed in SPLITS[split][:scenes]]
    masters = [render(scene) for scene in layouts]
    step = len(STRATA)  # strata alternate, so this keeps to the same one
    return [
        Case(scene, masters[i], masters[(i + step) % len(masters)], item)
        for i, scene in enumerate(layouts)
        for item in ask(scene, 0)
    ]


def _phrased(name: str) -> Callable[[Case], Shown]:
    return lambda case: Shown((case.master,), case.item.phrasings[name])


def _framed(case: Case) -> Shown:
    frame = FRAMES[case.scene.seed % len(FRAMES)]
    return Shown((case.master,), frame.format(q=case.item.question))


def _zoomed(case: Case) -> Shown:
    """What is asked about, with half as much margin around it, as a second image."""
    if not case.item.boxes:
        return Shown((case.master, case.master), case.item.question)
    left, top, right, bottom = zip(*case.item.boxes, strict=True)
    x0, y0, x1, y1 = min(left), min(top), max(right), max(bottom)
    half = 0.75 * max(x1 - x0, y1 - y0)
    x, y, size = (x0 + x1) / 2, (y0 + y1) / 2, case.scene.size
    rect = (max(0, int(x - half)), max(0, int(y - half)), min(size, int(x + half)), min(size, int(y + half)))
    return Shown((case.master, case.master.crop(rect)), case.item.question)


CONDITIONS: dict[str, Callable[[Case], Shown]] = {
    "plain": lambda case: Shown((case.master,), case.item.question),
    "whole image twice": lambda case: Shown((case.master, case.master), case.item.question),
    "true crop as second image": _zoomed,
    "blind (another item's image)": lambda case: Shown((case.other,), case.item.question),
    "trained phrasing 1": _phrased("trained-1"),
    "trained phrasing 3": _phrased("trained-3"),
    "held-out phrasing 1": _phrased("held-out-1"),
    "held-out phrasing 2": _phrased("held-out-2"),
    "framed (trained frames)": _framed,
    "German, trained": _phrased("de-1"),
    "German, held out": _phrased("de-held-out-1"),
    "French, trained": _phrased("fr-1"),
    "French, held out": _phrased("fr-held-out-1"),
}


@torch.inference_mode()
def answers(folder: Path, shown: Sequence[Shown], device: torch.device, batch: int = 48) -> list[str]:
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    # Batches of one length pad little and never mix image counts.
    order = sorted(range(len(shown)), key=lambda i: (len(shown[i].images), len(shown[i].question.split())))
    found = [""] * len(shown)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        prompts = [
            processor.apply_chat_template(
                [{"role": "user", "content": [*({"type": "image"} for _ in shown[i].images),
                                              {"type": "text", "text": shown[i].question}]}],
                add_generation_prompt=True,
            )
            for i in rows
        ]  # fmt: skip
        inputs = processor(
            text=prompts, images=[list(shown[i].images) for i in rows], padding=True, return_tensors="pt"
        ).to(device)
        out = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        for i, text in zip(rows, processor.batch_decode(out, skip_special_tokens=True), strict=True):
            found[i] = text.strip()
    return found


def _small_digit(case: Case) -> bool:
    """On an object of less than 11 model pixels of radius, where a digit is hard to read without zooming."""
    target = case.item.mentions[0].target
    return case.item.kind == "digit" and target is not None and case.scene.objects[target].radius < 33


def score(all_cases: Sequence[Case], right: Sequence[bool], keep: Callable[[Case], bool]) -> Score:
    """Mean over the kept cases with a standard error clustered by scene."""
    sums: dict[int, list[float]] = {}
    kept = [(case.scene.seed, float(ok)) for case, ok in zip(all_cases, right, strict=True) if keep(case)]
    mean = sum(ok for _, ok in kept) / max(1, len(kept))
    for seed, ok in kept:
        sums.setdefault(seed, []).append(ok - mean)
    variance = sum(sum(residuals) ** 2 for residuals in sums.values()) / max(1, len(kept)) ** 2
    return Score(mean, len(kept), math.sqrt(variance))


def table(
    folder: Path, scenes: int, device: torch.device, split: str = "test", conditions: Sequence[str] = ()
) -> dict[str, dict[str, Score]]:
    """condition -> all, every kind, every stratum -> score"""
    all_cases = cases(scenes, split)
    rows: dict[str, dict[str, Score]] = {}
    for name in conditions or CONDITIONS:
        found = answers(folder, [CONDITIONS[name](case) for case in all_cases], device)
        right = [text == case.item.answer for text, case in zip(found, all_cases, strict=True)]
        rows[name] = {"all": score(all_cases, right, lambda case: True)}
        for kind in KINDS:
            rows[name][kind] = score(all_cases, right, lambda case, kind=kind: case.item.kind == kind)
        rows[name]["small digit"] = score(all_cases, right, _small_digit)
        for stratum in STRATA:
            rows[name][stratum] = score(
                all_cases, right, lambda case, stratum=stratum: case.scene.stratum == stratum
            )
    return rows


def to_markdown(rows: dict[str, dict[str, Score]]) -> str:
    columns = list(next(iter(rows.values())))
    counts = " | ".join(f"{c} (n={s.n})" for c, s in next(iter(rows.values())).items())
    lines = [f"| condition | {counts} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = " | ".join(f"{row[c].right:.3f} ±{row[c].error:.3f}" for c in columns)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def report(
    folder: Path, scenes: int, device: torch.device, out: Path | None, conditions: Sequence[str] = ()
) -> None:
    """Print the table; with `out`, write it as JSON too."""
    start = time.monotonic()
    rows = table(folder, scenes, device, conditions=conditions)
    print(to_markdown(rows))
    print(f"\n{scenes} held-out scenes, {time.monotonic() - start:.0f} s")
    if out is not None:
        plain = {name: {column: asdict(s) for column, s in row.items()} for name, row in rows.items()}
        out.write_text(json.dumps(plain, indent=1) + "\n")
