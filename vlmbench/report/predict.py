"""What a prediction says, as headed grids of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vlmbench.report.figures import TEST, Section, counted, detectable, percent, short_percent
from vlmbench.schema import Estimate

if TYPE_CHECKING:
    from vlmbench.comparison.prediction import HeldOut, Prediction, Predictor

NAMES = {
    "stability": "stability",
    "agreement": "agreement",
    "stability_and_probability": "stability+prob.",
    "probability": "probability",
    "large_probability": "large's prob.",
    "same_answer": "same answer",
    "self_consistency": "self-consistency",
    "category": "category",
    "controls": "all controls",
    "everything": "everything",
}

FEW = 30
"""Errors below which the weights of a regression are hardly known."""


def prediction_sections(prediction: Prediction) -> list[Section]:
    """Most important first."""
    found = [_head(prediction), _auroc(prediction), _differences(prediction)]
    found += [_precision(prediction), _coverage(prediction)]
    for word in dict.fromkeys(row.by for row in prediction.held_out):
        found.append(_held_out(word, [row for row in prediction.held_out if row.by == word]))
    found.append(_notes(prediction))
    return found


def predictor_name(name: str) -> str:
    """As it is called in grids and pictures."""
    return NAMES.get(name, name)


def decimal(figure: Estimate | None, signed: bool = False) -> str:
    """`.907 [.881, .929]`; a dash where there is nothing to say."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return _three(figure.value, signed)
    return f"{_three(figure.value, signed)} [{_three(figure.low, signed)}, {_three(figure.high, signed)}]"


def _three(value: float, signed: bool = False) -> str:
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def _whole(figure: Estimate | None, digits: int = 0) -> str:
    """`43 [20, 61]` in percent; digits of the value alone."""
    if figure is None or figure.value is None:
        return "-"
    value = f"{100 * figure.value:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"


def _head(prediction: Prediction) -> Section:
    large = prediction.large
    target = large or prediction.small[0]
    small = " + ".join(one.model for one in prediction.small)
    title = f"{small} → {target.model}" if large else f"{small}, its own answers"
    lines = [
        f"{'small' if large else 'model'} {one.model}: {counted(one.variants, 'variant')} of "
        f"{_families(len(one.families))} ({one.name})"
        for one in prediction.small
    ]
    lines += [f"large {large.model} ({large.name})"] if large else []
    items = ", ".join(f"{task} {counted(n, 'item')}" for task, n in prediction.items.items())
    lines.append(f"{items} on {counted(prediction.clusters, 'image')}")
    lines.append(
        f"predicted: whether {target.model} is right on the unchanged input: "
        f"{counted(prediction.errors, 'error')}, accuracy {percent(prediction.accuracy)} %"
    )
    lines += [f"warning: {warning}" for warning in prediction.warnings]
    return Section(f"vlmbench predict · {title}", tuple(lines))


def _families(n: int) -> str:
    return "1 family" if n == 1 else f"{n} families"


def _shown(prediction: Prediction) -> Iterator[tuple[str, Predictor]]:
    """Names end narrow columns of figures: their spaces must not break."""
    return (
        (predictor_name(one.name).replace(" ", "\u00a0"), one)
        for one in prediction.predictors
        if not one.missing
    )


def _meanings(prediction: Prediction) -> Iterator[str]:
    yield "stability: flips, agreement and entropy per family, fitted; agreement: one number, no fit"
    if prediction.large:
        yield "same answer: share of the small models that answer as the large one does"
    yield "everything: all controls and stability together"


def _auroc(prediction: Prediction) -> Section:
    rows = tuple(
        (
            name,
            f"{one.features}" if one.fitted else "-",
            decimal(one.metrics.get("auroc")),
            decimal(one.metrics.get("within_category_auroc")),
            percent(one.metrics.get("auprc_errors")),
        )
        for name, one in _shown(prediction)
    )
    base = short_percent(prediction.predictors[0].metrics.get("error_rate"))
    lines = (
        "AUROC: chance that a right answer scores above a wrong one; within: of pairs in one category",
        f"AUPRC: mean precision at finding the errors; a random score has {base} %",
        *_meanings(prediction),
    )
    below = tuple(
        f"{predictor_name(one.name)}: not available: {one.missing}"
        for one in prediction.predictors
        if one.missing
    )
    columns = ("predictor", "fitted", "AUROC", "within category", "AUPRC errors %")
    return Section("Which answers are right", lines, columns, rows, below)


def _differences(prediction: Prediction) -> Section:
    rows = tuple(
        (
            predictor_name(one.one),
            predictor_name(one.two),
            decimal(one.auroc, signed=True),
            _verdict(one.auroc),
        )
        for one in prediction.differences
    )
    found = [detectable(one.auroc, prediction.clusters) for one in prediction.differences]
    known = [size for size in found if size is not None]
    possible = [size for size in known if size < 1]
    below: tuple[str, ...] = ()
    if possible:
        low, high = _three(min(possible)), _three(max(possible))
        sizes = low if low == high else f"{low} to {high}"
        below = (f"differences of AUROC below {sizes} cannot be shown ({TEST})",)
    elif known:
        below = (f"no difference of AUROC can be shown with {prediction.clusters:,} images ({TEST})",)
    columns = ("predictor", "minus", "AUROC", "beyond chance")
    return Section("Does stability beat the controls", (), columns, rows, below)


def _verdict(figure: Estimate) -> str:
    if figure.low is None or figure.high is None:
        return "-"
    return "better" if figure.low > 0 else "worse" if figure.high < 0 else "no"


def _precision(prediction: Prediction) -> Section:
    rows = tuple(
        (
            name,
            *(_whole(one.metrics.get(f"precision_at_coverage@{c}"), 1) for c in ("0.25", "0.5", "0.75")),
            percent(one.metrics.get("aurc")),
        )
        for name, one in _shown(prediction)
    )
    lines = ("share of right answers among the surest 25, 50, 75 %; AURC: mean risk over all coverages",)
    columns = ("predictor", "25 %", "50 %", "75 %", "AURC %")
    return Section("Answer only where it is sure", lines, columns, rows)


def _coverage(prediction: Prediction) -> Section:
    risks = ("0.01", "0.05", "0.1", "0.2")
    rows = tuple(
        (name, *(_whole(one.metrics.get(f"coverage_at_risk@{risk}")) for risk in risks))
        for name, one in _shown(prediction)
    )
    lines = ("share % of the questions that can be answered with at most 1, 5, 10, 20 % of them wrong",)
    return Section("Coverage at risk", lines, ("predictor", "1 %", "5 %", "10 %", "20 %"), rows)


def _held_out(word: str, found: Sequence[HeldOut]) -> Section:
    """The first row of `found` is of all groups together."""
    together, *groups = found
    names = list(together.auroc)
    rows = tuple(
        (
            next(iter(row.group.values()), "") or "-",
            str(row.n),
            str(row.errors),
            *(_value(row.auroc.get(name)) for name in names),
        )
        for row in groups
    )
    lines = (f"AUROC inside a {word} that no regression was trained on, nor on any image of the scored item",)
    below = (
        "all together: "
        + " · ".join(f"{predictor_name(name)} {decimal(figure)}" for name, figure in together.auroc.items()),
    )
    columns = (word, "n", "errors", *map(predictor_name, names))
    return Section(f"Leave one {word} out", lines, columns, rows, below)


def _value(figure: Estimate | None) -> str:
    return "-" if figure is None or figure.value is None else _three(figure.value)


def _notes(prediction: Prediction) -> Section:
    lines = []
    fewer = min(prediction.errors, prediction.n - prediction.errors)
    features = prediction.predictors[0].features
    if fewer < max(FEW, features):
        kind = "error" if fewer == prediction.errors else "right answer"
        lines.append(
            f"{counted(fewer, kind)} for {counted(features, 'feature')} of stability: their weights are "
            "hardly known; more items help the fit"
        )
    if prediction.left_out:
        lines.append(
            f"{counted(prediction.left_out, 'item')} left out: without a score, or without two answers to "
            "compare"
        )
    lines.append(
        f"fitted: L2 logistic regression on z-scores, {prediction.folds} folds, no image in two; C chosen "
        "inside the training folds; scored by place among the training items"
    )
    lines.append("missing features stand at the mean; a number without a fit is taken as it is")
    lines.append(
        "intervals: 95 %, by image; they take the fitted scores as given and leave the luck of training out"
    )
    lines.append(
        "coverage at risk: its threshold is chosen on these very items, which flatters it where few errors "
        f"are allowed (1 % of {prediction.n:,} is {0.01 * prediction.n:.0f})"
    )
    lines.append(
        "category alone: AUROC leaves both items of a pair out; its other figures order the categories by "
        "these very items, which favours it"
    )
    return Section("Notes", tuple(lines))
