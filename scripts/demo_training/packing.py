"""Many questions about one image in one sequence.

The image prefix is the costly part of a short question, so all questions of an image share it: each one sees
the prefix and itself, never another question (block mask), and starts at the position it would have alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from demo_training.export import ANSWER, PAD, UNK, WORD
from vlmbench.demo.phrasings import CANONICAL, EXTRA_WORDS, FRAMES, TEMPLATES, held_out, language
from vlmbench.demo.questions import candidates_of, draw, spell
from vlmbench.demo.scenes import SIZE, Scene

_MARK = "\u2063"  # invisible separator: marks the end of a noun phrase while tokenising
_WORD = re.compile(WORD)
KIND_WEIGHTS = {
    "colour": 2, "shape": 2, "existence": 3, "count": 4, "relation": 4, "position": 3, "digit": 3,
}  # fmt: skip
_PLAN = [kind for kind, weight in KIND_WEIGHTS.items() for _ in range(weight)]
_ENGLISH = {
    k: [n for n in t if language(n) == "en" and not held_out(n) and n != CANONICAL]
    for k, t in TEMPLATES.items()
}
_FOREIGN = {k: [n for n in t if language(n) != "en" and not held_out(n)] for k, t in TEMPLATES.items()}


@dataclass(frozen=True)
class Segment:
    """One tokenised question with its answer."""

    kind: str
    tokens: list[int]
    """question, <answer>, the answer's word"""
    nouns: list[tuple[int, float, float]]
    """Index of a noun phrase's last token and the named object's centre in [0, 1]."""


@dataclass(frozen=True)
class Packed:
    """A batch of packed questions; S is the longest, N the number of answers, M of noun phrases.

    ids, segment, offset: [B, S] token, number of its question (0: padding), position within it.
    answer_at: [N, 2] (row, column) of every <answer>; answer: [N]; kind: [N] index into KIND_WEIGHTS.
    noun_at: [M, 2]; noun_centre: [M, 2].
    """

    ids: Tensor
    segment: Tensor
    offset: Tensor
    answer_at: Tensor
    answer: Tensor
    kind: Tensor
    noun_at: Tensor
    noun_centre: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


class Questions:
    """Draws training questions: phrasing, language, frame and harmless noise at random."""

    def __init__(self, vocabulary: dict[str, int], plain: float = 0.45) -> None:
        self.vocabulary = vocabulary
        self.extra = [vocabulary[word] for word in EXTRA_WORDS]
        self.plain = plain

    def draw(self, scene: Scene, random: np.random.RandomState) -> list[Segment]:
        """About twenty segments, one per entry of the plan, in random order."""
        found = {kind: candidates_of(kind, scene) for kind in KIND_WEIGHTS}
        order = random.permutation(len(_PLAN))
        return [self._segment(scene, _PLAN[i], found[_PLAN[i]], random) for i in order if found[_PLAN[i]]]

    def _segment(
        self,
        scene: Scene,
        kind: str,
        candidates: list,
        random: np.random.RandomState,  # type: ignore[type-arg]
    ) -> Segment:
        chosen = candidates[draw(kind, candidates, random)]
        name, frame = self._wording(kind, random)
        text = frame.format(q=spell(kind, name, chosen.mentions, _MARK))
        if random.randint(8) == 0:
            text = text.replace(" ?", "")
        if random.randint(4) == 0:
            text = text.replace("what is", "what's").replace("where is", "where's")
        # Every template names {a} before {b}, as the mentions are ordered.
        targets = [m.target for m in chosen.mentions if m.target is not None]
        tokens, nouns = [], []
        for word in _WORD.findall(text.lower()):
            if word == _MARK:
                x, y = scene.objects[targets[len(nouns)]].centre
                nouns.append((len(tokens) - 1, x / SIZE, y / SIZE))
            else:
                tokens.append(self.vocabulary.get(word, UNK))
        if random.randint(14) == 0:
            tokens.append(UNK if random.randint(2) else self.extra[random.randint(len(self.extra))])
        return Segment(kind, [*tokens, ANSWER, self.vocabulary[chosen.answer]], nouns)

    def _wording(self, kind: str, random: np.random.RandomState) -> tuple[str, str]:
        roll = random.random_sample()
        if roll < 0.36:
            options = _FOREIGN[kind]
        elif roll < 0.36 + 0.3:
            options = [CANONICAL]
        else:
            options = _ENGLISH[kind]
        name = options[random.randint(len(options))]
        framed = random.random_sample() > (self.plain if language(name) == "en" else 0.9)
        return name, FRAMES[random.randint(len(FRAMES))] if framed else "{q}"


def pack(rows: list[list[Segment]]) -> Packed:
    """Concatenate each row's segments, padded on the right."""
    length = max(sum(len(s.tokens) for s in row) for row in rows)
    shape = (len(rows), length)
    ids, segment, offset = np.full(shape, PAD), np.zeros(shape, int), np.zeros(shape, int)
    answer_at, answers, kinds, noun_at, centres = [], [], [], [], []
    names = list(KIND_WEIGHTS)
    for b, row in enumerate(rows):
        at = 0
        for number, s in enumerate(row, start=1):
            end = at + len(s.tokens)
            ids[b, at:end], segment[b, at:end], offset[b, at:end] = s.tokens, number, np.arange(end - at)
            answer_at.append((b, end - 2))
            answers.append(s.tokens[-1])
            kinds.append(names.index(s.kind))
            for index, x, y in s.nouns:
                noun_at.append((b, at + index))
                centres.append((x, y))
            at = end
    return Packed(
        torch.tensor(ids), torch.tensor(segment), torch.tensor(offset), torch.tensor(answer_at),
        torch.tensor(answers), torch.tensor(kinds), torch.tensor(noun_at).reshape(-1, 2),
        torch.tensor(centres, dtype=torch.float32).reshape(-1, 2),
    )  # fmt: skip


def question_mask(segment: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, S, P + S] of the question tokens: the prefix, and themselves causally."""
    b, s = segment.shape
    place = torch.arange(s, device=segment.device)
    own = (segment[:, :, None] == segment[:, None, :]) & (place[:, None] >= place[None, :])
    mask = torch.zeros(b, 1, s, prefix + s, dtype=dtype, device=segment.device)
    mask[..., prefix:].masked_fill_(~own[:, None], torch.finfo(dtype).min)
    return mask


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention of the packed sequence: the prefix causally without a mask, the questions with theirs.

    Saves the larger part of a full mask, which no kernel skips.
    """
    prefix = key.shape[2] - attention_mask.shape[2]
    q, k, v = (t[:, :, :prefix] for t in (query, key, value))
    first = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    rest = F.scaled_dot_product_attention(query[:, :, prefix:], key, value, attention_mask, scale=scaling)
    return torch.cat([first, rest], 2).transpose(1, 2), None


@contextmanager
def packed_language_model(language_model: nn.Module) -> Iterator[None]:
    """Let a Llama body take `question_mask` as its attention mask; restored on exit."""
    AttentionInterface.register("demo_packed", packed_attention)
    config = language_model.config
    before = config._attn_implementation
    config._attn_implementation = "demo_packed"
    try:
        yield
    finally:
        config._attn_implementation = before
