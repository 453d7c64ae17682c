"""What `predict` says, as JSON: kind `vlmbench-prediction`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlmbench.schema import Estimate, Figure, Schema

PREDICTION_VERSION = 1


class Source(Schema):
    """A result table that was read."""

    name: str = Field(description="the path as given")
    model: str
    revision: str = Field("", description="hash of the weights, empty where the table has none")
    variants: int = Field(0, description="variants per item in use: an item costs 1 + variants answers")
    families: list[str] = Field([], description="of changes, in use")


class Predictor(Schema):
    """One score of every item, larger = the answer is more probably right, and how well it ranks."""

    name: str
    role: Literal["stability", "control", "combined"]
    fitted: bool = Field(description="out-of-fold logistic regression; else the number as it is")
    features: int = 0
    strengths: list[Figure] = Field([], description="C that each fold chose")
    metrics: dict[str, Estimate] = Field({}, description="empty where missing")
    curve: list[Figure] = Field([], description="share of errors at coverage 1 %, 2 %, .. 100 %")
    missing: str = Field("", description="why there is no figure, and how to get it")


class Difference(Schema):
    """AUROC of `one` minus AUROC of `two`, paired by item."""

    one: str
    two: str
    auroc: Estimate


class HeldOut(Schema):
    """AUROC on a task or category that no regression was trained on; `group` is empty for all of them."""

    by: Literal["task", "category"] = Field(description="what was left out, one after the other")
    group: dict[str, str]
    n: int
    errors: int
    auroc: dict[str, Estimate] = Field(description="by predictor; over pairs of items of the same group")


class Prediction(Schema):
    """Correctness of a model's unperturbed answers, predicted from stability and from the controls."""

    schema_version: int = PREDICTION_VERSION
    kind: Literal["vlmbench-prediction"] = "vlmbench-prediction"
    small: list[Source]
    large: Source | None = Field(description="null: the small model's own answers are predicted")
    seed: int
    folds: int
    draws: int = Field(description="cluster resamples of the figures that no formula serves")
    items: dict[str, int] = Field(description="per task, those with a label and an answer under variants")
    left_out: int = Field(description="common items without one of the two")
    n: int
    clusters: int
    errors: int
    accuracy: Estimate
    predictors: list[Predictor]
    differences: list[Difference]
    held_out: list[HeldOut]
    warnings: list[str] = Field([], description="what may explain a figure")

    def predictor(self, name: str) -> Predictor:
        """The predictor of that name. Raises KeyError."""
        for found in self.predictors:
            if found.name == name:
                return found
        raise KeyError(name)
