"""Before a run: which of its pruners this model cannot serve, and why, found out on one item."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmbench.conditions import CLEAN, Condition, Part
from vlmbench.engine.compute import Answerer, is_out_of_memory
from vlmbench.engine.plan import Request, pruner_of
from vlmbench.engine.prepare import Prepared, Preparer
from vlmbench.errors import ContractError, ItemError, NotApplicableError, UsageError
from vlmbench.prune import PRUNERS

if TYPE_CHECKING:
    from vlmbench.items import Item


def unserved(
    answerer: Answerer, preparer: Preparer, task: str, items: Sequence[Item], parts: Iterable[Part]
) -> dict[str, str]:
    """Label of each pruner that the model refuses -> the reason, in one line.

    One request per method goes the whole way: what a family lacks shows here and not after an hour.
    """
    whole = [item for item in items if item.images and not item.meta.get("error")]
    item = next((item for item in whole if item.boxes), whole[0] if whole else None)
    reasons: dict[str, str] = {}
    by_method: dict[tuple[Any, ...], str | None] = {}
    for part in parts if item is not None else ():
        assert item is not None
        name = PRUNERS.get(part.name).draw_key(part)  # everything but the budget
        if name not in by_method:
            by_method[name] = _reason(answerer, preparer, Request(task, item, Condition(prune=part)))
        reason = by_method[name]
        if reason is not None:
            reasons[part.label] = reason
    return reasons


def _reason(answerer: Answerer, preparer: Preparer, request: Request) -> str | None:
    pruner = pruner_of(request.condition)
    assert pruner is not None
    alone = replace(answerer, needs=pruner.needs, encodings=type(answerer.encodings)())
    try:
        prepared = preparer.prepare(request)
        if isinstance(prepared, Prepared):
            alone.forward([prepared], 1, 1, {"encode": 0.0, "generate": 0.0})
    except UsageError as refusal:
        return str(refusal)
    except (NotApplicableError, ItemError):
        return None  # of this item or budget: its record will say it
    except Exception as error:
        if is_out_of_memory(error):
            return None
        if isinstance(error, ContractError) or type(pruner).__module__.startswith("vlmbench."):
            raise  # told already, or a defect of this package, not of somebody's method
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"pruner {request.condition.id} failed on item {request.item.id}: {what}") from error
    return None


def check_keep(preparer: Preparer, task: str, items: Sequence[Item], parts: Iterable[Part]) -> None:
    """Raises UsageError where a count of kept tokens exceeds what any of the first images has."""
    keep = max((int(part.parameters.get("keep", 0)) for part in parts), default=0)
    if not keep:
        return
    counts = []
    for item in [item for item in items if item.images][:8]:
        prepared = preparer.prepare(Request(task, item, CLEAN))
        if isinstance(prepared, Prepared):
            counts.append(prepared.row.visual_tokens // len(item.images))
    if counts and keep > max(counts):
        raise UsageError(
            f"keep={keep} exceeds the {max(counts)} visual tokens that this model makes of an image "
            f"of task {task}"
        )
