"""One interface to every vision-language model of transformers: render, prepare, encode, answer.

The generic path serves all families; nothing is kept on the model, and nothing of it is patched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.errors import ContractError, NotApplicableError
from vlmbench.models import decoding, families, features, pruning
from vlmbench.models.before import Subject, Told
from vlmbench.models.clip_text import ClipText, check_tower, clip_relevance, load_clip
from vlmbench.models.decoding import Draw, Generation
from vlmbench.models.features import EncoderOutput, ImageFeatures, VisualInput
from vlmbench.models.inputs import RowInputs, bucket, merge_vision, pad_left
from vlmbench.models.inside import InsideLog, prune_inside, stopped_before
from vlmbench.models.inside_needs import Enough
from vlmbench.models.prefix import Begun, resumed
from vlmbench.models.pruning import Applied, Inside, Visual
from vlmbench.models.reader import Reader
from vlmbench.models.shrink import keep_columns, kept_positions, shrink
from vlmbench.models.words import behind_images
from vlmbench.prune.base import COMPACT
from vlmbench.seeds import digest

if TYPE_CHECKING:
    from vlmbench.prune.base import Pruner
    from vlmbench.prune.projector import Projector


@dataclass(frozen=True)
class Adapter(Reader):
    """A loaded model with its processor. Immutable; safe to prepare rows in another thread."""

    def encode(self, rows: Sequence[RowInputs], needs: frozenset[str] | None = None) -> EncoderOutput:
        """Features of the images of each row: call it once per distinct image, not once per question.

        needs: what pruners want captured (see `prune.base.NEEDS`); None leaves the layout out too.
        """
        interpolates = any(row.interpolates for row in rows)
        if interpolates and not all(row.interpolates for row in rows):
            raise ContractError("pictures of the model's input size and larger ones in one encoding")
        vision = self._to_device(merge_vision([row.vision for row in rows]))
        return features.encode(self.model, vision, [row.visual_tokens for row in rows], needs, interpolates)

    @cached_property
    def projector(self) -> Projector:
        """The projector in float32, with its closed form where one is known; its matrices are kept here."""
        return families.projector(self.model)

    def apply(
        self,
        pruner: Pruner | None,
        rows: Sequence[RowInputs],
        whole: Sequence[ImageFeatures | None],
        seeds: Sequence[tuple[int, ...]] = (),
        newline: str = "counted",
        told: Sequence[Told] = (),
    ) -> Applied:
        """A method on a batch whose images are encoded: `whole[i]` are those of row i, None without any.

        seeds: per row, one for each image; told: per row, for methods that read or know the question. Raises
        UsageError where a checkpoint that the method names cannot be loaded.
        """
        if pruner is None:
            return Applied(tuple(whole))
        projector = self.projector if "projector_in" in pruner.needs else None
        known = told or [Told()] * len(rows)
        try:
            relevances = [
                None if part is None else self._relevance(pruner, part, each.question)
                for part, each in zip(whole, known, strict=True)
            ]
        except NotApplicableError as reason:  # of the model or its checkpoint: true of every row with images
            refused = {row: reason for row, part in enumerate(whole) if part is not None}
            return Applied((None,) * len(whole), pruner.positions, None, refused)
        subjects = [
            None
            if part is None
            else Subject(
                part,
                own,
                self.text(row, each.question) if "text" in pruner.needs else None,
                each.evidence,
                relevance,
            )
            for row, part, own, each, relevance in zip(rows, whole, seeds, known, relevances, strict=True)
        ]
        return pruning.apply(self.model, projector, pruner, subjects, newline)

    def _relevance(self, pruner: Pruner, part: ImageFeatures, question: str) -> tuple[Tensor, ...] | None:
        """Per image [n], by the CLIP checkpoint that the method names; None without a question.

        Raises NotApplicableError where there is none that could tell (see `check_tower`).
        """
        name = getattr(pruner, "clip", "")
        if "clip_relevance" not in pruner.needs:
            return None
        check_tower(self.model, name)
        if not question:
            return None
        clip, found = self.clip(name), []
        for image in part.images:
            assert image.projector_in is not None
            found.append(clip_relevance(self.model, clip, image.projector_in[:, 0], question))
        return tuple(found)

    def clip(self, name: str) -> ClipText:
        """The CLIP checkpoint of this name, loaded once. Raises UsageError where it cannot be."""
        if name not in self._clips:
            self._clips[name] = load_clip(name, self.device)
        return self._clips[name]

    @cached_property
    def _clips(self) -> dict[str, ClipText]:
        return {}

    @torch.inference_mode()
    def text(self, row: RowInputs, question: str = "") -> Tensor:
        """[T, d]: input embeddings of the tokens of a row that are the question's; where no question is given
        those of all text behind the last image, of all text where none is."""
        if question.strip():
            words = torch.tensor(self.question_ids(row.prompt, question), dtype=torch.long)
        else:
            ids = row.sequence["input_ids"][0]
            words = ids[behind_images(ids == self.image_token_id, torch.ones_like(ids, dtype=torch.bool))]
        found: Tensor = self.model.get_input_embeddings()(words.to(self.device))
        return found

    def answer(
        self,
        rows: Sequence[RowInputs],
        encoded: EncoderOutput | None,
        applied: Applied,
        max_new_tokens: int,
        draws: Sequence[Draw | None] = (),
        begun: Sequence[Begun | None] = (),
    ) -> list[Generation]:
        """Greedy or drawn answers; `applied.visual[i]` is given to the model in place of row i's pixels.

        begun: per row, what was read of its prompt already; see `models.prefix`.
        """
        inputs = self.resumed(self.model_inputs(rows, encoded, applied), rows, encoded, applied, begun)
        with self.program(inputs, applied) as log:
            generations = decoding.generate(
                self.model, self.tokenizer, inputs, max_new_tokens, self.pad_id, draws
            )
        return [
            self._with_tokens(*each, row, applied.inside, log)
            for row, each in enumerate(zip(generations, applied.visual, strict=True))
        ]

    def read(self, rows: Sequence[RowInputs], encoded: EncoderOutput | None, applied: Applied) -> InsideLog:
        """What a method inside the language model leaves of a batch: the prompts are read up to its last cut,
        and nothing is answered."""
        assert applied.inside is not None
        inputs = self.model_inputs(rows, encoded, applied)
        with self.program(inputs, applied) as log:
            assert log is not None
            last = max((cut.layer for row in log.cuts for cuts in row for cut in cuts), default=0)
            if last:
                with suppress(Enough), stopped_before(self.model, last):
                    decoding.generate(self.model, self.tokenizer, inputs, 1, self.pad_id)
        return log

    def model_inputs(
        self, rows: Sequence[RowInputs], encoded: EncoderOutput | None, applied: Applied
    ) -> dict[str, Any]:
        """Keyword arguments of `generate` for a batch whose images are encoded and, it may be, pruned."""
        visual = applied.visual
        length = bucket(max(row.length for row in rows))
        inputs: dict[str, Any] = self._to_device(pad_left(rows, length, self.pad_id))
        ids = self.position_ids(rows, inputs)
        # M-RoPE families would rebuild positions from these and the pixels' grid, which generate never sees
        inputs.pop("mm_token_type_ids", None)
        if any(isinstance(part, VisualInput) for part in visual):
            left = [row.length - _gone(row, part) for row, part in zip(rows, visual, strict=True)]
            valid = inputs["attention_mask"].bool()
            places = (inputs["input_ids"] == self.image_token_id) & valid
            kept = keep_columns(places, valid, visual, bucket(max(left)))
            ids = kept_positions(ids, kept, places, visual, applied.positions == COMPACT)
            inputs = shrink(inputs, kept, self.pad_id)
        inputs["position_ids"] = ids
        order = [part for part in visual if part is not None]
        if encoded is not None and any(len(part.rows) for part in order):
            inputs["mm_encoder_outputs"] = {"image": features.for_requests(encoded, order)}
        return inputs

    def resumed(
        self,
        inputs: dict[str, Any],
        rows: Sequence[RowInputs],
        encoded: EncoderOutput | None,
        applied: Applied,
        begun: Sequence[Begun | None],
    ) -> dict[str, Any]:
        """The `model_inputs` of these rows, or where all were begun in one pass, what is left to read."""
        if not any(begun):
            return inputs
        ids = self.image_token_id, self.pad_id
        return resumed(self.model, inputs, rows, encoded, applied, begun, *ids) or inputs

    @contextmanager
    def program(self, inputs: Mapping[str, Tensor], applied: Applied) -> Iterator[InsideLog | None]:
        """The language model with a method inside it, or as it is; for one pass over `model_inputs`."""
        if applied.inside is None:
            yield None
            return
        places = (inputs["input_ids"] == self.image_token_id) & inputs["attention_mask"].bool()
        spans = applied.inside.spans(places, applied.visual)
        with prune_inside(self.model, applied.inside.pruner, spans, applied.positions) as log:
            yield log

    @cached_property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.model.base_model.get_decoder().layers)

    def _with_tokens(
        self, generation: Generation, part: Visual, row: int, inside: Inside | None, log: InsideLog | None
    ) -> Generation:
        """The generation with the visual tokens that each layer of the language model got to see."""
        if inside is not None and log is not None:
            kept = [indices.tolist() for indices in log.kept[row]]
            return replace(
                generation,
                visual_tokens=tuple(layer[row] for layer in log.entered),
                kept_hash=digest("inside", kept),
                kept=inside.kept(log, row, part) if part else None,
                share=inside.share(log, row, part) if part else None,
            )
        tokens = (0 if part is None else len(part.rows),) * self.layers
        if not isinstance(part, VisualInput):
            return replace(generation, visual_tokens=tokens)
        return replace(
            generation,
            visual_tokens=tokens,
            kept_hash=part.kept_hash,
            kept=part.keep.cpu(),
            share=part.share.cpu(),
        )

    def position_ids(self, rows: Sequence[RowInputs], sequence: Mapping[str, Tensor]) -> Tensor:
        """What `generate` would use: [B, S], or [4, B, S] for families with M-RoPE."""
        grids = merge_vision(
            [{k: v for k, v in row.vision.items() if k.endswith("_grid_thw")} for row in rows if row.vision]
        )
        kwargs = {**sequence, **self._to_device(grids)}
        positions: Tensor = self.model._prepare_position_ids_for_generation(sequence["input_ids"], kwargs)
        return positions

    def synchronize(self) -> None:
        """Waits for the device, so that stage times mean something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        dtype = self.model.dtype
        return {
            key: value.to(self.device, dtype if value.is_floating_point() else None)
            for key, value in tensors.items()
        }


def _gone(row: RowInputs, part: ImageFeatures | VisualInput | None) -> int:
    """Visual tokens of a row that pruning took."""
    return row.visual_tokens - len(part.keep) if isinstance(part, VisualInput) else 0
