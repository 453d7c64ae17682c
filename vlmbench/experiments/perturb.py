"""`perturb`: does the model keep its answer under harmless changes of image or question?

After "Questioning the Stability of Visual Question Answering" (arXiv 2511.11206).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from vlmbench.conditions import CLEAN, Condition, Part, parse_spec, sampled, show_value, split_list
from vlmbench.engine.plan import pruner_of, sees_question
from vlmbench.errors import UsageError, did_you_mean, unknown
from vlmbench.experiments.crossing import Pair, crossed, reaches
from vlmbench.experiments.options import RunOptions, check_bootstrap, check_sources, check_tasks
from vlmbench.experiments.prune import part_of, pruned, region_beside
from vlmbench.experiments.rewritten import FAMILY as REWRITE
from vlmbench.experiments.rewritten import (
    attached,
    is_file,
    parts_of,
    read_files,
    refuse_strangers,
    refuse_unaskable,
    unaskable,
)
from vlmbench.experiments.riskiest import Riskiest, check_inspected, check_riskiest
from vlmbench.experiments.roi import looked, looking_part
from vlmbench.metrics.tabulate import Variation
from vlmbench.models.aliases import is_served
from vlmbench.models.endpoint_address import refuse_server
from vlmbench.perturb.image import IMAGES
from vlmbench.perturb.text import QUESTIONS
from vlmbench.prune import NEWLINES, PRUNERS
from vlmbench.registry import Entry

if TYPE_CHECKING:
    from vlmbench.experiments.gallery import Gallery
    from vlmbench.experiments.session import Finished, Result, Session
    from vlmbench.perturb.rewriting.frozen import Rewrites
    from vlmbench.schema import Table

SUITES = ("benign", "stress", "null", "all", "none")
REWRITES = ("rules", "templates", "none")
"""What `--rewrite` takes beside files of rewrites."""
SPACES = ("source", "model")
LOOKED_AT = 512
"""Items of a task that tell which question perturbations are worth crossing."""


@dataclass(frozen=True)
class PerturbOptions:
    """Which perturbations. None means: not said on the command line.

    `suite` chooses the image axis (default benign), `rewrite` the question axis (default rules and templates
    beside the suites benign and all); neither touches the other. `families` name families of both axes in
    place of the suites: `suite` then says which of their grids, and only a `rewrite` that is given is added.
    """

    suite: str | None = None
    families: str | None = None
    rewrite: str | None = None
    """Suites of REWRITES and files of rewrites, comma-separated."""
    repeats: int = 3
    space: str = "source"
    prune: str | None = None
    """Models to perturb: pruners such as `zoo@0.9`, and `none` for the full one; None: the full one alone."""
    roi: str | None = None
    """Models to perturb: RoI methods that each of those looks again by, and `none`; None: no second look."""
    newline: str = "counted"
    churn: bool = False
    """Each pruner under each perturbation also with the tokens of the unperturbed request."""
    cross: bool = False
    """Image and question perturbed together, for a seeded sample of pairs."""
    cross_size: int = 24
    """How many pairs."""
    samples: int = 0
    """Answers drawn at `temperature`, beside the greedy one: self-consistency."""
    temperature: float = 0.7
    forecast: bool = False
    """Foretell flips of image variants from one backward pass, beside those that happen."""
    riskiest: float | None = None
    """Answer this share of the image variants alone, those with the lowest forecast margins."""
    drift: bool = False
    """How far visual tokens and the last state move inside the model."""
    pictures: int = 0
    """Most unstable items to draw; 0: no pictures."""
    bootstrap: int = 0
    """Cluster resamples that intervals are taken from; 0: analytic ones. No part of the run's identity."""

    def __post_init__(self) -> None:
        if self.suite is not None and self.suite not in SUITES:
            raise unknown("suite", self.suite, SUITES)
        if self.space not in SPACES:
            raise unknown("space", self.space, SPACES)
        rewrites = _names(self.rewrite, "--rewrite") or []
        for name in rewrites:
            if name not in REWRITES and not is_file(name):
                raise UsageError(
                    f"unknown rewrite {name!r}{did_you_mean(name, REWRITES)}; or a file (.jsonl) of rewrites"
                )
        if "none" in rewrites and len(rewrites) > 1:
            raise UsageError(f"--rewrite {self.rewrite}: none goes with no other")
        _names(self.families, "--perturb")
        if self.newline not in NEWLINES:
            raise unknown("newline rule", self.newline, NEWLINES)
        models = _models(self)
        if self.churn and not any(model.prune for model in models):
            raise UsageError("--churn compares choices of tokens: name a pruner, --prune zoo@0.9")
        looking = next((model.roi for model in models if model.roi is not None), None)
        if looking is not None:
            for name in ("churn", "forecast", "drift"):
                if getattr(self, name):
                    raise UsageError(
                        f"--{name} looks at the tokens of one picture: leave out --roi {looking.label}"
                    )
        if self.cross and self.cross_size < 1:
            raise UsageError(f"--cross-size must be at least 1: got {self.cross_size}")
        if self.samples and not 1e-6 <= self.temperature <= 1e3:  # NaN is not
            raise UsageError(f"--temperature must be in [1e-6, 1000]: got {self.temperature:g}")
        check_riskiest(self.riskiest, self.forecast)
        if self.pictures < 0:
            raise UsageError(f"--pictures must be 0 or more: got {self.pictures}")
        check_bootstrap(self.bootstrap)


def _names(text: str | None, option: str) -> list[str] | None:
    """The names in a list; None where the option was not given. An empty list is an error."""
    if text is None:
        return None
    names = split_list(text)
    if not names:
        raise UsageError(f"{option} names nothing: got {text!r}")
    return names


def variations(
    options: PerturbOptions,
    phrasings: Sequence[str] = (),
    seed: int = 0,
    rewrites: Rewrites | None = None,
    reaches: Callable[[Part], bool] = lambda question: True,
) -> list[Variation]:
    """Clean first, then per model (RoI method and pruner): itself against clean, and against itself the noise
    floor, drawn answers, the image axis, the question axis and both together; no condition twice.

    `phrasings` are the task's own alternative wordings; `seed` chooses the pairs that are crossed;
    `rewrites` is the task's file of `--rewrite`, if there is one; `reaches` tells which question
    perturbations are worth a pair. Raises UsageError for unknown names or parameters.
    """
    images, questions = _parts(options, phrasings, rewrites)
    if {part.label for part in IMAGES.expand("shift")} <= {part.label for part in images}:
        images.append(IMAGES.get("shift").part(patches=1))  # the whole grid, and one step of the model's own
    pairs = _pairs(options, images, questions, seed, reaches) if options.cross else []
    found = [Variation(CLEAN)]
    for model in _models(options):
        if model.roi is not None:
            found.append(looked(model.roi))
        if model.prune is not None:
            found.append(pruned(model.prune, roi=model.roi))
        found += _of_model(model, images, questions, options.repeats)
        found += _sampled(model, options)
        found += _crossed(model, pairs)
        if model.prune is not None and options.churn:
            found += _frozen(model.prune, images, questions)
    return list({v.condition.id: v for v in found}.values())


def _of_model(
    model: Condition, images: Sequence[Part], questions: Sequence[Part], repeats: int
) -> Iterator[Variation]:
    """What is done to the full model, or to the model under one RoI method and one pruner."""
    reference = model.id
    for i in range(1, repeats + 1):
        yield Variation(replace(model, repeat=i), "repeat", "repeat", str(i), reference)
    null = {part.label for part in IMAGES.suite("null")}
    for part in images:
        axis = "null" if part.label in null else "image"
        strength = _strength(part, IMAGES.get(part.name))
        yield Variation(replace(model, image=part), axis, part.name, strength, reference)
    for part in questions:
        strength = _strength(part, QUESTIONS.get(part.name))
        yield Variation(replace(model, question=part), "question", part.name, strength, reference)


def _pairs(
    options: PerturbOptions,
    images: Sequence[Part],
    questions: Sequence[Part],
    seed: int,
    reaches: Callable[[Part], bool],
) -> list[Pair]:
    null = {part.label for part in IMAGES.suite("null")}
    visible = [part for part in images if part.label not in null]
    if not visible or not questions:
        missing = "question" if visible else "image"
        raise UsageError(f"--cross needs perturbations of both axes: no {missing} perturbation is asked for")
    readable = [part for part in questions if reaches(part)]
    if not readable:
        raise UsageError(
            "--cross needs a question perturbation that changes what the model reads: "
            f"of {len(questions)} asked for, none does on these items"
        )
    return crossed(visible, readable, options.cross_size, seed)


def _sampled(model: Condition, options: PerturbOptions) -> Iterator[Variation]:
    """The unchanged input, answered by drawing in place of greedily."""
    for i in range(1, options.samples + 1):
        condition = replace(model, sample=sampled(i, options.temperature))
        yield Variation(condition, "sample", "sample", str(i), model.id)


def _crossed(model: Condition, pairs: Sequence[Pair]) -> Iterator[Variation]:
    """Image and question perturbed together, against the unchanged input."""
    for image, question in pairs:
        condition = replace(model, question=question, image=image)
        yield Variation(condition, "cross", f"{image.name} x {question.name}", "", model.id)


def _frozen(prune: Part, images: Sequence[Part], questions: Sequence[Part]) -> Iterator[Variation]:
    """The model under one pruner and each perturbation, with the tokens chosen on the original; questions
    only where the pruner sees them, for else the tokens are the same."""
    pruner = pruner_of(Condition(prune=prune))
    if "mask" not in prune.parameters or pruner is None or pruner.stage == "image":
        return  # a control that chooses no tokens
    mask = PRUNERS.get(prune.name).part(**{**prune.parameters, "mask": "frozen"})
    reference = Condition(prune=prune)
    seen = questions if sees_question(reference) else ()
    for v in _of_model(Condition(prune=mask), images, seen, repeats=0):
        yield replace(v, reference=reference.id)


def _models(options: PerturbOptions) -> list[Condition]:
    """Each RoI method with each pruner. Raises UsageError for what cannot be meant."""
    rois = [looking_part(spec) for spec in _names(options.roi, "--roi") or ["none"]]
    pairs = product(dict.fromkeys(rois), _pruners(options.prune))
    models = (
        Condition(roi=roi if prune is None else region_beside(roi, prune), prune=prune)
        for roi, prune in pairs
    )
    return list(dict.fromkeys(models))


def _pruners(text: str | None) -> list[Part | None]:
    """The models to perturb; None stands for the full one."""
    found: list[Part | None] = []
    for spec in _names(text, "--prune") or ["none"]:
        part = None if spec == "none" else part_of(spec)
        if part is not None and PRUNERS.get(part.name).derived:
            raise UsageError(f"--prune {spec} is told from the answers of other conditions: use random")
        if part is not None and "ratio" in part.parameters and not _has_budget(part):
            raise UsageError(f"--prune {spec} keeps every token: name its budget, {part.name}@0.9")
        found.append(part)
    return list(dict.fromkeys(found))


def _has_budget(part: Part) -> bool:
    return bool(part.parameters.get("ratio") or part.parameters.get("keep"))


def _parts(
    options: PerturbOptions, phrasings: Sequence[str], file: Rewrites | None
) -> tuple[list[Part], list[Part]]:
    suite = options.suite or "benign"
    families = _names(options.families, "--perturb")
    rewrites = _names(options.rewrite, "--rewrite")
    images: list[Part] = []
    questions: list[Part] = []
    for spec in families or []:
        name, given = parse_spec(spec)
        if name in IMAGES:
            images += IMAGES.expand(spec, _image_suites(suite))
        elif name == REWRITE:
            if not any(map(is_file, rewrites or ())):
                raise UsageError(f"--perturb {spec} needs a file of rewrites: add --rewrite FILE")
            questions += parts_of(file, given) if file else []
        elif name in QUESTIONS:
            grid = (
                list(_phrasing_parts(phrasings))
                if name == "phrasing" and not given
                else QUESTIONS.expand(spec)
            )
            questions += grid
        else:
            known = [*IMAGES.names, *QUESTIONS.names]
            raise UsageError(f"unknown perturbation {name!r}{did_you_mean(name, known)}")
    if families is None:
        images += IMAGES.suite(*_image_suites(suite))
        if rewrites is None and suite in {"benign", "all"}:
            rewrites = ["rules", "templates"]
    rewrites = rewrites or []
    questions += QUESTIONS.suite(*rewrites)
    if "templates" in rewrites:
        questions += _phrasing_parts(phrasings)
    if file is not None and not any(parse_spec(spec)[0] == REWRITE for spec in families or ()):
        questions += parts_of(file)
    return images, questions


def _image_suites(suite: str) -> tuple[str, ...]:
    return {"all": ("null", "benign", "stress"), "benign": ("null", "benign")}.get(suite, (suite,))


def _phrasing_parts(phrasings: Sequence[str]) -> Iterator[Part]:
    return (QUESTIONS.get("phrasing").part(name=name) for name in phrasings)


def _strength(part: Part, entry: Entry) -> str:
    """What orders the conditions of a family: the largest of its strength parameters, without sign; the
    other parameters where those are all at their defaults, as in a shift by a patch. Of rewrites the kind:
    each language has its own flip rate."""
    if part.name == REWRITE:
        return str(part.parameters["kind"])
    strengths = [p for p in entry.params if p.strength]
    if strengths and part.label != part.name and all(part.parameters[p.name] == p.default for p in strengths):
        return part.label.removeprefix(part.name).strip("()")
    values = [part.parameters[p.name] for p in strengths]
    numbers = [abs(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if numbers:
        return show_value(max(numbers))
    return ",".join(show_value(v) for v in values)


def check_names(options: RunOptions, perturb: PerturbOptions) -> None:
    """Tells a misspelt name before anything heavy is loaded. Raises UsageError."""
    files = read_files(_names(perturb.rewrite, "--rewrite") or [])
    found = variations(perturb, rewrites=next(iter(files.values()), None))
    if is_served(options.model):
        from vlmbench.experiments.served_options import check_served

        check_tasks(options)
        check_served(options, perturb)
        return
    check_inspected(perturb.forecast, perturb.drift, perturb.riskiest, found)
    refuse_server(options.server, "--model", options.model)
    check_sources(options)


def _session(options: RunOptions) -> Session:
    if is_served(options.model):
        from vlmbench.experiments.served import ServedSession

        return ServedSession(options, "perturb")
    from vlmbench.experiments.session import Session

    return Session(options, "perturb")


def run(options: RunOptions, perturb: PerturbOptions) -> Result:
    """The whole experiment."""
    check_names(options, perturb)
    from vlmbench.experiments.gallery import gallery
    from vlmbench.experiments.inspection import Inspected, inspected
    from vlmbench.experiments.tables import TaskPlan

    files = read_files(_names(perturb.rewrite, "--rewrite") or [])
    session = _session(options)
    refuse_strangers(files, [task.name for task in session.tasks])
    plans = []
    for task, items, limit in session.chosen:
        file = files.get(task.name)
        given = attached(task, items, file)
        asked_of = partial(
            reaches, items=given[:LOOKED_AT], seed=options.seed, tells_apart=session.tells_apart
        )
        varied = variations(perturb, task.phrasing_names, options.seed, file, asked_of)
        if file is not None:
            asked = partial(reaches, items=given, seed=options.seed, tells_apart=session.tells_apart)
            refuse_unaskable(file, varied, asked)
        plans.append(TaskPlan(task, given, limit, varied))
    inspects = Inspected(perturb.forecast, perturb.drift, options.batch_size or 16, options.show_progress)
    later = Riskiest(perturb.riskiest, inspects) if perturb.riskiest is not None else None
    galleries: list[Gallery] = []

    def finish(finished: Finished) -> Table:
        table = finished.table
        if perturb.pictures:
            galleries.append(gallery(finished, plans, perturb.pictures))
        if inspects:
            table = inspected(finished, plans, inspects)
        told = unaskable(plans, finished.records) if files else []
        return table.model_copy(update={"notes": [*table.notes, *told]})

    result = session.run(plans, perturb.space, perturb.newline, finish, later, perturb.bootstrap)
    return replace(result, gallery=galleries[0] if galleries else None)
