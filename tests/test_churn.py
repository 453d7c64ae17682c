"""Selection churn of every kind of method: tokens kept and frozen, before and inside the language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from torch import Tensor

from vlmbench.conditions import Condition
from vlmbench.engine.choice import choose, overlap
from vlmbench.engine.frozen import moved
from vlmbench.engine.origins import Origins, Shown
from vlmbench.engine.plan import Request, pruner_of
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.engine.sight import Sight
from vlmbench.engine.store import read_records
from vlmbench.experiments.options import RunOptions
from vlmbench.experiments.perturb import PerturbOptions, variations
from vlmbench.experiments.perturb import run as perturb
from vlmbench.items import Item
from vlmbench.metrics.churn import is_frozen
from vlmbench.models.adapter import Adapter
from vlmbench.models.inside import InsideLog
from vlmbench.models.loading import load_model
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.text import QUESTIONS
from vlmbench.prune import PRUNERS, get
from vlmbench.prune.base import Reduced
from vlmbench.schema import Record, State

Tiny = Callable[[str], Path]
Records = Mapping[tuple[str, str, str], Record]

METHODS = [
    entry.name
    for entry in PRUNERS
    if "mask" in entry.part().parameters and not entry.derived and entry.load().stage != "image"
]
INSIDE = ["fastv(K=1,ratio=0.5)", "dart(K=1,ratio=0.5)"]
STAGES = ["pyramiddrop(ratio=0.5)", "sparsevlm(ratio=0.5)"]
"""Three cuts, which need more layers than the tiny models have."""
BEFORE = [f"{name}(ratio=0.5)" for name in ("divprune", "mmtok", "prumerge", "visionzip", "pool")]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The demo under a shift by nothing and a shift by pixels, with every method that chooses tokens."""
    out = tmp_path_factory.mktemp("still") / "run"
    options = RunOptions("demo", "demo", out=out, limit=4, batch_size=4, show_progress=False)
    prune = ",".join(f"{name}@0.6" for name in METHODS)
    perturb(options, PerturbOptions(families="shift(dx=0)", repeats=0, prune=prune, churn=True))
    return read_records(out)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_perturbed_keeps_the_same_tokens_and_answers(method: str, still: Records) -> None:
    served = 0
    for (task, item, condition), anew in still.items():
        if not condition.startswith(f"shift+{method}(ratio"):
            continue
        clean = still[task, item, condition.removeprefix("shift+")]
        frozen = still[task, item, condition.replace("(ratio", "(mask=frozen,ratio")]
        assert anew.state == clean.state
        if anew.state is State.NOT_APPLICABLE:
            assert frozen.state is State.NOT_APPLICABLE
            continue
        served += 1
        assert anew.kept_overlap == 1
        assert (frozen.kept_hash, frozen.layer_tokens) == (anew.kept_hash, anew.layer_tokens)
        assert frozen.raw == anew.raw == clean.raw
        assert frozen.prob == pytest.approx(anew.prob, abs=1e-4)
    assert served or method == "cdpruner", "the demo lacks nothing but a CLIP with a text tower"


@dataclass(frozen=True)
class Noise:
    """A picture of coloured noise, made anew whenever it is loaded."""

    seed: int

    @property
    def key(self) -> str:
        return f"noise {self.seed}"

    def load(self) -> Image.Image:
        pixels = np.random.default_rng(self.seed).integers(0, 255, (144, 144, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Callable[[str], Adapter]:
    """`load("demo")`, or a tiny model of a family."""

    @cache
    def adapter(name: str) -> Adapter:
        return Adapter(load_model(name if name == "demo" else str(tiny_model(name)), device="cpu"))

    return adapter


def kept(
    adapter: Adapter,
    method: str,
    image: str,
    seeds: Sequence[int],
    rows: int = 0,
    question: str = "",
    origins: Origins | None = None,
) -> tuple[list[Tensor], list[float | None]]:
    """Of each noise picture the tokens that are left, and their overlap with those of the unperturbed one."""
    condition = Condition(
        question=QUESTIONS.expand(question)[0] if question else None,
        image=IMAGES.expand(image)[0] if image else None,
        prune=PRUNERS.expand(method)[0],
    )
    words = ("what is this ?", "is there a red cat on the mat ?", "how many dogs are there ?")
    preparer = Preparer(adapter, 0, {"own": 1}, with_origins=True)
    ready: list[Prepared] = []
    for seed in seeds:
        item = Item(f"i{seed}", words[seed % 3], (Noise(seed),), ("yes",), f"i{seed}")
        prepared = preparer.prepare(Request("own", item, condition))
        assert isinstance(prepared, Prepared), prepared
        ready.append(prepared)
    shown = [*ready, *(p.origin for p in ready if p.origin is not None)]
    distinct = {p.request.pixels_group: p.row for p in shown}
    pruner, sight = pruner_of(condition), Sight(adapter)
    assert pruner is not None
    encoded = adapter.encode([*distinct.values()], pruner.needs)
    by_group = dict(zip(distinct, encoded.features, strict=True))
    shown_as = Shown(by_group, encoded, rows or len(ready), 0, "counted")
    choice = choose(sight, pruner, ready, shown_as, origins or Origins())
    generations = adapter.answer([p.row for p in ready], encoded, choice.applied.served(), 1)
    found = [generation.kept for generation in generations]
    overlaps = [
        overlap(sight, old, p, by_group[p.request.pixels_group], one)
        for old, p, one in zip(choice.before, ready, found, strict=True)
    ]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None], overlaps


def as_frozen(method: str) -> str:
    return f"{method[:-1]},mask=frozen)"


@pytest.mark.parametrize("method", [*INSIDE, *STAGES, *BEFORE])
def test_a_shift_by_a_patch_moves_the_frozen_tokens_by_one(
    method: str, load: Callable[[str], Adapter]
) -> None:
    """And no others; the picture wraps around, and so do they."""
    adapter = load("demo")
    (before,), _ = kept(adapter, method, "", [1])
    (after,), _ = kept(adapter, as_frozen(method), "shift(patches=1)", [1])
    (whole,), _ = kept(adapter, "identity", "", [1])
    side = math.isqrt(len(whole))
    assert side**2 == len(whole) > len(before) > 0
    row, column = before // side, before % side
    assert after.tolist() == sorted((row * side + (column + 1) % side).tolist())


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, method) for family in ("demo", "llava_next", "qwen2_5_vl") for method in INSIDE),
        *(("demo", method) for method in (*STAGES, "mmtok(ratio=0.5)", "prumerge(ratio=0.5)")),
        ("llava_next", "visionzip(ratio=0.5)"),
        ("qwen2_5_vl", "pool(ratio=0.5)"),
    ],
)
def test_neighbours_in_the_batch_change_nothing(
    method: str, family: str, load: Callable[[str], Adapter]
) -> None:
    adapter = load(family)
    for name in (method, as_frozen(method)):
        together, overlaps = kept(adapter, name, "shift(dx=5)", [0, 1, 2])
        for seed, among in enumerate(together):
            (alone,), same = kept(adapter, name, "shift(dx=5)", [seed])
            assert alone.tolist() == among.tolist()
            assert same == [overlaps[seed]]
        filled, _ = kept(adapter, name, "shift(dx=5)", [0, 1, 2], rows=4)
        assert [one.tolist() for one in filled] == [one.tolist() for one in together]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(("demo", method) for method in (*INSIDE, *STAGES, "mmtok(ratio=0.5)")),
        *(("llava_next", method) for method in (*INSIDE, "mmtok(ratio=0.5)")),
    ],
)
def test_under_a_rewrite_the_overlap_is_by_token_and_frozen_are_those_of_the_original(
    method: str, family: str, load: Callable[[str], Adapter]
) -> None:
    adapter = load(family)
    before, _ = kept(adapter, method, "", [0, 1, 2])
    frozen, _ = kept(adapter, as_frozen(method), "", [0, 1, 2], question="polite")
    assert [one.tolist() for one in frozen] == [one.tolist() for one in before]
    anew, overlaps = kept(adapter, method, "", [0, 1, 2], question="polite")
    for old, new, share in zip(before, anew, overlaps, strict=True):
        assert share == pytest.approx(len({*old.tolist()} & {*new.tolist()}) / len(new))


def test_unperturbed_prompts_are_read_once_and_up_to_the_last_cut(
    load: Callable[[str], Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the tokens chosen anew and for the frozen ones together."""
    adapter, origins = load("demo"), Origins()
    reached: list[set[int]] = []
    real = Adapter.read

    def read(self: Adapter, *given: Any) -> InsideLog:
        reached.append(set())
        layers = self.model.base_model.get_decoder().layers
        hooks = [
            layer.register_forward_hook(lambda *_, i=i: reached[-1].add(i)) for i, layer in enumerate(layers)
        ]
        log = real(self, *given)
        for hook in hooks:
            hook.remove()
        return log

    monkeypatch.setattr(Adapter, "read", read)
    kept(adapter, STAGES[0], "shift(dx=3)", [0, 1], origins=origins)
    kept(adapter, as_frozen(STAGES[0]), "shift(dx=3)", [0, 1], origins=origins)
    last = get("pyramiddrop")(ratio=0.5).schedule(144, adapter.layers)[-1].layer
    assert 0 < last < adapter.layers
    assert reached == [set(range(last))]
    kept(adapter, as_frozen(STAGES[0]), "shift(dx=3)", [0, 2], origins=origins)
    assert len(reached) == 2, "of other requests"


def test_a_method_that_sees_no_question_is_not_run_again_under_a_rewrite() -> None:
    options = PerturbOptions(
        suite="none", rewrite="templates", prune="zoo@0.9,mmtok@0.9,fastv@0.5,downsample@0.9", churn=True
    )
    frozen = {v.condition.prune.name for v in variations(options) if is_frozen(v)}  # type: ignore[union-attr]
    assert frozen == {"mmtok", "fastv"}


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Reduced | Tensor], Tensor, int]:
    """Answers at up to three cuts, the first for n tokens that lie elsewhere among m."""
    n = draw(st.integers(1, 7))
    m, extra = n + draw(st.integers(0, 2)), draw(st.integers(0, 1))
    to = torch.tensor(draw(st.permutations(range(m)))[:n])
    answers: list[Reduced | Tensor] = []
    left = n
    for cut in range(draw(st.integers(1, 3))):
        k = draw(st.integers(1, left))
        places = torch.tensor(draw(st.permutations(range(left)))[:k])
        if draw(st.booleans()):
            answers.append(places.sort().values)
        else:
            width = left + (extra if cut == 0 else 0)
            weights = torch.tensor(
                draw(
                    st.lists(
                        st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=k, max_size=k
                    )
                )
            ).float()
            answers.append(Reduced(torch.empty(0), torch.full((k,), -1), weights, places))
        left = k
    return answers, to, m


@settings(max_examples=200, deadline=None)
@given(chains())
def test_what_is_repeated_makes_the_same_tokens_in_the_moved_places(
    chain: tuple[list[Reduced | Tensor], Tensor, int],
) -> None:
    """Place by place: whatever was made of tokens before is made of them where they are now."""
    answers, to, m = chain
    told = moved(dict(enumerate(answers)), to, m)
    old = torch.randn(len(to), 3, generator=torch.Generator().manual_seed(0)).double()
    new = torch.full((m, 3), 1e6).double()  # what came from nowhere is used by nobody
    new[to] = old
    extra, place_old, place_new = torch.ones(1, 3).double(), to.clone(), torch.arange(m)
    for cut, before in enumerate(answers):
        after = told[cut]
        if isinstance(before, Reduced):
            assert isinstance(after, Reduced)
            own = torch.cat([old, extra])[: before.weights.shape[1]]
            there = torch.cat([new, extra])[: after.weights.shape[1]]
            old, new = before.weights.double() @ own, after.weights.double() @ there
            place_old, place_new = place_old[before.position_from], place_new[after.position_from]
        else:
            assert isinstance(after, Tensor)
            assert after.tolist() == sorted({*after.tolist()})
            old, new, place_old, place_new = old[before], new[after], place_old[before], place_new[after]
        made = {int(p): row for p, row in zip(place_new, new, strict=True)}
        assert made.keys() == {*place_old.tolist()}
        for p, row in zip(place_old.tolist(), old, strict=True):
            assert torch.allclose(made[p], row)


def test_controls_that_choose_no_tokens_have_no_churn(tmp_path: Path) -> None:
    options = RunOptions(limit=7, batch_size=8, out=tmp_path / "run", show_progress=False)
    plan = PerturbOptions(
        families="shift(dx=3)",
        rewrite="none",
        repeats=0,
        churn=True,
        prune="identity,blind,swapped,random@0.9",
    )
    table = perturb(options, plan).table
    assert {s.group["churn"] for s in table.summaries if "churn" in s.group} == {"random(ratio=0.9)"}
    assert {c.parts["prune"]["name"] for c in table.cells if "kept_overlap" in c.metrics} == {"random"}
