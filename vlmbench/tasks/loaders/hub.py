"""A data set of the Hugging Face hub, at a revision; read from the local cache when offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmbench.errors import UsageError
from vlmbench.tasks.definition import Source
from vlmbench.tasks.loaders.saved import DatasetRows


def open_source(source: Source, folder: Path, owner: str) -> DatasetRows:
    """Raises UsageError: not there, no such split, or not in the cache while offline."""
    import datasets

    name = source.hub or ""
    if Path(name).exists():
        raise UsageError(f"{name!r} is also a path here and would be read instead: use 'saved' or 'parquet'")
    asked = f"{name} ({', '.join(part for part in (source.config, source.split) if part)})"
    try:
        found: Any = datasets.load_dataset(
            name, name=source.config, split=source.split, revision=source.revision
        )
    except Exception as error:  # network, hub, builder and arrow errors have no common base
        if datasets.config.HF_HUB_OFFLINE:
            raise UsageError(
                f"the data set {asked} is not on this machine and HF_HUB_OFFLINE is set: "
                "run once without it, or point 'parquet' or 'saved' at a copy"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"cannot load the data set {asked} from the hub: {reason}") from None
    return DatasetRows(found, asked, Path(datasets.config.HF_CACHE_HOME), owner)
