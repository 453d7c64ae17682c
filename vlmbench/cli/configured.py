"""Options from a YAML file, under the command line: what was typed wins, then the file, then the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from vlmbench.errors import UsageError, did_you_mean


def merged(ctx: typer.Context, config: Path | None) -> dict[str, Any]:
    """The command's parameters by name. Raises UsageError naming the file and the key."""
    values = dict(ctx.params)
    if config is None:
        return values
    parameters: dict[str, Any] = {
        str(parameter.name): parameter
        for parameter in ctx.command.params
        if parameter.name not in {None, "config", "help"}
    }
    for key, value in _read(config).items():
        name = str(key).replace("-", "_")
        if name not in parameters:
            raise UsageError(f"{config}: unknown option {key!r}{did_you_mean(name, parameters)}")
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            continue
        try:
            values[name] = parameters[name].process_value(ctx, _plain(value, parameters[name]))
        except typer.BadParameter as error:
            raise UsageError(f"{config}: {key}: {refusal(error)}") from None
    return values


def refusal(error: Any) -> str:
    """What the parser says of a value, with the value where the validation behind it left that out."""
    message = str(error.format_message()).replace("Value error, ", "").rstrip(".")
    errors = getattr(error.__context__, "errors", None)
    return f"{message}: got {errors()[0]['input']!r}" if errors else message


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: expected a mapping of options")
    return content


def _plain(value: Any, parameter: Any) -> Any:
    """YAML types options and lists; the command line only knows text, with commas between names."""
    if isinstance(value, (list, tuple)):
        texts = [str(item) for item in value]
        return texts if getattr(parameter, "multiple", False) else ",".join(texts)
    return value if isinstance(value, bool) or value is None else str(value)
