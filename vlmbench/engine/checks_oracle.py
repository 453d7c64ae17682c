"""The oracle of pruning: all tokens stay in the sequence, and those that were dropped are masked.

Written without the code that removes tokens, so that it cannot share its mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmbench.engine.checks_run import Answers, Pruned, watching
from vlmbench.models import decoding
from vlmbench.models.features import ImageFeatures, VisualInput, for_requests
from vlmbench.models.inputs import bucket, merge_vision, pad_left
from vlmbench.prune.base import COMPACT

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter


def masked_answers(adapter: Adapter, pruned: Pruned, max_new_tokens: int) -> Answers:
    """Of the same requests with the same choice of tokens, none of which is removed."""
    if pruned.pruner.stage == "llm":
        inputs = _padded(adapter, pruned)
        valid = inputs["attention_mask"].bool()
        plan = schedule_of(adapter, pruned, inputs["input_ids"])
        inputs["mm_encoder_outputs"] = {"image": for_requests(pruned.encoded, pruned.encoded.features)}
        mask = LayerMask(adapter.model, plan, valid, pruned.pruner.positions == COMPACT)
        with mask.applied(), watching(adapter.model) as seen:
            answers = _generate(adapter, inputs, max_new_tokens)
        return Answers(torch.stack(seen), answers)
    inputs = masked_inputs(adapter, pruned)
    with watching(adapter.model) as seen:
        answers = _generate(adapter, inputs, max_new_tokens)
    return Answers(torch.stack(seen), answers)


def _generate(adapter: Adapter, inputs: dict[str, Any], max_new_tokens: int) -> list[decoding.Generation]:
    return decoding.generate(adapter.model, adapter.tokenizer, inputs, max_new_tokens, adapter.pad_id)


def _padded(adapter: Adapter, pruned: Pruned) -> dict[str, Any]:
    """The whole prompts [B, S] with the position ids that `generate` would use."""
    length = bucket(max(row.length for row in pruned.rows))
    padded = pad_left(pruned.rows, length, adapter.pad_id)
    inputs: dict[str, Any] = {key: value.to(adapter.device) for key, value in padded.items()}
    grids = merge_vision(
        [{k: v for k, v in row.vision.items() if k.endswith("_grid_thw")} for row in pruned.rows]
    )
    ids = {**inputs, **{key: value.to(adapter.device) for key, value in grids.items()}}
    prepare = adapter.model._prepare_position_ids_for_generation
    inputs["position_ids"] = prepare(inputs["input_ids"], ids).clone()
    inputs.pop("mm_token_type_ids", None)
    return inputs


def _places(adapter: Adapter, inputs: dict[str, Any], row: int) -> Tensor:
    """Columns of a row's placeholders."""
    here = (inputs["input_ids"][row] == adapter.image_token_id) & inputs["attention_mask"][row].bool()
    places: Tensor = here.nonzero()[:, 0]
    return places


def masked_inputs(adapter: Adapter, pruned: Pruned) -> dict[str, Any]:
    """For pruning before the language model: zeros in the attention mask where a token was dropped.

    The features that are left stand in the placeholders that are left, at the position ids that they take.
    """
    inputs = _padded(adapter, pruned)
    mask, ids = inputs["attention_mask"].clone(), inputs["position_ids"]
    before = ids.clone()
    fed: list[ImageFeatures] = []
    for row, (part, whole) in enumerate(zip(pruned.visual, pruned.encoded.features, strict=True)):
        assert isinstance(part, VisualInput)
        places = _places(adapter, inputs, row)
        gone = torch.ones(len(places), dtype=torch.bool, device=places.device)
        gone[part.keep] = False
        mask[row, places[gone]] = 0
        slots = places[part.keep]
        ids[..., row, slots] = before[..., row, places[part.position_from]]
        if pruned.pruner.positions == COMPACT:
            stays = mask[row].bool()
            ids[..., row, stays] = without_gaps(ids[..., row, stays])
        rows, layers = whole.rows.clone(), [layer.clone() for layer in whole.deepstack]
        rows[part.keep] = part.rows
        for layer, kept in zip(layers, part.deepstack, strict=True):
            layer[part.keep] = kept
        fed.append(ImageFeatures(rows, tuple(layers)))
    inputs["attention_mask"] = mask
    inputs["mm_encoder_outputs"] = {"image": for_requests(pruned.encoded, fed)}
    return inputs


def without_gaps(ids: Tensor, first: int = 0) -> Tensor:
    """[n] or [3 or 4, n] -> from `first` on, in order; M-RoPE's three axes count together, text by itself."""
    if ids.ndim > 1 and ids.shape[0] > 3:
        return torch.cat([without_gaps(ids[:-3], first), without_gaps(ids[-3:], first)])
    rank = {value: first + i for i, value in enumerate(sorted(set(ids.flatten().tolist())))}
    flat = [rank[value] for value in ids.flatten().tolist()]
    return torch.tensor(flat, dtype=ids.dtype, device=ids.device).view_as(ids)


@dataclass(frozen=True, eq=False)
class Merge:
    """New tokens of one image in front of one layer."""

    row: int
    columns: Tensor
    """[N]: of the tokens that they are made of."""
    slots: Tensor
    """[k]: the columns that they stand in."""
    weights: Tensor
    """[k, N]."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """What the schedule and the recorded choices do to a padded batch [B, S], layer by layer."""

    gone: list[Tensor]
    """[B, S] bool: taken before that layer."""
    origin: list[Tensor]
    """[B, S] int64: the column whose original position a column has."""
    merges: dict[int, list[Merge]]


def schedule_of(adapter: Adapter, pruned: Pruned, input_ids: Tensor) -> Schedule:
    """By the pruner's own word: its schedule, and what it said of each image."""
    layers = range(adapter.layers)
    gone = [torch.zeros(input_ids.shape, dtype=torch.bool) for _ in layers]
    origin = [torch.arange(input_ids.shape[1]).repeat(len(input_ids), 1) for _ in layers]
    merges: dict[int, list[Merge]] = {}
    for row, (whole, seeds) in enumerate(zip(pruned.encoded.features, pruned.seeds, strict=True)):
        places = (input_ids[row] == adapter.image_token_id).nonzero()[:, 0].cpu()
        for image, seed in zip(whole.images, seeds, strict=True):
            left = places[image.start : image.stop]
            if pruned.newline != "counted":
                real = (image.grid[:, 1] >= 0).cpu()
                if pruned.newline == "dropped":
                    for each in gone:
                        each[row, left[~real]] = True
                left = left[real]
            cuts = pruned.pruner.schedule(len(left), adapter.layers)
            position = left
            for cut, (at, weights) in zip(cuts, _said(pruned, seed), strict=True):
                slots, position = left[at.sort().values], position[at]
                if weights is not None:
                    merges.setdefault(cut.layer, []).append(Merge(row, left, slots, weights))
                for layer in layers[cut.layer :]:
                    gone[layer][row, left] = True
                    gone[layer][row, slots] = False
                    origin[layer][row, slots] = position
                left = slots
    device = input_ids.device
    return Schedule([each.to(device) for each in gone], [each.to(device) for each in origin], merges)


def _said(pruned: Pruned, seed: int) -> list[tuple[Tensor, Tensor | None]]:
    """Of one image at each cut: the tokens whose places are left, and the weights of new ones."""
    if pruned.pruner.merges:
        made = [reduced for ctx, _, reduced in pruned.pruner.reduced if ctx.seed == seed]
        return [(reduced.position_from.cpu(), reduced.weights) for reduced in made]
    return [(chosen.cpu(), None) for chosen in pruned.pruner.of_image(seed)]


class LayerMask:
    """Hides columns of the prompt from chosen layers on, while the prompt is read and after it; new tokens
    are put in the place of others."""

    def __init__(self, model: Any, plan: Schedule, valid: Tensor, compact: bool) -> None:
        self.decoder = model.base_model.get_decoder()
        self.plan, self.gone, self.valid, self.compact = plan, plan.gone, valid, compact
        self.implementation = str(model.config.get_text_config()._attn_implementation)
        self.rotaries: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
        self.shifts: dict[int, Tensor] = {}

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for i, layer in enumerate(self.decoder.layers):
                if bool(self.gone[i].any()) or self.plan.merges:
                    hook = layer.register_forward_pre_hook(self._before(i), with_kwargs=True)
                    stack.callback(hook.remove)
            if self.compact:
                hooks = self.decoder.register_forward_pre_hook(lambda *_: self.rotaries.clear())
                stack.callback(hooks.remove)
                seen = self.decoder.rotary_emb.register_forward_hook(self._see, with_kwargs=True)
                stack.callback(seen.remove)
            yield

    def _see(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.rotaries.append((args, kwargs, output))

    def _before(self, i: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            old, new = int(kwargs["past_key_values"].get_seq_length(i)), int(hidden.shape[1])
            gone = torch.nn.functional.pad(self.gone[i], (0, old + new - self.gone[i].shape[1]))
            changed: dict[str, Any] = {}
            changed["attention_mask"] = self._mask(kwargs.get("attention_mask"), gone, old, hidden.dtype)
            embeddings = kwargs["position_embeddings"]
            if self.compact:
                changed["position_embeddings"] = self._renumbered(i, embeddings, old == 0)
            elif self.plan.merges and old == 0:
                changed["position_embeddings"] = self._moved(i, embeddings)
            if old == 0 and i in self.plan.merges:
                hidden = self._merged(i, hidden)
                if not args:
                    changed["hidden_states"] = hidden
                args = (hidden, *args[1:]) if args else args
            return args, {**kwargs, **changed}

        return hook

    def _merged(self, i: int, hidden: Tensor) -> Tensor:
        """[B, S, d] with the new tokens in their slots."""
        hidden = hidden.clone()
        for merge in self.plan.merges[i]:
            old = hidden[merge.row, merge.columns.to(hidden.device)]
            new = merge.weights.to(old.device, torch.float32) @ old.float()
            hidden[merge.row, merge.slots.to(hidden.device)] = new.to(hidden.dtype)
        return hidden

    def _moved(self, i: int, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """cos and sin [.., B or 1, S, D] with the columns' positions that new tokens take."""
        rows = self.plan.origin[i].to(embeddings[0].device)
        return tuple(
            torch.stack([each[..., b % each.shape[-3], at, :] for b, at in enumerate(rows)], -3)
            for each in embeddings
        )

    def _mask(self, mask: Tensor | None, gone: Tensor, old: int, dtype: torch.dtype) -> Tensor:
        if "flash" in self.implementation:
            return ~gone if mask is None else mask.masked_fill(gone, 0)
        if mask is None:
            column = torch.arange(gone.shape[1], device=gone.device)
            mask = (column <= column[old:, None]).expand(len(gone), 1, -1, -1)
            if self.implementation == "eager":
                low = torch.finfo(dtype).min
                mask = torch.zeros(mask.shape, dtype=dtype, device=gone.device).masked_fill(~mask, low)
        low_or_false = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return mask.masked_fill(gone[:, None, None], low_or_false)

    def _renumbered(self, i: int, embeddings: Any, reading: bool) -> Any:
        """The rotary embedding that the layer was given, for ids without gaps."""
        args, kwargs, _ = next(call for call in self.rotaries if call[2][0] is embeddings[0])
        ids = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        rows = len(self.valid)
        ids = ids.expand(*ids.shape[:-2], rows, -1)
        if reading:
            dense = ids.clone()
            for row in range(rows):
                stays = self.valid[row] & ~self.gone[i][row]
                mine = ids[..., row, stays]
                dense[..., row, stays] = without_gaps(mine, int(mine.min()))
            self.shifts[i] = (ids - dense)[..., -1:]
        else:
            dense = ids - self.shifts[i]
        forward = self.decoder.rotary_emb.forward
        if "position_ids" in kwargs:
            return forward(*args, **{**kwargs, "position_ids": dense})
        return forward(args[0], dense, *args[2:], **kwargs)
