"""What the encoder is asked for, for all families: against the rows that the language model gets, against the
weights of eager attention, and against the pixels that a token stands for."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image, ImageDraw
from test_adapter import ASKS, PICTURES, Ask, prepare, traces
from tiny_models import FAMILIES
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vlmbench.errors import UsageError
from vlmbench.models import capture, families, features
from vlmbench.models.adapter import Adapter
from vlmbench.models.features import EncoderOutput, ImageTokens
from vlmbench.models.inputs import RowInputs, merge_vision
from vlmbench.models.loading import load_model
from vlmbench.models.taps import AttentionCall, attention_tap

Tiny = Callable[[str], Path]
Load = Callable[..., "Loaded"]

NONE: frozenset[str] = frozenset()
LAYERS: dict[str, families.Where] = {
    "attention": "features",
    "keys": "features",
    "received_attention": "features",
    "middle_attention": "middle",
    "last_attention": "last",
    "last_keys": "last",
}
ALL = frozenset({"projector_in", *LAYERS})
CAPTURED = ("projector_in", *LAYERS, "extra")
JOINED = ("internvl", "smolvlm", "idefics3")
NEWLINES = ("llava_next", "llava_onevision")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model, and requests for a square, a wide and a tall image, and for two at once."""

    adapter: Adapter
    rows: tuple[RowInputs, ...]

    @property
    def model(self) -> Any:
        return self.adapter.model

    @property
    def family(self) -> families.Family:
        return families.of(self.model)

    def arguments(self, *rows: RowInputs) -> dict[str, Tensor]:
        """Of `get_image_features`."""
        vision = self.adapter._to_device(merge_vision([row.vision for row in rows or self.rows]))
        known = inspect.signature(self.model.base_model.get_image_features).parameters
        return {key: value for key, value in vision.items() if key in known}

    def encode(self, needs: frozenset[str] | None, *rows: RowInputs) -> EncoderOutput:
        counts = [row.visual_tokens for row in rows or self.rows]
        return features.encode(self.model, self.arguments(*rows), counts, needs)

    @torch.inference_mode()
    def output(self) -> Any:
        return self.model.base_model.get_image_features(**self.arguments(), return_dict=True)

    def layout(self) -> families.Layout:
        counts = [row.visual_tokens for row in self.rows]
        return self.family.layout(self.model, self.arguments(), self.output().pooler_output, counts)


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    @cache
    def loaded(family: str, attn: str = "auto") -> Loaded:
        adapter = Adapter(load_model(str(tiny_model(family)), device="cpu", attn=attn))
        asks = (ASKS[0], ASKS[2], ASKS[4], ASKS[-1])
        return Loaded(adapter, tuple(prepare(adapter, ask) for ask in asks))

    return loaded


def images_of(encoded: EncoderOutput) -> Iterator[tuple[ImageTokens, Tensor, Tensor]]:
    """(image, its rows, which of them are no newline tokens) of all requests."""
    for feature in encoded.features:
        for image in feature.images:
            yield image, feature.rows[image.start : image.stop], image.grid[:, 1] >= 0


def blending(loaded: Loaded, row: RowInputs) -> Tensor:
    """[n, outputs] weights with which OneVision makes the tokens of a request's one image."""
    tiles = int(row.vision["pixel_values"].shape[1])
    packed: list[Tensor] = loaded.model.base_model.pack_image_features(
        [torch.eye(tiles * 9).view(tiles, 9, -1)],
        row.vision["image_sizes"],
        image_newline=torch.zeros(tiles * 9),
        vision_aspect_ratio=loaded.model.config.vision_aspect_ratio,
    )[0]
    return packed[0]


# ------------------------------------------------------------------------------------------ rows and layout


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_depend_on_what_is_captured(family: str, load: Load) -> None:
    loaded = load(family)
    plain = loaded.encode(None)
    for needs in (NONE, ALL, frozenset({"text", "llm_attention"})):
        other = loaded.encode(needs)
        for one, two in zip(plain.features, other.features, strict=True):
            assert torch.equal(one.rows, two.rows)
            assert all(map(torch.equal, one.deepstack, two.deepstack))
            assert len(one.deepstack) == len(two.deepstack)
            assert not one.images
            assert two.images
            if needs != ALL:
                assert all(getattr(image, name) is None for image in two.images for name in CAPTURED)
    for name in ALL:
        for image, _, _ in images_of(loaded.encode(frozenset({name}))):
            assert [n for n in CAPTURED[:-1] if getattr(image, n) is not None] == [name]


@pytest.mark.parametrize("family", FAMILIES)
def test_images_partition_the_request(family: str, load: Load) -> None:
    loaded = load(family)
    encoded = loaded.encode(NONE)
    for feature, images in zip(encoded.features, (1, 1, 1, 2), strict=True):
        assert len(feature.images) == (1 if family in JOINED else images)
        bounds = [(image.start, image.stop) for image in feature.images]
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert bounds[-1][1] == feature.count
    for image, rows, real in images_of(encoded):
        assert image.grid.dtype == torch.int64
        assert image.grid.shape == (image.stop - image.start, 3)
        assert len(torch.unique(image.grid[real], dim=0)) == int(real.sum()), "no two tokens share a place"
        assert sorted(set(image.grid[real, 0].tolist())) == list(range(int(image.grid[:, 0].max()) + 1))
        assert (image.grid[~real] == -1).all()
        if family in NEWLINES:
            newline = loaded.model.base_model.image_newline
            assert torch.equal((rows == newline).all(1), ~real)
            assert (~real).any()
        else:
            assert real.all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_stands_for_its_place(family: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """With attention silenced, patches see only themselves: a change of one corner of the image changes the
    tokens there and no others, in every tile that shows it."""

    def silent(module: nn.Module, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(query).transpose(1, 2), None

    for name in ("sdpa", "eager"):
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, name, silent)
    adapter = load(family).adapter
    before = Image.new("RGB", (168, 168), "grey")
    for corner, (x, y) in enumerate([(0, 0), (128, 0), (0, 128), (128, 128)]):
        after = before.copy()
        ImageDraw.Draw(after).rectangle((x, y, x + 39, y + 39), fill="red")
        pair = [prepare(adapter, Ask("?", (image,))) for image in (before, after)]
        one, two = adapter.encode(pair, frozenset({"projector_in"})).features
        image, other = two.images[0], one.images[0]
        assert image.projector_in is not None
        assert other.projector_in is not None
        change = (image.projector_in - other.projector_in).flatten(1).norm(dim=1)
        # the filter of the resize rings a little
        tile, row, column = image.grid[change > 0.1 * change.max()].unbind(1)
        last, tiles = int(image.grid[:, 1].max()), int(image.grid[:, 0].max()) + 1
        # LLaVA puts the whole image first, Idefics last; the others cut it into 2 x 2 or 3 x 3
        cut = {1: (), 5: (0, 1, 2, 3), 10: (0, 2, 6, 8)}[tiles]
        whole, shown = (tiles - 1, cut) if family in JOINED else (0, tuple(c + 1 for c in cut))
        assert set(tile.tolist()) == {whole, *shown[corner : corner + 1]}
        in_corner = (
            (row * 2 >= last) if corner > 1 else (row * 2 <= last),
            (column * 2 >= last) if corner % 2 else (column * 2 <= last),
        )
        for inside in in_corner:
            assert inside[(tile == whole) | (tiles == 5)].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_by_one(family: str, load: Load) -> None:
    loaded = load(family)
    batch = loaded.encode(ALL).features
    for row, together in zip(loaded.rows, batch, strict=True):
        (alone,) = loaded.encode(ALL, row).features
        for one, two in zip(alone.images, together.images, strict=True):
            assert (one.start, one.stop) == (two.start, two.stop)
            assert torch.equal(one.grid, two.grid)
            for name in CAPTURED:
                mine, other = getattr(one, name), getattr(two, name)
                assert (mine is None) == (other is None)
                if mine is not None:
                    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------- projector input


@pytest.mark.parametrize("family", FAMILIES)
def test_projector_of_what_was_captured_is_what_the_language_model_gets(family: str, load: Load) -> None:
    loaded = load(family)
    projector = families.projector(loaded.model)
    checked = 0
    for index, (image, rows, real) in enumerate(images_of(loaded.encode(ALL))):
        x = image.projector_in
        assert x is not None
        assert not x[~real].any()
        if family == "llava_onevision" and index < 3:
            # a blend of projector outputs is none itself
            real = blending(loaded, loaded.rows[index]).amax(1) == 1
        torch.testing.assert_close(families.project(loaded.model, x[real]), rows[real], atol=1e-4, rtol=0)
        torch.testing.assert_close(projector.apply(x[real]), rows[real], atol=1e-4, rtol=0)
        checked += int(real.sum())
    assert checked > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_projectors_keep_their_precision(family: str, load: Load, tiny_model: Tiny) -> None:
    """In a bf16 model: `apply` computes in float32, `project` in bf16."""
    half = load_model(str(tiny_model(family)), device="cpu", dtype="bfloat16").model
    loaded = load(family)
    image, _, real = next(images_of(loaded.encode(ALL)))
    assert image.projector_in is not None
    x = image.projector_in[real][:5]
    exact = families.projector(half).apply(x)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, families.projector(loaded.model).apply(x), atol=0.2, rtol=0.1)
    rough = families.project(half, x)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.3, rtol=0.1)


def test_shrunk_canvas_of_onevision_takes_the_nearest(load: Load) -> None:
    """Against the weights with which the model blends its projector outputs, one channel for each."""
    loaded = load("llava_onevision")
    blended = []
    for row in loaded.rows[:3]:
        ((image, _, real),) = images_of(loaded.encode(NONE, row))
        weights = blending(loaded, row)[real]
        tile, line, column = image.grid[real].unbind(1)
        chosen = weights.gather(1, (tile * 9 + line * 3 + column)[:, None])[:, 0]
        torch.testing.assert_close(chosen, weights.amax(1))
        blended.append(bool((chosen < 0.9).any()))
    assert sorted(set(blended)) == [False, True], "of these images, some are shrunk and some are not"


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_class_token_is_that_of_the_selected_layer(family: str, load: Load) -> None:
    loaded = load(family)
    states = loaded.output().hidden_states[-2]
    extras = [image.extra for image, _, _ in images_of(loaded.encode(ALL))]
    assert torch.equal(torch.cat([extra for extra in extras if extra is not None]), states[:, :1])
    for (image, _, _), extra in zip(images_of(loaded.encode(ALL)), extras, strict=True):
        assert extra is not None
        assert len(extra) == (int(image.grid[:, 0].max()) + 1)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in {"llava", "llava_next"}])
def test_other_families_have_no_extra(family: str, load: Load) -> None:
    assert all(image.extra is None for image, _, _ in images_of(load(family).encode(ALL)))


@pytest.mark.parametrize("family", ["internvl", "gemma3"])
def test_members_of_merged_inputs(family: str, load: Load) -> None:
    """Where X holds merged patches, these are the ones that attention is averaged over."""
    loaded = load(family)
    layout = loaded.layout()
    hidden = loaded.output().last_hidden_state
    if family == "internvl":
        hidden = hidden[:, 1:]
    patches = hidden.flatten(0, 1)[layout.members]
    merged = patches.flatten(1) if family == "internvl" else patches.mean(1)
    x = torch.cat([image.projector_in for image, _, _ in images_of(loaded.encode(ALL))])  # type: ignore[misc]
    torch.testing.assert_close(merged, x[:, 0], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ attention


class Eager(NamedTuple):
    """A call of the model's own eager attention: weights [B, H, Q, K], query and key [B, H, .., D]."""

    weights: Tensor
    key: Tensor
    query: Tensor
    mask: Tensor | None

    def one_head(self) -> Tensor:
        """[B, 1, Q, K]: softmax of whole queries times whole keys over the root of their width."""
        query, key = (torch.cat(tuple(heads.unbind(1)), dim=-1) for heads in (self.query, self.key))
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        return (logits if self.mask is None else logits + self.mask[:, 0]).softmax(-1)[:, None]


@contextmanager
def eager_calls(module: nn.Module) -> Iterator[list[Eager]]:
    modelling = sys.modules[type(module).__module__]
    original = modelling.eager_attention_forward
    seen: list[Eager] = []

    def spy(
        caller: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> Any:
        result = original(caller, query, key, value, attention_mask, **options)
        if caller is module:
            seen.append(Eager(result[1], key, query, attention_mask))
        return result

    modelling.eager_attention_forward = spy
    try:
        yield seen
    finally:
        modelling.eager_attention_forward = original


def oracle(loaded: Loaded) -> dict[str, Tensor]:
    """Per need: what each projector output's patches get or are, [M] or [M, D], tile by tile."""
    layout = loaded.layout()
    found = {}
    for need, where in LAYERS.items():
        with eager_calls(loaded.family.attention(loaded.model, where)) as seen:
            loaded.output()
        outside = int(loaded.family.name in {"llava", "llava_next", "internvl"})
        if need == "keys":
            values = torch.cat([call.key.mean(1)[:, outside:].flatten(0, 1) for call in seen])
        elif need == "last_keys":
            whole = [torch.cat(tuple(call.key.unbind(1)), dim=-1) for call in seen]
            values = torch.cat([key[:, outside:].flatten(0, 1) for key in whole])
        else:
            weights = [call.one_head() if need == "last_attention" else call.weights for call in seen]
            from_all = need in {"received_attention", "middle_attention"}
            values = mean_attention(weights, outside, layout.units, from_all)
        found[need] = values if layout.members is None else values[layout.members].mean(1)
    return found


def mean_attention(calls: list[Tensor], class_tokens: int, units: Sequence[int], from_all: bool) -> Tensor:
    """[patches] from weights [B, H, Q, K]: the class token's row, or the mean over the rows of a tile."""
    if class_tokens:
        (weights,) = calls
        if from_all:
            return weights.sum(1).mean(1)[:, 1:].flatten()
        return weights[:, :, 0, 1:].sum(1).flatten()
    # one matrix over all patches of the batch, zero where two do not see each other
    whole = torch.block_diag(*(weights[i].sum(0) for weights in calls for i in range(len(weights))))
    parts, start = [], 0
    for size in units:
        rows = whole[start : start + size]
        assert not rows[:, :start].any()
        assert not rows[:, start + size :].any()
        parts.append(rows[:, start : start + size].mean(0))
        start += size
    assert start == len(whole)
    return torch.cat(parts)


@pytest.mark.parametrize("attn", ["auto", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_keys_are_those_of_eager(family: str, attn: str, load: Load) -> None:
    expected = oracle(load(family, "eager"))
    layout = load(family).layout()
    got = [image for image, _, _ in images_of(load(family, attn).encode(ALL))]
    for image, picture in zip(got, layout.pictures, strict=True):
        real = image.grid[:, 1] >= 0
        for need, values in expected.items():
            mine: Tensor = getattr(image, need)
            torch.testing.assert_close(mine[real], values[picture.source][real], atol=1e-5, rtol=1e-4)
            assert not mine[~real].any()


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "gemma3", "paligemma"])
def test_last_layer_as_one_head_of_its_projections(family: str, load: Load) -> None:
    """q_proj and k_proj of the last layer, as PruMerge (arXiv 2403.15388) reads CLIP's."""
    loaded = load(family)
    (tower,) = [m for n, m in loaded.model.base_model.named_modules() if n.endswith("vision_tower")]
    last = getattr(tower, "vision_model", tower).encoder.layers[2].self_attn
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(last, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name in ("q_proj", "k_proj")
    ]
    got = [image for image, _, _ in images_of(loaded.encode(frozenset({"last_attention", "last_keys"})))]
    for hook in hooks:
        hook.remove()
    outside = int(family in {"llava", "llava_next"})
    width = seen["q_proj"].shape[-1]
    weights = (seen["q_proj"] @ seen["k_proj"].mT * width**-0.5).softmax(-1)
    attention = weights[:, 0, 1:] if outside else weights.mean(1)
    layout = loaded.layout()
    members = torch.arange(attention.numel())[:, None] if layout.members is None else layout.members
    attention = attention.flatten()[members].mean(1)
    keys = seen["k_proj"][:, outside:].flatten(0, 1)[members].mean(1)
    for image, picture in zip(got, layout.pictures, strict=True):
        real = image.grid[:, 1] >= 0
        assert image.last_attention is not None
        assert image.last_keys is not None
        torch.testing.assert_close(
            image.last_attention[real], attention[picture.source][real], atol=1e-6, rtol=1e-4
        )
        torch.testing.assert_close(image.last_keys[real], keys[picture.source][real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_tapped_module_by_name(family: str, load: Load) -> None:
    """Of three layers the last, or for CLIP the one whose output is hidden state -2; in the middle, the first
    one, but for Qwen2.5 the only one that is not windowed."""
    loaded = load(family)
    names = {module: name for name, module in loaded.model.base_model.named_modules()}
    name, middle, last = (
        names[loaded.family.attention(loaded.model, where)] for where in ("features", "middle", "last")
    )
    tower = {"smolvlm": "vision_model", "idefics3": "vision_model"}.get(family, "vision_tower")
    path = {"internvl": "encoder.layer.2.attention", "mistral3": "transformer.layers.2.attention"}
    path["pixtral"] = path["mistral3"]
    path["llava"] = path["llava_next"] = "encoder.layers.1.self_attn"
    expected = f"{tower}.{path.get(family, 'encoder.layers.2.self_attn')}"
    assert name == (expected := "visual.blocks.2.attn" if family.startswith("qwen") else expected)
    number = re.compile(r"\.[12]\.")
    assert last == number.sub(".2.", expected)
    assert middle == number.sub(".1." if family == "qwen2_5_vl" else ".0.", expected)


@pytest.mark.parametrize(("layers", "index"), [(1, 0), (3, 0), (12, 3), (24, 8), (27, 9)])
def test_middle_layer(layers: int, index: int, load: Load) -> None:
    """Index 8 of CLIP-L's 24: what HiPrune (arXiv 2508.00553) calls layer 9."""
    loaded = load("llava")
    assert loaded.family.middle(loaded.model, layers) == index


def test_middle_layer_of_windowed_towers(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("qwen2_5_vl")
    monkeypatch.setattr(loaded.model.config.vision_config, "fullatt_block_indexes", [7, 15, 23, 31])
    assert loaded.family.middle(loaded.model, 32) == 15


@pytest.mark.parametrize(
    "family", ["llava", "llava_next", "llava_onevision", "gemma3", "paligemma", "internvl"]
)
def test_tapped_layer_is_the_one_behind_the_features(family: str, load: Load) -> None:
    """Against the towers that give their attentions themselves: layer -2 for CLIP, else the last."""
    loaded = load(family, "eager")
    with eager_calls(loaded.family.attention(loaded.model)) as seen:
        loaded.output()
    pixels = loaded.arguments()["pixel_values"]
    if family in NEWLINES:
        tiles = [int(p.units.stop - p.units.start) for p in loaded.layout().pictures]
        pixels = torch.cat([image[:n] for image, n in zip(pixels, tiles, strict=True)])
    with torch.inference_mode():
        attentions = loaded.model.base_model.vision_tower(pixels, output_attentions=True).attentions
    layer = -2 if family in {"llava", "llava_next"} else -1
    assert len(attentions) == 3
    torch.testing.assert_close(seen[0].weights, attentions[layer], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("attn", ["auto", "eager"])
@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_padded_patches_neither_give_nor_get_attention(family: str, attn: str, load: Load) -> None:
    loaded = load(family, attn)
    (row,) = loaded.rows[:1]
    mask = torch.ones_like(row.vision["pixel_attention_mask"])
    mask[..., 42:] = 0
    row = dataclasses.replace(row, vision={**row.vision, "pixel_attention_mask": mask})
    ((image, _, _),) = images_of(loaded.encode(ALL, row))
    assert image.attention is not None
    # of 6 x 6 patches the right half is padding; tokens are 2 x 2 patches: the middle column is half full
    by_column = image.attention.view(-1, 3, 3).sum((0, 1))
    assert by_column[2] == 0
    assert (by_column[:2] > 0).all()
    for other in (image.middle_attention, image.last_attention):
        assert other is not None
        assert ((other.view(-1, 3, 3).sum((0, 1)) > 0) == torch.tensor([True, True, False])).all()
    with eager_calls(load(family, "eager").family.attention(load(family, "eager").model)) as seen:
        load(family, "eager").encode(NONE, row)
    tiles = len(seen[0].weights)
    valid = (torch.arange(36) % 6) < 3
    patches = seen[0].weights.sum(1)[:, valid].mean(1)
    tokens = patches.view(tiles, 3, 2, 3, 2).mean((2, 4)).flatten()
    torch.testing.assert_close(image.attention, tokens, atol=1e-5, rtol=1e-4)


def test_long_rows_are_read_in_pieces(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("paligemma", "pixtral", "smolvlm"):
        whole = [image.attention for image, _, _ in images_of(load(family).encode(ALL))]
        monkeypatch.setattr(capture, "_CHUNK", 500)
        pieces = [image.attention for image, _, _ in images_of(load(family).encode(ALL))]
        monkeypatch.undo()
        for one, two in zip(whole, pieces, strict=True):
            torch.testing.assert_close(one, two)


# -------------------------------------------------------------------------------------------------- no trace


@pytest.mark.parametrize("attn", ["auto", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_stays_after_an_exception(
    family: str, attn: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(family, attn)
    functions = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    expected = [feature.rows for feature in loaded.encode(None).features]
    before = traces(loaded.adapter)
    loaded.encode(ALL)
    assert traces(loaded.adapter) == before
    faulty = loaded.family.attention(loaded.model)
    original = faulty.forward
    during: list[int] = []

    def fail(*arguments: Any, **options: Any) -> Any:
        original(*arguments, **options)
        during.append(len(loaded.family.receiver(loaded.model)._forward_pre_hooks))
        during.append(len(ALL_ATTENTION_FUNCTIONS._local_mapping) - len(functions))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(faulty, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            loaded.encode(ALL)
    assert during[0] >= 1
    assert during[1] >= 1
    assert functions == ALL_ATTENTION_FUNCTIONS._local_mapping
    faulty.__dict__.pop("forward", None)
    assert traces(loaded.adapter) == before
    for rows, feature in zip(expected, loaded.encode(None).features, strict=True):
        assert torch.equal(rows, feature.rows)


# --------------------------------------------------------------------------------------------------- families


def test_every_tiny_family_is_known_by_name(load: Load) -> None:
    assert [load(family).family.name for family in FAMILIES] == list(FAMILIES)


def test_smallest_cut(load: Load) -> None:
    cuts = {family: families.smallest_cut(load(family).model) for family in FAMILIES}
    assert cuts == {family: 2 if family == "qwen3_vl" else 1 for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_description_of_sensitivity_is_true(family: str, load: Load) -> None:
    """Of the Jacobian of the model's own projector: does it vary, and is it 1/RMS?"""
    loaded = load(family)
    image, _, real = next(images_of(loaded.encode(ALL)))
    assert image.projector_in is not None
    x = image.projector_in[real][:6].clone()
    values = jacobian_norms(families.projector(loaded.model).apply, x)
    spread = (values.amax() - values.amin()) / values.mean()
    text = families.describe_sensitivity(loaded.model)
    assert "\n" not in text
    if family in {"paligemma", "smolvlm", "idefics3"}:
        assert "constant" in text
        assert "zoo = divprune" in text
        assert spread < 1e-5
    elif family == "gemma3":
        assert "1/RMS" in text
        assert spread > 1e-3
    else:
        assert "real" in text
        assert spread > 1e-2


def jacobian_norms(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """[N]: Frobenius norm of dZ/dX of every token alone, divided by the root of its inputs."""
    norms = []
    for token in x:
        jacobian = torch.autograd.functional.jacobian(lambda t: apply(t[None])[0], token)
        norms.append(jacobian.norm() / token.numel() ** 0.5)
    return torch.stack(norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_closed_form_equals_autograd(family: str, load: Load) -> None:
    """On two tokens, through the model's own modules."""
    loaded = load(family)
    image, _, real = next(images_of(loaded.encode(ALL)))
    assert image.projector_in is not None
    x = image.projector_in[real][:2].clone()
    projector = families.projector(loaded.model)
    assert projector.form is not None
    with torch.inference_mode(False):
        expected = jacobian_norms(lambda t: loaded.family.project(loaded.model, t), x)
        got = projector.form.sensitivity(x)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


@contextmanager
def unknown(model: Any) -> Iterator[None]:
    model.config.model_type = "mystery"
    try:
        yield
    finally:
        del model.config.model_type


@pytest.mark.parametrize("family", ["llava", "paligemma", "qwen2_vl", "idefics3"])
def test_unknown_family(family: str, load: Load) -> None:
    """One projector input per token works; what nobody can tell is refused, by name."""
    loaded = load(family)
    expected = loaded.encode(ALL)
    with unknown(loaded.model):
        assert [image.stop for image, _, _ in images_of(loaded.encode(NONE))]
        for need in LAYERS:
            with pytest.raises(UsageError, match=r"^mystery: .*encoder attention.*use"):
                loaded.encode(frozenset({need}))
        if family in {"qwen2_vl", "idefics3"}:
            with pytest.raises(UsageError, match=r"^mystery: .*projector inputs"):
                loaded.encode(frozenset({"projector_in"}))
        else:
            got = loaded.encode(frozenset({"projector_in"}))
            projector = families.projector(loaded.model)
            assert projector.form is None
            for (one, rows, _), (two, _, _) in zip(images_of(got), images_of(expected), strict=True):
                assert one.projector_in is not None
                assert two.projector_in is not None
                assert torch.equal(one.projector_in, two.projector_in)
                torch.testing.assert_close(projector.apply(one.projector_in), rows, atol=1e-4, rtol=0)
                assert torch.equal(one.grid, two.grid)


def test_family_without_projector(load: Load) -> None:
    loaded = load("llava_next")
    with unknown(loaded.model):
        names = families.generic.PROJECTORS
        try:
            families.generic.PROJECTORS = ("nowhere",)
            with pytest.raises(UsageError, match=r"^mystery: .*no projector .*nowhere"):
                families.projector(loaded.model)
        finally:
            families.generic.PROJECTORS = names


def test_class_token_as_visual_token_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load("llava")
    monkeypatch.setattr(loaded.model.config, "vision_feature_select_strategy", "full")
    counts = [37] * sum(len(image) for image in (PICTURES,))
    with pytest.raises(UsageError, match="class token"):
        features.encode(loaded.model, loaded.arguments(*loaded.rows[:3]), counts, NONE)


# ------------------------------------------------------------------------------------------------------ taps


class Attention(nn.Module):
    """As transformers' own: it looks its function up by name."""

    def __init__(self, name: str, groups: int = 1, causal: bool = True) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": name})()
        self.num_key_value_groups = groups
        self.is_causal = causal

    def forward(self, q: Tensor, k: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        out: Tensor = function(self, q, k, k, attention_mask=mask, scaling=0.3, **options)[0]
        return out


def random_heads(heads: int, length: int, seed: int) -> Tensor:
    return torch.randn(2, heads, length, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["causal", "full", "bool", "additive", "padding"])
@pytest.mark.parametrize("queries", [1, 7])
def test_weights_reproduce_the_output(kind: str, queries: int) -> None:
    """softmax rows @ values is what sdpa returns, with fewer key heads than query heads."""
    module = Attention("sdpa", groups=2, causal=kind == "causal")
    q, k = random_heads(4, queries, 1), random_heads(2, 7, 2)
    hidden = torch.zeros(2, 1, queries, 7, dtype=torch.bool)
    hidden[:, :, :, 5] = kind in {"bool", "additive", "padding"}
    hidden[0, :, :, 0] = kind in {"bool", "additive"}
    mask = None
    if kind == "bool":
        mask = ~hidden
    elif kind in {"additive", "padding"}:
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    calls: list[AttentionCall] = []
    plain = module(q, k, mask)
    with attention_tap([module], lambda _, call: calls.append(call)):
        assert torch.equal(module(q, k, mask), plain)
        Attention("sdpa", groups=2)(q, k)
    (call,) = calls
    if kind == "padding":  # as flash attention gets it
        call = dataclasses.replace(call, mask=(torch.arange(7) != 5).long().expand(2, -1))
    weights = call.weights()
    assert weights.shape == (2, 4, queries, 7)
    values = k.repeat_interleave(2, dim=1)
    torch.testing.assert_close((weights @ values).transpose(1, 2), plain, atol=1e-5, rtol=1e-5)
    some = call.weights(torch.tensor([queries - 1]), slice(1, 3))
    torch.testing.assert_close(some, weights[:, 1:3, -1:])
    if mask is not None:
        assert call.visible().tolist() == (~hidden.all(2)[:, 0]).tolist()


def test_packed_sequences_do_not_see_each_other() -> None:
    q = k = random_heads(2, 9, 3)[:1]
    ends = torch.tensor([0, 4, 6, 9], dtype=torch.int32)
    call = AttentionCall(q, k, k, None, 0.3, False, {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends})
    parts = [part.weights() for part in call.parts()]
    assert [part.shape[-1] for part in parts] == [4, 2, 3]
    for head in range(2):
        whole = torch.block_diag(*(part[0, head] for part in parts))
        torch.testing.assert_close(call.weights()[0, head], whole)


def test_sliding_window_and_softcap() -> None:
    q = k = random_heads(1, 6, 4)
    call = AttentionCall(q, k, k, None, 1.0, True, {"sliding_window": 3, "softcap": 2.0})
    logits = torch.tanh(q @ k.mT / 2) * 2
    index = torch.arange(6)
    seen = (index[None] <= index[:, None]) & (index[None] > index[:, None] - 3)
    torch.testing.assert_close(call.weights(), logits.masked_fill(~seen, -torch.inf).softmax(-1))


def test_rows_that_see_nothing_are_zero() -> None:
    q = k = random_heads(1, 3, 5)
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[:, :, 1] = False
    assert not AttentionCall(q, k, k, mask, 1.0, False, {}).weights()[:, :, 1].any()


def test_taps_nest_and_restore() -> None:
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    one, two = Attention("sdpa"), Attention("sdpa")
    q = random_heads(2, 4, 6)
    seen: list[str] = []
    with attention_tap([one], lambda *_: seen.append("outer")):
        middle = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
        with suppress(ZeroDivisionError), attention_tap([one, two], lambda *_: seen.append("inner")):
            one(q, q)
            two(q, q)
            raise ZeroDivisionError
        assert middle == ALL_ATTENTION_FUNCTIONS._local_mapping
        one(q, q)
        two(q, q)
    assert seen == ["inner", "outer", "inner", "outer"]
    assert before == ALL_ATTENTION_FUNCTIONS._local_mapping


def test_modules_that_do_not_look_up_their_attention() -> None:
    with pytest.raises(UsageError, match="Linear cannot be read"), attention_tap([nn.Linear(1, 1)], print):
        pass
