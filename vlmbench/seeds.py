"""Every random part of a run has its own seed, so that changing one part never redraws another."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(*parts: Any, length: int = 16) -> str:
    """Hex digest of JSON-serialisable `parts`; the same on every machine and in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_for(run_seed: int, *parts: Any) -> int:
    """A 63-bit seed for one part of one item.

    `parts` name what is drawn (item id, part name, parameters WITHOUT strength): two strengths of one
    perturbation share their draw, and a pruner's draw does not depend on the perturbation before it.
    """
    return int(digest(run_seed, *parts, length=16), 16) >> 1
