"""The YAML file that describes a task: where its data is, what its columns are called, how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from vlmbench.errors import UsageError, did_you_mean

Name = Annotated[str, Field(min_length=1)]
SLOT = "{question}"
KINDS = ("jsonl", "parquet", "saved", "hub", "builtin")
"""The keys of `source` that say where the data is; exactly one of them is given."""

_ONLY_WITH: dict[str, tuple[str, ...]] = {
    "images": ("jsonl", "parquet"),
    "split": ("saved", "hub"),
    "config": ("hub",),
    "revision": ("hub",),
    "params": ("builtin",),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Source(_Strict):
    """Where the rows come from. Relative paths start at the folder of the YAML file."""

    jsonl: Name | None = Field(None, description="a file with one JSON object per line")
    parquet: Name | None = Field(None, description="a file, a folder or a pattern such as data/val-*.parquet")
    saved: Name | None = Field(None, description="a folder written by datasets' save_to_disk")
    hub: Name | None = Field(None, description="owner/name of a data set on the Hugging Face hub")
    builtin: Name | None = Field(None, description="module:function that returns rows")
    images: Name | None = Field(None, description="folder that image paths start at")
    split: Name | None = Field(None, description="split of a hub or saved data set")
    config: Name | None = Field(
        None,
        description="configuration of a hub data set; also called subset",
        validation_alias=AliasChoices("config", "subset"),
    )
    revision: Name | None = Field(None, description="commit, tag or branch of a hub data set")
    params: dict[str, Any] = Field({}, description="arguments of a builtin function")

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(KINDS)}: got {', '.join(given) or 'none'}")
        for option, kinds in _ONLY_WITH.items():
            if getattr(self, option) and given[0] not in kinds:
                raise ValueError(f"{option!r} goes with {' or '.join(kinds)}, not with {given[0]}")
        if self.hub and not self.split:
            raise ValueError("'hub' needs 'split'")
        if self.hub and self.hub.count("/") != 1:
            raise ValueError(f"'hub' must be owner/name: got {self.hub!r}")
        return self

    @property
    def kind(self) -> str:
        """Which of KINDS is given."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)


class Columns(_Strict):
    """What the data calls the fields of an item. What is left out is found by the usual names."""

    question: Name | None = Field(None, description="text of the question")
    image: Name | list[Name] | None = Field(None, description="column or columns with the image or images")
    images: Name | list[Name] | None = Field(None, description="the same as image")
    answer: Name | None = Field(None, description="one right answer or a list; null: there are none")
    answers: Name | None = Field(None, description="the same as answer")
    options: Name | list[Name] | None = Field(None, description="a list of options, or one column for each")
    id: Name | None = Field(None, description="names the item; the row number where there is none")
    category: Name | None = Field(None, description="kind of question, for results by category")
    stratum: Name | None = Field(None, description="kind of image, for results by stratum")
    cluster: Name | None = Field(None, description="items that depend on each other; else those on one image")
    box: Name | None = Field(None, description="x0, y0, x1, y1 in pixels of what is asked about, or a list")
    boxes: Name | None = Field(None, description="the same as box")
    phrasings: Name | dict[Name, Name] | None = Field(
        None, description="other wordings by name: one column, or a column for each name"
    )

    @model_validator(mode="after")
    def _no_twins(self) -> Columns:
        for one, many in (("image", "images"), ("answer", "answers"), ("box", "boxes")):
            if getattr(self, one) is not None and getattr(self, many) is not None:
                raise ValueError(f"{one!r} and {many!r} mean the same: give one of them")
        return self


class TaskSpec(_Strict):
    """A task as its YAML says. `scorer` is empty until the data is known, if the file leaves it out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="default: the name of the file")
    version: int = Field(1, ge=1, description="raise it with every change that moves scores")
    source: Source
    columns: Columns = Columns()
    scorer: str = Field("", description="default: choice where there are options, else exact")
    scorer_params: dict[str, Any] = Field({}, description="parameters of the scorer")
    prompt: str = Field(SLOT, description="what is asked, with {question} where the question goes")
    instruction: str = Field("", description="a line after the question and its options")
    instruction_first: bool = Field(False, description="the instruction goes before the question")
    label_style: Literal["dot", "bracket", "paren", "colon"] = Field(
        "dot", description='how options are lettered: "A. ", "(A) ", "A) ", "A: "'
    )
    answer_language: Name = Field("en", description="language that answers are compared in")
    phrasing_languages: dict[Name, Annotated[str, Field(pattern=r"^[a-z]{2}$")]] = Field(
        {}, description="language of phrasings in another one, by name; a name such as de-1 tells its own"
    )
    force_answer_language: bool = Field(
        True, description="phrasings in another language are asked with `Answer in English.`, or its like"
    )
    max_new_tokens: int = Field(16, ge=1, le=65536, description="longest answer")
    limit_by: Literal["item", "cluster"] = Field(
        "item", description="what --limit draws: single items, or whole clusters one after another"
    )
    balance_strata: bool = Field(False, description="--limit takes the strata in turn, as many of each")
    default_limit: PositiveInt | dict[str, PositiveInt] | None = Field(
        None, description="items of a run without --limit, for all commands or by command; default: all"
    )
    licence: str = Field("", description="licence of the data")
    link: str = Field("", description="where the data comes from")
    description: str = Field("", description="one line for listings")
    published: dict[str, Any] = Field({}, description="published figures; shown, never used")

    @model_validator(mode="after")
    def _one_slot(self) -> TaskSpec:
        if self.prompt.count(SLOT) != 1:
            raise ValueError(f"'prompt' must hold {SLOT} exactly once: got {self.prompt!r}")
        return self

    @property
    def frame(self) -> str:
        """The prompt as a format string with one `{}`; other braces are literal."""
        before, after = (part.replace("{", "{{").replace("}", "}}") for part in self.prompt.split(SLOT))
        return f"{before}{{}}{after}"


def read_spec(path: Path) -> TaskSpec:
    """Reads a task's YAML. Raises UsageError, one line that names the file and the key."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise UsageError(f"{path}{line}: not YAML ({problem})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a task is a mapping of keys such as name, source and scorer")
    try:
        return TaskSpec.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error, content)}") from None


def _explain(error: ValidationError, content: Any) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    parts = [str(part) for part in first["loc"]]
    model = _model_at(parts[:-1])
    if first["type"] == "extra_forbidden":
        known = [name for name in model.model_fields if name != parts[-1]]
        return f"unknown key {'.'.join(parts)!r}{did_you_mean(parts[-1], known)}"
    # pydantic appends the member of a union to the path; the reader's file has no such key.
    keys, value = [], content
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            break
        keys.append(part)
        value = value[part]
    if first["type"] == "missing":
        return f"key {'.'.join(parts)!r} is missing"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{'.'.join(keys)} {message}" if keys else message
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{'.'.join(keys) or 'the file'}: {message}, got {value!r}"


def _model_at(path: list[str]) -> type[BaseModel]:
    models: dict[tuple[str, ...], type[BaseModel]] = {("source",): Source, ("columns",): Columns}
    return models.get(tuple(path), TaskSpec)
