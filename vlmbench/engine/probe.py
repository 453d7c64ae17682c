"""Before a run: which of its pruners this model cannot serve, and why, found out on its first item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlmbench.conditions import CLEAN, Condition, Part
from vlmbench.engine.compute import Answerer, is_out_of_memory, pruner_of
from vlmbench.engine.plan import Request
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
    item = next((item for item in items if item.images and not item.meta.get("error")), None)
    reasons: dict[str, str] = {}
    by_method: dict[str, str | None] = {}
    for part in parts if item is not None else ():
        assert item is not None
        name = digest_of(part)
        if name not in by_method:
            by_method[name] = _reason(answerer, preparer, Request(task, item, Condition(prune=part)))
        reason = by_method[name]
        if reason is not None:
            reasons[part.label] = reason
    return reasons


def digest_of(part: Part) -> str:
    """The method without its budget."""
    budget = {param.name for param in PRUNERS.get(part.name).params if param.strength}
    return repr((part.name, [pair for pair in part.params if pair[0] not in budget]))


def _reason(answerer: Answerer, preparer: Preparer, request: Request) -> str | None:
    pruner = pruner_of(request)
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


def most_tokens(preparer: Preparer, task: str, items: Sequence[Item]) -> int:
    """Most visual tokens of an image among the first items."""
    most = 0
    for item in [item for item in items if item.images][:8]:
        prepared = preparer.prepare(Request(task, item, CLEAN))
        if isinstance(prepared, Prepared):
            most = max(most, prepared.row.visual_tokens // len(item.images))
    return most


def check_keep(counts: Mapping[str, int], parts: Iterable[Part]) -> None:
    """Raises UsageError where a count of kept tokens exceeds what any of the images has.

    counts: most visual tokens of an image, by task.
    """
    for part in parts:
        keep = part.parameters.get("keep")
        for task, most in counts.items():
            if isinstance(keep, int) and 0 < most < keep:
                raise UsageError(
                    f"keep={keep} exceeds the {most} visual tokens that this model makes of an image "
                    f"of task {task}"
                )
