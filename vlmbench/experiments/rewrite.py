"""`rewrite`: paraphrases and translations of a task's questions, made once, verified, frozen in a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.errors import ItemError, UsageError
from vlmbench.models.aliases import is_served, resolve
from vlmbench.models.endpoint_address import Server, find_address, refuse_server, served_name
from vlmbench.perturb.rewriting.frozen import Header, Source, dump, is_rewrites, read_header
from vlmbench.perturb.rewriting.languages import KINDS, MOST, NAMES
from vlmbench.perturb.rewriting.prompt import PROMPT_HASH
from vlmbench.table_io import write_text_atomically
from vlmbench.tasks.load import Task, find_spec, load_task

if TYPE_CHECKING:
    from vlmbench.experiments.asking import Asker
    from vlmbench.experiments.rewriting import Wanted

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class RewriteOptions:
    """What is rewritten, by what, and how that is verified."""

    generator: str
    task: str = "demo"
    kinds: tuple[str, ...] = tuple(kind for kind in KINDS if kind != "en")
    verifier: str | None = None
    threshold: float = 0.5
    per_item: int = 1
    limit: int | str | None = None
    seed: int = 0
    out: Path | None = None
    batch_size: int = 16
    max_new_tokens: int = 128
    dtype: str = "auto"
    device: str = "auto"
    server: Server = field(default_factory=Server)
    show_progress: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.per_item <= MOST:
            raise UsageError(f"--per-item must be in [1, {MOST}]: got {self.per_item}")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens must be at least 1: got {self.max_new_tokens}")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"--min-similarity must be in [0, 1]: got {self.threshold:g}")
        if self.out is not None and self.out.suffix != SUFFIX:
            raise UsageError(f"--out {self.out}: the file's name must end in {SUFFIX}")

    @property
    def models(self) -> list[str]:
        return [self.generator, *([] if self.verifier is None else [self.verifier])]


class UnansweredError(ItemError):
    """Some questions have no answer for now; the same command asks them again."""


@dataclass(frozen=True)
class Made:
    """A finished file."""

    path: Path
    header: Header
    was_there: bool = False

    @property
    def rejected(self) -> Path:
        """Where the rejected ones are kept."""
        return rejected_path(self.path)


def rejected_path(path: Path) -> Path:
    return path.with_suffix(f".rejected{SUFFIX}")


def check_rewrite(options: RewriteOptions) -> None:
    """Tells what can be told before anything heavy is loaded. Raises UsageError."""
    find_spec(options.task)
    for model in options.models:
        if is_served(model):
            served_name(model)
            find_address(options.server)
        else:
            resolve(model)
    if not any(map(is_served, options.models)):
        refuse_server(options.server, "--with", options.generator)
    if options.verifier is None and options.threshold != RewriteOptions.threshold:
        raise UsageError("--min-similarity is what --verify-with must find: give a verifier")


def run(options: RewriteOptions) -> Made:
    """Makes the file, or finds it made. Raises UsageError, and UnansweredError where answers are missing."""
    check_rewrite(options)
    from vlmbench.engine.progress import Progress
    from vlmbench.experiments.asking import clear
    from vlmbench.experiments.rewriting import Wanted, rewrite_items
    from vlmbench.experiments.session import choose_items

    task = load_task(options.task)
    _check_kinds(task, options.kinds)
    chosen, limit = choose_items(task, options.limit, options.seed, "perturb")
    items = [item for item in chosen if not item.meta.get("error")]
    if not items:
        raise UsageError(f"task {task.name}: no item has a question to rewrite")
    path = options.out or Path(f"{task.name}-rewrites{SUFFIX}")
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; name a file")
    planned = Header(
        task=Source(name=task.name, version=task.version, data=task.data_hash),
        kinds=list(options.kinds),
        per_item=options.per_item,
        limit=limit,
        seed=options.seed,
    )
    if path.exists():
        return Made(path, _same(path, planned, options), was_there=True)
    if rejected_path(path).exists() and not is_rewrites(rejected_path(path)):
        raise UsageError(f"{rejected_path(path)} is no file of rejected rewrites; choose another --out")
    wanted = Wanted(items, options.kinds, options.per_item, options.threshold)
    work = path.with_suffix(".work")
    with ExitStack() as stack:
        generator, verifier = _askers(options, work, stack)
        _check_budget(options, wanted, generator, verifier)
        total = len(items) * len(wanted.kinds) * wanted.per_item * len(options.models)
        with Progress(total, options.show_progress) as progress:
            outcome = rewrite_items(wanted, generator, verifier, progress.advance)
    if outcome.unanswered:
        failures = [said for asker in (generator, verifier) for said in getattr(asker, "failures", ())]
        first = f", first: {failures[0]}" if failures else ""
        raise UnansweredError(
            f"{outcome.unanswered} questions are without an answer{first}; what is answered is kept: the "
            "same command asks the others again"
        )
    header = planned.model_copy(
        update={
            "generator": {**generator.about(), "prompt_hash": PROMPT_HASH},
            "verifier": None
            if verifier is None
            else {**verifier.about(), "prompt_hash": PROMPT_HASH, "threshold": options.threshold},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "counts": outcome.counts(options.kinds),
        }
    )
    write_text_atomically(rejected_path(path), dump(header, outcome.rejected))
    write_text_atomically(path, dump(header, outcome.accepted))
    clear(work)
    return Made(path, header)


def _check_kinds(task: Task, kinds: Sequence[str]) -> None:
    own = task.spec.answer_language
    if own not in NAMES:
        raise UsageError(
            f"task {task.name}: its questions are in {own!r}, and rewrites can be verified of questions in "
            f"{', '.join(NAMES)}"
        )
    if own in kinds:
        raise UsageError(f"--kinds {own}: that is the language of the task's questions; ask for paraphrase")


def _askers(options: RewriteOptions, work: Path, stack: ExitStack) -> tuple[Asker, Asker | None]:
    """Generator and verifier; a model that is both is loaded once."""
    from vlmbench.experiments.asking import ROLES, LocalAsker, ServedAsker, Writes
    from vlmbench.models.endpoint import Endpoint

    models: dict[str, Writes] = {}
    found: list[Asker] = []
    for name, role in zip(options.models, ROLES, strict=False):
        asker: Asker
        if is_served(name):
            address = find_address(options.server)
            endpoint = Endpoint(served_name(name), address, options.server)
            about = {"model": name, "server": address.place}
            asker = ServedAsker(
                endpoint, about, work / role, options.max_new_tokens, options.server.concurrency
            )
        else:
            from vlmbench.models.texts import TextModel

            if name not in models:
                models[name] = TextModel(name, dtype=options.dtype, device=options.device)
            asker = LocalAsker(models[name], work / role, options.max_new_tokens, options.batch_size)
        stack.callback(asker.close)
        found.append(asker)
    return found[0], found[1] if len(found) > 1 else None


def _check_budget(options: RewriteOptions, wanted: Wanted, generator: Asker, verifier: Asker | None) -> None:
    """Raises UsageError before the first call where more of them may be needed than are allowed. What later
    rounds and the verifier are asked is not known yet: the most that it can be is counted."""
    most = options.server.max_calls
    if most is None:
        return
    from vlmbench.experiments.rewriting import most_calls

    counts = zip(options.models, most_calls(wanted, generator, verifier), strict=False)
    needed = sum(count for model, count in counts if is_served(model))
    if needed > most:
        raise UsageError(
            f"up to {needed} calls are not answered yet, and --max-calls allows {most}: nothing was asked; "
            "allow more, or ask less (--limit, --kinds, --per-item)"
        )


def _same(path: Path, planned: Header, options: RewriteOptions) -> Header:
    """The header of a file that was made by the same command. Raises UsageError for any other."""
    from vlmbench.engine.manifest import differences

    header = read_header(path, "--out")
    differing = []
    made, asked = (one.model_dump(mode="json") for one in (header, planned))
    for name in ("task", "kinds", "per_item", "limit", "seed"):
        differing += differences(made[name], asked[name], name)
    for role, model in (("generator", options.generator), ("verifier", options.verifier)):
        there, wanted = getattr(header, role) or {}, _about(model, options)
        if role == "verifier" and model is not None:
            wanted["threshold"] = options.threshold
        if not wanted or there.get("model") != wanted["model"]:
            # of another model nothing else needs to be the same
            differing += differences(there.get("model"), wanted.get("model"), role)
            continue
        for name, value in wanted.items():
            found = there.get("decoding", {}).get(name) if name in DECODING else there.get(name)
            differing += differences(found, value, f"{role}.{name}")
    if differing:
        raise UsageError(
            f"{path} holds other rewrites (differs in: {'; '.join(differing)}) and is never overwritten; "
            "choose another --out"
        )
    return header


DECODING = ("max_new_tokens", "batch_size")


def _about(model: str | None, options: RewriteOptions) -> dict[str, Any]:
    """What a header says of this model, as far as that is told without loading it; empty for none. A dtype
    counts where it was asked for: `auto` is another one on another machine."""
    if model is None:
        return {}
    common = {"prompt_hash": PROMPT_HASH, "max_new_tokens": options.max_new_tokens}
    if is_served(model):
        return {"model": model, "server": find_address(options.server).place, **common}
    found = {"model": _id(model), "batch_size": options.batch_size, **common}
    if options.dtype != "auto":
        from vlmbench.models.loading import choose_device, choose_dtype

        dtype = choose_dtype(options.dtype, choose_device(options.device))
        found["dtype"] = str(dtype).removeprefix("torch.")
    return found


def _id(name: str) -> str:
    from vlmbench.models.loading import shown_name

    return shown_name(name, resolve(name))
