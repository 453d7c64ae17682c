"""What a selection promises: ids, counts and features, and what the new tokens of a merge are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmbench.engine.checks_run import Pruned
from vlmbench.models import families
from vlmbench.models.features import ImageFeatures, ImageTokens, VisualInput

if TYPE_CHECKING:
    from vlmbench.models.adapter import Adapter
    from vlmbench.prune.base import Context, Reduced

CLOSE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest error of a weighted sum, relative to its largest value."""


def selection_faults(adapter: Adapter, run: Pruned) -> Iterator[str]:
    """A line for everything in which the choice is not what the method and its budget say."""
    stage = run.pruner.stage
    for row, (part, whole) in enumerate(zip(run.visual, run.encoded.features, strict=True)):
        where = f"request {row}"
        if isinstance(part, VisualInput):
            yield from (f"{where}: {fault}" for fault in _kept(run, part, whole))
        told = run.answers.generations[row].visual_tokens
        expected = _per_layer(adapter, run, whole) if stage == "llm" else (len(part.rows),) * adapter.layers
        if told != expected:
            yield f"{where}: the record tells of {told} tokens per layer, {expected} were due"
    for ctx, k, chosen in run.pruner.chosen:
        yield from _ids(chosen, ctx.n)
        if len(chosen) != k:
            yield f"select gives {len(chosen)} tokens of an image where {k} were asked for"
    if run.pruner.merges:
        yield from _merged(adapter, run)


def _ids(ids: Tensor, n: int) -> Iterator[str]:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < n:
        yield f"ids beyond the {n} tokens there are"
    if bool((ids.diff() <= 0).any()):
        yield "ids are not unique" if _repeats(ids) else "ids are not ascending"


def _repeats(ids: Tensor) -> bool:
    return len(set(ids.tolist())) < len(ids)


def _kept(run: Pruned, part: VisualInput, whole: ImageFeatures) -> Iterator[str]:
    yield from _ids(part.keep, whole.count)
    if len(part.keep) != len(part.rows):
        yield f"{len(part.rows)} features for {len(part.keep)} places"
        return
    for i, image in enumerate(whole.images):
        count = int(((part.keep >= image.start) & (part.keep < image.stop)).sum())
        least, most = _declared(run, image)
        if not least <= count <= most:
            yield f"image {i}: {count} tokens stay, {most} are declared"
    if run.pruner.merges:
        if not torch.equal(part.position_from.sort().values, part.keep):
            yield "new tokens do not stand in the places that they take their position from"
        return
    if not torch.equal(part.position_from, part.keep):
        yield "tokens take the position of other tokens"
    pairs = zip((part.rows, *part.deepstack), (whole.rows, *whole.deepstack), strict=True)
    if not all(torch.equal(kept, own[part.keep]) for kept, own in pairs):
        yield "features are not those of the tokens that stay"


def _declared(run: Pruned, image: ImageTokens) -> tuple[int, int]:
    """The fewest and the most tokens of an image that may stay."""
    n, real = image.stop - image.start, int((image.grid[:, 1] >= 0).sum())
    pruner = run.pruner
    if pruner.stage == "llm":  # before which only newlines can go
        return (real, real) if run.newline == "dropped" else (n, n)
    if not pruner.budgeted or run.newline == "counted":
        most = int(pruner.budget(n))
    else:
        most = int(pruner.budget(real)) + (n - real) * (run.newline == "kept")
    return (min(1, most) if pruner.adaptive else most), most


def _per_layer(adapter: Adapter, run: Pruned, whole: ImageFeatures) -> tuple[int, ...]:
    """Visual tokens that enter each layer, from the schedule of each image; newlines that stay beside it
    enter all of them."""
    layers = [0] * adapter.layers
    for image in whole.images:
        n = image.stop - image.start
        real = int((image.grid[:, 1] >= 0).sum())
        left = n if run.newline == "counted" else real
        beside = n - real if run.newline == "kept" else 0
        cuts = {cut.layer: cut.keep for cut in run.pruner.schedule(left, adapter.layers)}
        for layer in range(adapter.layers):
            left = cuts.get(layer, left)
            layers[layer] += left + beside
    return tuple(layers)


def _merged(adapter: Adapter, run: Pruned) -> Iterator[str]:
    """New tokens are the weighted sums that the method says, projected, and nothing else is fed."""
    for ctx, k, reduced in run.pruner.reduced:
        yield from _sums(ctx, reduced, run.pruner.stage == "encoder")
        if len(reduced.features) != k and not (run.pruner.adaptive and len(reduced.features) < k):
            yield f"reduce makes {len(reduced.features)} tokens where {k} were asked for"
    if run.pruner.stage == "llm":
        return  # masking sees what the layers are fed
    made = iter(run.pruner.reduced)
    for part, whole in zip(run.visual, run.encoded.features, strict=True):
        assert isinstance(part, VisualInput)
        for image in whole.images:
            rows = next(made)[2].features
            if run.pruner.stage == "encoder":
                rows = families.project(adapter.model, rows)
            mine = (part.keep >= image.start) & (part.keep < image.stop)
            real = image.grid[:, 1].to(part.keep.device)[part.keep[mine] - image.start] >= 0
            if not _close(part.rows[mine][real], rows.to(part.rows.dtype)):
                yield "the language model is not given the tokens that the method made"


def _sums(ctx: Context, reduced: Reduced, projector_in: bool) -> Iterator[str]:
    if _repeats(reduced.position_from):
        yield "new tokens share a position"
    base = ctx.features
    if projector_in:
        assert ctx.projector_in is not None
        base = ctx.projector_in if ctx.extra is None else torch.cat([ctx.projector_in, ctx.extra])
    made = reduced.weights.double() @ base.flatten(1).double()
    if not _close(reduced.features.flatten(1), made.to(reduced.features.dtype)):
        yield "the weights do not give the features of the new tokens"
    copies = reduced.source >= 0
    if not torch.equal(reduced.features[copies], base[reduced.source[copies]]):
        yield "tokens that are told to be copies are none"


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.numel():
        return True
    scale = max(1.0, float(other.abs().max()))
    return bool((one.double() - other.double()).abs().max() <= CLOSE.get(one.dtype, 5e-2) * scale)
