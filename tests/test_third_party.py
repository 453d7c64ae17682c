"""A method from elsewhere: it cannot change what others see, and what it gets wrong is told by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from test_pruning import bench_of, method, told
from torch import Tensor

from vlmbench.engine.checks import MASKING, SELECTION, check
from vlmbench.engine.checks_run import Bench, Method
from vlmbench.errors import ContractError, ItemError
from vlmbench.prune import PRUNERS
from vlmbench.prune.base import NEEDS, Context, Cut, Pruner, Reduced, Stage
from vlmbench.prune.contract import private
from vlmbench.registry import Entry

Tiny = Callable[[str], Path]
Load = Callable[[str], Bench]

BEFORE = frozenset(NEEDS) - {"clip_relevance"}
ANSWERS: dict[str, Any] = {}
"""What the methods below say, by name; a test sets them."""


def tensors(seen: Any) -> dict[str, Tensor]:
    """Of a dataclass, by field, those within its fields too."""
    found: dict[str, Tensor] = {}
    for field in fields(seen):
        value = getattr(seen, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif field.name == "llm" and value is not None:
            found |= {f"llm.{name}": each for name, each in tensors(value).items()}
    return found


def spoil(ctx: Context) -> None:
    for value in tensors(ctx).values():
        value.zero_()


@dataclass(frozen=True, kw_only=True)
class Centres(Pruner):
    """Writes in everything that it is given."""

    spoils: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return BEFORE

    def score(self, ctx: Context) -> Tensor:
        score = ctx.features.float().norm(dim=1)
        if self.spoils:
            spoil(ctx)
        return score


@dataclass(frozen=True, kw_only=True)
class CentresInside(Centres):
    stage: ClassVar[Stage] = "llm"

    def schedule(self, n: int, layers: int) -> tuple[Cut, ...]:
        return Cut(1, max(1, n // 2)), Cut(3, max(1, n // 3))


@dataclass(frozen=True, kw_only=True)
class Halves(Pruner):
    """Merges what it has centred in place: the weights do not give the features."""

    merges: ClassVar[bool] = True

    def reduce(self, ctx: Context, k: int) -> Reduced:
        rows = ctx.features
        rows -= rows.mean(0)
        at = torch.arange(k, device=rows.device)
        return Reduced(rows[:k].clone(), at.new_full((k,), -1), torch.eye(k, ctx.n).to(rows), at)


@dataclass(frozen=True, kw_only=True)
class Says(Pruner):
    """Scores as a test says."""

    def score(self, ctx: Context) -> Tensor:
        answer: Tensor = ANSWERS["score"](ctx)
        return answer


@dataclass(frozen=True, kw_only=True)
class Misspelt(Pruner):
    @property
    def needs(self) -> frozenset[str]:
        found: frozenset[str] = ANSWERS["needs"]
        return found


@pytest.fixture(scope="module")
def load(tiny_model: Tiny) -> Load:
    return cache(lambda family: bench_of(tiny_model(family)))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], Method]:
    def add(kind: type) -> Method:
        entry = Entry(kind.__name__.lower(), kind, "a test's", params=get_params())
        monkeypatch.setitem(PRUNERS._entries, entry.name, entry)
        return method(entry.name)

    return add


def get_params() -> Any:
    return PRUNERS.get("norm").params


@pytest.mark.parametrize("kind", [Centres, CentresInside])
def test_writing_in_place_changes_nothing_else(kind: type[Centres], load: Load) -> None:
    """Two images with everything captured, one of them as large as its grid: views and not copies of it."""
    bench = replace(load("llava"), encodings={}, runs={})
    encoded = bench.encode(BEFORE)
    before = [
        {name: value.clone() for part in (row, *row.images) for name, value in tensors(part).items()}
        for row in encoded.features
    ]
    name = "random@0.5"  # whose class says nothing of the run's answers
    polite = bench.run_again(method(name), kind(ratio=0.5, spoils=False))
    rude = bench.run_again(method(name), kind(ratio=0.5))
    assert torch.equal(polite.answers.logits, rude.answers.logits)
    for row, old in zip(encoded.features, before, strict=True):
        now = {name: value for part in (row, *row.images) for name, value in tensors(part).items()}
        assert now.keys() == old.keys()
        assert all(torch.equal(now[name], old[name]) for name in now)
    for innocent in ("divprune@0.5", "visionzip@0.5"):
        for each in (MASKING, SELECTION):
            found = check(each, bench, method(innocent))
            assert found.state == "pass", told(found)


def test_methods_of_this_package_get_no_copies() -> None:
    ctx = Context(torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.long))
    for entry in PRUNERS:
        assert private(entry.build(entry.part()), [ctx])[0] is ctx, entry.name
    (own,) = private(Centres(), [ctx])
    assert own.features.data_ptr() != ctx.features.data_ptr()


def test_the_check_sees_what_a_method_was_given(load: Load, registered: Callable[[type], Method]) -> None:
    bench = replace(load("llava"), runs={})
    found = check(SELECTION, bench, registered(Halves))
    assert found.state == "FAIL"
    assert "the weights do not give the features" in found.detail


WRONG = {
    "one short": (
        lambda ctx: torch.zeros(ctx.n - 1),
        ContractError,
        r"score must return a tensor \[\d+\]: got",
    ),
    "a column": (lambda ctx: torch.zeros(ctx.n, 1), ContractError, r"got shape \[\d+, 1\]"),
    "a list": (lambda ctx: [0.0] * ctx.n, ContractError, "got list"),
    "none is a number": (
        lambda ctx: torch.full((ctx.n,), torch.nan),
        ItemError,
        r"not finite for (\d+) of .* \1",
    ),
    "one infinite": (
        lambda ctx: torch.arange(ctx.n).float().log(),
        ItemError,
        r"for 1 of an image's \d+ tokens",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_scores_are_checked(
    case: str, load: Load, registered: Callable[[type], Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, error, said = WRONG[case]
    monkeypatch.setitem(ANSWERS, "score", answer)
    bench = replace(load("llava"), runs={})
    contexts = [Context(torch.ones(n, 2), torch.zeros(n, 3, dtype=torch.long)) for n in (6, 9)]
    with pytest.raises(error, match=f"pruner Says.*{said}"):
        Says(ratio=0.5).select(contexts[0], 3)
    with pytest.raises(error, match=f"pruner Says.*{said}"):
        Says(ratio=0.5).select_many(contexts, [3, 3])
    with pytest.raises(error, match=f"pruner Says.*{said}"):
        bench.run_again(method("random"), Says(ratio=0.5))
    found = check(SELECTION, bench, registered(Says))
    assert found.state == "FAIL"
    assert "pruner Says" in found.detail


def test_integer_and_boolean_scores_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = Context(torch.ones(5, 2), torch.zeros(5, 3, dtype=torch.long))
    for score in (torch.tensor([0, 1, 0, 2, 0]), torch.tensor([0, 1, 0, 1, 0]).bool()):
        monkeypatch.setitem(ANSWERS, "score", lambda _, score=score: score)
        assert Says().select(ctx, 2).tolist() == [1, 3]


def test_misspelt_needs_are_told_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("misspelt", Misspelt, "a test's", params=get_params())
    for needs, said in (
        (frozenset({"atention"}), r"needs names 'atention', unknown: did you mean 'attention'\? known: proj"),
        (frozenset({"keys", "zzz"}), r"needs names 'zzz', unknown; known: attention, "),
        ({"keys"}, "needs must be a frozenset of names"),
        ("keys", "needs must be a frozenset of names"),
    ):
        monkeypatch.setitem(ANSWERS, "needs", needs)
        with pytest.raises(ContractError, match=f"pruner Misspelt broke its contract: {said}"):
            entry.build(entry.part(ratio=0.5))
    monkeypatch.setitem(ANSWERS, "needs", frozenset(NEEDS))
    assert entry.build(entry.part()).needs == set(NEEDS)


def test_contract_errors_of_the_check_name_the_method(
    load: Load, registered: Callable[[type], Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Says, "select", lambda self, ctx, k: torch.zeros(k, dtype=torch.long))
    found = check(SELECTION, replace(load("llava"), runs={}), registered(Says))
    assert found.state == "FAIL"
    assert "pruner Says broke its contract: select must return" in found.detail
