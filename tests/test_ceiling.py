"""The best of several draws, told from records written by hand."""

from __future__ import annotations

from vlmbench.experiments.ceiling import answered, with_ceilings
from vlmbench.experiments.prune import PruneOptions, variations
from vlmbench.schema import Record, State

WRITTEN: dict[str, tuple[list[tuple[State, float | None]], int | None]] = {
    "one right": ([(State.PARSED, 0.0), (State.PARSED, 1.0), (State.PARSED, 0.5)], 1),
    "two right": ([(State.PARSED, 0.3), (State.PARSED, 1.0), (State.PARSED, 1.0)], 1),
    "last is right": ([(State.PARSED, 0.0), (State.UNPARSED, 0.0), (State.PARSED, 0.3)], 2),
    "all wrong": ([(State.PARSED, 0.0), (State.PARSED, 0.0), (State.PARSED, 0.0)], 0),
    "without a score": ([(State.NOT_APPLICABLE, None), (State.PARSED, 0.0), (State.PARSED, 0.0)], 1),
    "one failed": ([(State.PARSED, 1.0), (State.ERROR, None), (State.PARSED, 0.0)], 1),
    "never computed": ([(State.PARSED, 1.0), (State.PARSED, 1.0)], None),
}
"""States and scores of the draws by item, and the draw that stands for the best of three."""


def test_the_best_draw_of_each_item_stands_for_all() -> None:
    plan = PruneOptions(methods="best-of-n(n=3)", ratios="0.75")
    asked = variations(plan)
    (ceiling,) = (v.condition.id for v in asked if v.condition.id.startswith("best"))
    draws = ["random(ratio=0.75)", "random(draw=1,ratio=0.75)", "random(draw=2,ratio=0.75)"]
    assert set(draws) <= {condition.id for condition in answered(asked)}
    assert ceiling not in {condition.id for condition in answered(asked)}
    records = {
        ("t", item, draw): Record(
            task="t", item=item, condition=draw, key="k", state=state, score=score, answer=f"of {draw}"
        )
        for item, (drawn, _) in WRITTEN.items()
        for draw, (state, score) in zip(draws, drawn, strict=False)
    }
    found = with_ceilings(records, "t", list(WRITTEN), asked)
    assert records.items() <= found.items()
    for item, (_, best) in WRITTEN.items():
        record = found.get(("t", item, ceiling))
        if best is None:
            assert record is None, item
            continue
        wanted = records["t", item, draws[best]].model_copy(update={"condition": ceiling})
        assert record == wanted, item
