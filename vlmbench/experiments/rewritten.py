"""`perturb --rewrite FILE`: a file of rewrites, matched with the task that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.conditions import Part, label_for
from vlmbench.errors import UsageError
from vlmbench.items import Item
from vlmbench.perturb.rewriting.frozen import Rewrites, read_rewrites, source_hash
from vlmbench.perturb.rewriting.languages import NAMES, PARAPHRASE
from vlmbench.perturb.text import QUESTIONS
from vlmbench.schema import Record, State

if TYPE_CHECKING:
    from vlmbench.experiments.tables import TaskPlan
    from vlmbench.metrics.tabulate import Variation
    from vlmbench.tasks.load import Task

FAMILY = "rewrite"


def is_file(name: str) -> bool:
    """Whether this name of `--rewrite` is a path and no suite."""
    return name.lower().endswith((".jsonl", ".json")) or "/" in name or Path(name).is_file()


def read_files(names: Sequence[str]) -> dict[str, Rewrites]:
    """The files among these names, by the task that they are for. Raises UsageError."""
    found: dict[str, Rewrites] = {}
    for name in filter(is_file, names):
        rewrites = read_rewrites(Path(name).expanduser())
        task = rewrites.header.task.name
        if task in found:
            raise UsageError(f"--rewrite: {found[task].path} and {name} are both for task {task!r}; give one")
        found[task] = rewrites
    return found


def parts_of(rewrites: Rewrites, given: Mapping[str, str] | None = None) -> list[Part]:
    """A part for each kind and index of a file, or for those that `given` parameters leave.

    Raises UsageError for parameters that no rewrite of the file has.
    """
    wanted = dict(given or {})
    if "file" in wanted:
        raise UsageError(f"{FAMILY} takes its file from --rewrite FILE, not from a parameter")
    entry = QUESTIONS.get(FAMILY)
    asked = entry.part(**wanted).parameters
    found = [
        _part({**wanted, "kind": kind, "index": index, "file": rewrites.sha256})
        for kind, index in rewrites.variants
        if all(asked[key] == value for key, value in (("kind", kind), ("index", index)) if key in wanted)
    ]
    if not found:
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in rewrites.variants))
        shown = ",".join(f"{key}={value}" for key, value in wanted.items())
        raise UsageError(f"{rewrites.path} holds no {FAMILY}({shown}); its kinds: {kinds}")
    return found


def _part(given: Mapping[str, str | int]) -> Part:
    """The file is one for a task: it is in the parameters, and need not be in every id."""
    entry = QUESTIONS.get(FAMILY)
    part = entry.part(**given)
    shown = {
        p.name: v for p in entry.params if p.name != "file" and (v := part.parameters[p.name]) != p.default
    }
    return replace(part, label=label_for(FAMILY, shown))


def refuse_strangers(files: Mapping[str, Rewrites], tasks: Sequence[str]) -> None:
    """Raises UsageError for a file of a task that is not asked for."""
    for name, rewrites in files.items():
        if name not in tasks:
            raise UsageError(
                f"--rewrite {rewrites.path} holds rewrites of task {name!r}, and the run is of "
                f"{', '.join(map(repr, tasks))}"
            )


def attached(task: Task, items: Sequence[Item], rewrites: Rewrites | None) -> list[Item]:
    """The items with their rewrites. Raises UsageError where the file was made from other data."""
    if rewrites is None:
        return list(items)
    found = rewrites.of_items()
    header = rewrites.header.task
    known = set(task.ids())
    hashes = {row.item: row.source for row in rewrites.rows}
    missing = [name for name in found if name not in known]
    changed = [item.id for item in items if item.id in hashes and hashes[item.id] != source_hash(item)]
    same = (header.version, header.data) == (task.version, task.data_hash)
    if missing or changed or not same:
        raise UsageError(_mismatch(task, rewrites, missing, changed, len(found), same))
    mine = [item.changed(rewrites=found.get(item.id, {})) for item in items]
    if not any(item.rewrites for item in mine):
        raise UsageError(
            f"--rewrite {rewrites.path} has a rewrite for none of the {len(items)} items of this run: it was "
            f"made with --limit {rewrites.header.limit or 'all'} --seed {rewrites.header.seed}"
        )
    return mine


def _mismatch(
    task: Task, rewrites: Rewrites, missing: Sequence[str], changed: Sequence[str], total: int, same: bool
) -> str:
    told = []
    if not same:
        there, here = rewrites.header.task, (task.version, task.data_hash)
        told.append(
            f"made from version {there.version}, data {there.data[:12]}; now version {here[0]}, "
            f"data {here[1][:12]}"
        )
    if missing:
        told.append(f"{len(missing)} of its {total} items are not in the task, first {_first(missing)}")
    if changed:
        told.append(f"{len(changed)} items have another question now, first {_first(changed)}")
    if not missing and not changed:
        told.append(f"all {total} items are there with their questions, but other fields or images changed")
    return (
        f"--rewrite {rewrites.path} does not match task {task.name!r}: {'; '.join(told)}; make it again with "
        "`vlmbench rewrite`"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3]))


def refuse_unaskable(
    rewrites: Rewrites, variations: Sequence[Variation], reaches: Callable[[Part], bool]
) -> None:
    """Raises UsageError where the model can be asked none of the rewrites: there would be nothing to tell.

    reaches: whether a question perturbation changes what the model reads, in words that it knows.
    """
    parts = [v.condition.question for v in variations]
    mine = [part for part in parts if part is not None and part.name == FAMILY]
    if not mine or any(map(reaches, mine)):
        return
    forced = [p for p in mine if p.parameters["force"] and p.parameters["kind"] != PARAPHRASE]
    hint = f'; try --perturb "{FAMILY}(force=false)", which asks for no language' if forced else ""
    raise UsageError(
        f"--rewrite {rewrites.path}: none of its rewrites can be asked: the model's tokenizer does not know "
        f"their words, or reads them as the question itself{hint}"
    )


def unaskable(plans: Sequence[TaskPlan], records: Mapping[tuple[str, str, str], Record]) -> list[str]:
    """A note for every language in which no question at all could be put to the model."""
    from vlmbench.models.words import UNKNOWN_WORDS

    notes: dict[str, None] = {}
    for plan in plans:
        for variation in plan.variations:
            part = variation.condition.question
            if part is None or part.name != FAMILY or part.parameters["kind"] == PARAPHRASE:
                continue
            found = [records.get((plan.task.name, item.id, variation.condition.id)) for item in plan.items]
            asked = [r for r, item in zip(found, plan.items, strict=True) if r is not None and item.rewrites]
            words = [r for r in asked if r.state is State.NOT_APPLICABLE and r.detail == UNKNOWN_WORDS]
            if words and not any(r.state.counts for r in asked):
                kind = str(part.parameters["kind"])
                notes[
                    f"{plan.task.name}: the model cannot be asked in {NAMES[kind]}: its tokenizer does not "
                    f"know words of any of {len(words)} rewrites ({part.label})"
                ] = None
    return list(notes)
