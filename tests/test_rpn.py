"""The region proposal network: against the base model's own states and weights, in training, as a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from test_roi_reading import BATCH, encoded, opened, prepared, replace_features, subjects
from tiny_models import FAMILIES, build
from torch import Tensor

from vlmbench.errors import UsageError
from vlmbench.models.adapter import Adapter
from vlmbench.models.early import EarlyStates, early_states
from vlmbench.models.inputs import RowInputs
from vlmbench.models.pruning import Applied
from vlmbench.models.taps import AttentionCall, attention_tap
from vlmbench.roi.reading import read
from vlmbench.roi.rpn import Rpn, RpnShape, rpn_shape
from vlmbench.roi.rpn_file import (
    CONFIG,
    WEIGHTS,
    CurvePoint,
    RpnConfig,
    base_model,
    load_rpn,
    rpn_hash,
    save_rpn,
)

Tiny = Callable[[str], Path]
Load = Callable[..., Adapter]


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family, attn="auto": opened(tiny_model(family), attn))


def early(adapter: Adapter, rows: list[RowInputs], shape: RpnShape) -> EarlyStates:
    output = encoded(adapter, rows)
    return early_states(adapter, rows, output, output.features, shape.start, shape.layers)


def run_base(adapter: Adapter, row: RowInputs, layer: int) -> tuple[Tensor, Tensor, Tensor, AttentionCall]:
    """Of one request in the base model: hidden states in front of `layer` [S, d], columns of its visual
    tokens, position ids [.., S], and the attention call in `layer`."""
    output = encoded(adapter, [row])
    inputs = adapter.model_inputs([row], output, Applied(output.features))
    calls: list[AttentionCall] = []
    module = adapter.model.base_model.get_decoder().layers[layer].self_attn
    with torch.inference_mode(), attention_tap([module], lambda _, call: calls.append(call)):
        made = adapter.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    columns = (inputs["input_ids"][0] == adapter.image_token_id).nonzero()[:, 0]
    return made.hidden_states[0][layer][0].clone(), columns, inputs["position_ids"], calls[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attn", ["auto", "eager"])
def test_untrained_copies_are_the_layers_of_the_model(family: str, attn: str, load: Load) -> None:
    """With rotation and no norm of its own, the head's logits are those of the base model's attention in
    layer K+T-1, before softmax, mean over heads; for a batch whose rows are padded to different lengths."""
    adapter = load(family, attn)
    rows = prepared(adapter)
    start = rpn_shape(adapter.model).start
    for layers in (1, adapter.layers - start):
        shape = RpnShape(start, layers, norm=False, rotary=True)
        with torch.no_grad():
            found = Rpn(adapter.model, shape)(early(adapter, rows, shape))
        for row, logits in zip(rows, found, strict=True):
            _, columns, _, call = run_base(adapter, row, start + layers - 1)
            owners = call.query.shape[1] // call.key.shape[1]
            keys = call.key[0].repeat_interleave(owners, dim=0)[:, columns]
            by_hand = torch.einsum("hd,hnd->hn", call.query[0, :, -1], keys).mean(0)
            by_hand = by_hand / call.query.shape[-1] ** 0.5
            assert logits.dtype == torch.float32
            assert logits.shape == (row.visual_tokens,)
            assert (logits - by_hand).abs().max() <= BATCH * max(1.0, float(by_hand.abs().max()))


def rms(states: Tensor, norm: Any) -> Tensor:
    scaled = states / (states.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    return scaled * norm.weight


def rotated(heads: Tensor, ids: Tensor, sections: list[int], theta: float) -> Tensor:
    """[H, s, D] by position ids [3, s]: frequency f turns the pair (f, f + D/2) by the axis whose section
    it is in."""
    half = heads.shape[-1] // 2
    axis = [a for a, count in enumerate(sections) for _ in range(count)]
    result = heads.clone()
    for f in range(half):
        angle = ids[axis[f]].double() * theta ** (-f / half)
        cos, sin = angle.cos().float(), angle.sin().float()
        a, b = heads[..., f], heads[..., f + half]
        result[..., f], result[..., f + half] = a * cos - b * sin, b * cos + a * sin
    return result


@torch.no_grad()
@pytest.mark.parametrize(("family", "planar"), [("llava", False), ("qwen2_5_vl", True)])
def test_head_by_hand(family: str, planar: bool, load: Load) -> None:
    """From hidden states and weights, each formula written out: LLaVA with its norm and without rotation,
    Qwen2.5-VL with M-RoPE and keys that two heads share."""
    adapter = load(family)
    rows = prepared(adapter)
    shape = rpn_shape(adapter.model)
    assert shape == RpnShape(2, 3, norm=not planar, rotary=planar)
    rpn = Rpn(adapter.model, shape)
    layer = adapter.model.base_model.get_decoder().layers[4]
    if rpn.norm is not None:  # of ones it would be lost in the norm that follows
        rpn.norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    for row, logits in zip(rows, rpn(early(adapter, rows, shape)), strict=True):
        hidden, columns, ids, _ = run_base(adapter, row, 4)
        if not planar:
            hidden = rms(hidden, rpn.norm)
        normed = rms(hidden, layer.input_layernorm)
        projections = [(layer.self_attn.q_proj, normed[-1:]), (layer.self_attn.k_proj, normed[columns])]
        query, key = (
            (states @ part.weight.T + (0 if part.bias is None else part.bias)).view(len(states), -1, 16)
            for part, states in projections
        )
        query, key = query.transpose(0, 1), key.transpose(0, 1)
        if planar:
            query = rotated(query, ids[1:, 0, -1:], [2, 3, 3], 1e4)
            key = rotated(key, ids[1:, 0, columns], [2, 3, 3], 1e4)
        owner = [head // (len(query) // len(key)) for head in range(len(query))]
        by_hand = sum(query[h, 0] @ key[owner[h]].T / 4 for h in range(len(query))) / len(query)
        assert (logits - by_hand).abs().max() <= BATCH * max(1.0, float(by_hand.abs().max()))


def test_early_exit(load: Load) -> None:
    """No layer from K on is run, and no hook stays."""
    adapter = load("qwen2_5_vl")
    rows = prepared(adapter)
    layers = adapter.model.base_model.get_decoder().layers
    ran: list[int] = []
    handles = [
        each.mlp.register_forward_pre_hook(lambda m, a, i=i: ran.append(i)) for i, each in enumerate(layers)
    ]
    shape = rpn_shape(adapter.model)
    states = early(adapter, rows, shape)
    Rpn(adapter.model, shape)(states)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert not any(each._forward_pre_hooks for each in layers)
    output = encoded(adapter, rows)
    for start, count in ((0, 1), (5, 1), (3, 3), (2, 0)):
        with pytest.raises(UsageError, match="the language model has 0 to 4"):
            early_states(adapter, rows, output, output.features, start, count)


def test_hooks_stay_with_the_model(tiny_model: Tiny) -> None:
    """Also those that Accelerate puts on a model that it spreads over devices."""
    adapter = opened(tiny_model("qwen2_5_vl"))
    rows, shape = prepared(adapter)[:1], rpn_shape(adapter.model)
    with torch.no_grad():
        (expected,) = Rpn(adapter.model, shape)(early(adapter, rows, shape))
    for layer in adapter.model.base_model.get_decoder().layers:
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
        add_hook_to_module(layer.self_attn.q_proj, AlignDevicesHook(execution_device="cpu"))
    rpn = Rpn(adapter.model, shape)
    assert not any(hasattr(each, "_hf_hook") for each in rpn.modules())
    assert all(each.forward.__self__ is each for each in rpn.modules())
    with torch.no_grad():
        assert torch.equal(rpn(early(adapter, rows, shape))[0], expected)


def test_kinds_of_layers_that_come_late(tmp_path: Path) -> None:
    """Gemma 3 whose only layer of full attention is behind K: its mask and rotation are found there."""
    kinds = ["sliding_attention"] * 4 + ["full_attention", "sliding_attention"]
    adapter = opened(build("gemma3", tmp_path / "gemma3", layer_types=kinds, sliding_window=9))
    (row,) = prepared(adapter)[:1]
    shape = RpnShape(3, 3, norm=False, rotary=True)
    with torch.no_grad():
        (logits,) = Rpn(adapter.model, shape)(early(adapter, [row], shape))
    _, columns, _, call = run_base(adapter, row, 5)
    keys = call.key[0].repeat_interleave(2, dim=0)[:, columns]
    by_hand = torch.einsum("hd,hnd->hn", call.query[0, :, -1], keys).mean(0) / 4
    assert (logits - by_hand).abs().max() <= BATCH * max(1.0, float(by_hand.abs().max()))


def test_shapes(load: Load) -> None:
    model = load("llava").model
    assert rpn_shape(model, start=4) == RpnShape(4, 1, norm=True, rotary=False)
    assert rpn_shape(model, start=1, layers=4).layers == 4
    for start, layers, wrong in (
        (0, None, "from 1 to 4: got 0"),
        (5, None, "got 5"),
        (3, 3, "can have 1 to 2"),
    ):
        with pytest.raises(UsageError, match=wrong):
            rpn_shape(model, start, layers)
    with pytest.raises(UsageError, match="from 2 to 5: got 1"):  # behind the layers that deepstack feeds
        rpn_shape(load("qwen3_vl").model, start=1)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_reaches_the_copies_alone(family: str, dtype: torch.dtype, load: Load) -> None:
    adapter = load(family)
    rows, shape = prepared(adapter), rpn_shape(adapter.model)
    before = copy.deepcopy(adapter.model.state_dict())
    rpn = Rpn(adapter.model, shape).to(dtype).train()
    states = early(adapter, rows, shape)
    assert not states.hidden.requires_grad
    targets = [(torch.arange(row.visual_tokens) % 3 == 0).float() for row in rows]
    optimiser = torch.optim.AdamW(rpn.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        logits = torch.cat(rpn(states))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.cat(targets))
        optimiser.zero_grad()
        loss.backward()
        used = {name for name, p in rpn.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert used == {name for name, _ in rpn.named_parameters()}
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is None for p in adapter.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in adapter.model.state_dict().items())


def test_lower_precision_is_near(load: Load) -> None:
    """Also with the additive mask of eager attention, whose smallest number is -inf in a narrower dtype."""
    adapter = load("llava", "eager")
    rows, shape = prepared(adapter), rpn_shape(adapter.model)
    states = early(adapter, rows, shape)
    rpn = Rpn(adapter.model, shape)
    with torch.no_grad():
        exact = torch.cat(rpn(states))
        near = torch.cat(rpn.bfloat16()(states))
    assert bool(near.isfinite().all())
    assert (near - exact).abs().max() <= 0.05 * float(exact.abs().max())


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_signals_of_the_network(family: str, load: Load) -> None:
    adapter = load(family)
    rows, shape = prepared(adapter), rpn_shape(adapter.model)
    output = encoded(adapter, rows)
    asked, rpn = subjects(adapter, output, rows), Rpn(adapter.model, shape)
    together = read(adapter, asked, output, frozenset({"rpn"}), rpn=rpn)
    whole = rpn(early(adapter, rows, shape))
    for i, each in enumerate(together):
        assert each.signals.rpn is not None
        assert (each.signals.rpn - whole[i].detach()[asked[i].view.index]).abs().max() <= 1e-6
        alone = read(adapter, asked[i : i + 1], replace_features(output, i), frozenset({"rpn"}), rpn=rpn)
        (own,) = alone
        assert own.signals.rpn is not None
        scale = max(1.0, float(own.signals.rpn.abs().max()))
        assert (own.signals.rpn - each.signals.rpn).abs().max() <= BATCH * scale


# ------------------------------------------------------------------------------------------------ files


def described(adapter: Adapter, shape: RpnShape, **more: Any) -> RpnConfig:
    return RpnConfig(
        base=base_model(adapter),
        start=shape.start,
        layers=shape.layers,
        norm=shape.norm,
        rotary=shape.rotary,
        threshold=0.15,
        grounding_heads=((2, 1), (2, 3)),
        sink_heads=((1, 0),),
        labels={"foreground": 0.2, "background": 0.1},
        curve=(CurvePoint(step=0, loss=0.7), CurvePoint(step=10, loss=0.5, quality=0.25)),
        versions={"torch": "2", "accelerate": "1"},
        **more,
    )


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_file(family: str, load: Load, tmp_path: Path) -> None:
    adapter = load(family)
    rows, shape = prepared(adapter), rpn_shape(adapter.model)
    rpn = Rpn(adapter.model, shape)
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.mul_(1.01)
    config = described(adapter, shape, data_hash="sha256:0")
    save_rpn(tmp_path / "one", rpn, config)
    loaded, again = load_rpn(tmp_path / "one", adapter)
    assert again == config
    assert not any(p.requires_grad for p in loaded.parameters())
    states = early(adapter, rows, shape)
    assert torch.equal(torch.cat(loaded(states)), torch.cat(rpn(states)).detach())
    save_rpn(tmp_path / "two", loaded, again)
    swapped = config.model_copy(update={"versions": dict(reversed(config.versions.items()))})
    save_rpn(tmp_path / "three", rpn, swapped)
    for name in (CONFIG, WEIGHTS):
        assert len({(tmp_path / each / name).read_bytes() for each in ("one", "two", "three")}) == 1
    assert {each.name for each in (tmp_path / "one").iterdir()} == {CONFIG, WEIGHTS}
    assert str(tmp_path) not in (tmp_path / "one" / CONFIG).read_text()
    first = rpn_hash(tmp_path / "one")
    assert first == rpn_hash(tmp_path / "two")
    save_rpn(tmp_path / "two", rpn, config.model_copy(update={"threshold": 0.2}))
    assert rpn_hash(tmp_path / "two") != first


def test_files_of_other_models(load: Load, tiny_model: Tiny, tmp_path: Path) -> None:
    adapter = load("llava")
    shape = rpn_shape(adapter.model)
    folder = tmp_path / "mine"
    save_rpn(folder, Rpn(adapter.model, shape), described(adapter, shape))
    wide = opened(build("llava", tmp_path / "wide", hidden_size=32))
    deep = opened(build("llava", tmp_path / "deep", num_hidden_layers=6))
    other = opened(build("llava", tmp_path / "other", seed=1))
    for model, wrong in (
        (load("qwen2_5_vl"), r"mine: made for llava of family llava, but qwen2_5_vl is of family qwen2_5_vl"),
        (wide, r"mine: made for llava of hidden size 64, but wide is of hidden size 32"),
        (deep, r"mine: made for llava of depth 5, but deep is of depth 6"),
        (
            other,
            r"mine: made for llava \(revision sha256:\w+\), but the model at hand is other \(revision sha2",
        ),
    ):
        with pytest.raises(UsageError, match=wrong) as refused:
            load_rpn(folder, model)
        assert "\n" not in str(refused.value)
        assert f"vlmbench distill --model {model.loaded.id}" in str(refused.value)
    # the same weights under another name are the same model
    same = opened(build("llava", tmp_path / "renamed"))
    assert load_rpn(folder, same)[1].base.id == "llava"


def test_broken_files(load: Load, tmp_path: Path) -> None:
    adapter = load("llava")
    shape = rpn_shape(adapter.model)
    with pytest.raises(UsageError, match=r"no region proposal network: config.json is missing"):
        load_rpn(tmp_path / "none", adapter)
    folder = tmp_path / "mine"
    rpn = Rpn(adapter.model, shape)
    save_rpn(folder, rpn, described(adapter, shape))
    with pytest.raises(UsageError, match="with a configuration of"):
        save_rpn(folder, rpn, described(adapter, RpnShape(3, 1, norm=True, rotary=False)))
    good = json.loads((folder / CONFIG).read_text())
    for change, wrong in (
        ({"start": "two"}, "mine/config.json: not that of a region proposal network: start"),
        ({"kind": "llava"}, "kind"),
        ({"threshold": 1.5}, "threshold"),
        (
            {"start": 3, "layers": 1},
            r"rpn.safetensors: layers.0.\S+ is \[64\] in the file, none by config.json",
        ),
    ):
        (folder / CONFIG).write_text(json.dumps({**good, **change}))
        with pytest.raises(UsageError, match=wrong):
            load_rpn(folder, adapter)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UsageError, match="not that of a region proposal network"):
        load_rpn(folder, adapter)
    (folder / CONFIG).write_text(json.dumps(good))
    (folder / WEIGHTS).write_bytes(b"not")
    with pytest.raises(UsageError, match=r"rpn\.safetensors: not a safetensors file"):
        load_rpn(folder, adapter)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UsageError, match=r"rpn\.safetensors is missing beside config\.json"):
        load_rpn(folder, adapter)
