"""The records of one task as arrays over items [n] and conditions [m]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vlmbench.metrics.looking import Looks
from vlmbench.metrics.outcomes import STATES, Outcomes
from vlmbench.metrics.region_moves import Moves
from vlmbench.metrics.told import Told
from vlmbench.schema import Record, State

if TYPE_CHECKING:
    from vlmbench.metrics.tabulate import TaskResult

UNCHANGED = "unchanged"
"""How the detail of a record begins whose perturbation left every pixel as it was."""


class Arrays:
    """Arrays [n, m]; `answers` [n] holds the distinct answers that the codes of `answer` stand for, where
    those of `label` stand for one answer in all rows. `option_list` [n]: equal where items have one list."""

    def __init__(self, result: TaskResult) -> None:
        n, m = len(result.items), len(result.variations)
        self.answers: list[list[str]] = [[] for _ in range(n)]
        self.answer = np.full((n, m), -1, dtype=np.int64)
        self.label = np.full((n, m), -1, dtype=np.int64)
        self._labels: dict[str, int] = {}
        lists: dict[tuple[str, ...], int] = {}
        self.option_list = np.array(
            [lists.setdefault(item.options, len(lists)) for item in result.items], dtype=np.int64
        )
        self.state = np.full((n, m), STATES.index(State.ERROR), dtype=np.int64)
        self.score = np.full((n, m), np.nan)
        self.margin = np.full((n, m), np.nan)
        self.prob = np.full((n, m), np.nan)
        self.prob_margin = np.full((n, m), np.nan)
        self.visual_tokens = np.full((n, m), np.nan)
        self.tie = np.zeros((n, m), dtype=bool)
        self.unchanged = np.zeros((n, m), dtype=bool)
        names = [variation.condition.id for variation in result.variations]
        records = [[result.records.get((item.id, name)) for name in names] for item in result.items]
        for i, row in enumerate(records):
            for j, record in enumerate(row):
                if record is not None:
                    self._fill(i, j, record)
        self.told = Told.of(result.items, records)
        column = {v.condition.id: j for j, v in enumerate(result.variations)}
        codes = {cluster: i for i, cluster in enumerate(dict.fromkeys(item.cluster for item in result.items))}
        clean = column.get("clean", 0)
        self.outcomes = Outcomes(
            answer=self.answer,
            state=self.state,
            score=self.score,
            tie=self.tie,
            prob=self.prob[:, clean] if m else np.full(n, np.nan),
            cluster=np.array([codes[item.cluster] for item in result.items], dtype=np.int64),
            reference=np.array(
                [column.get(v.reference, -1) if v.reference else -1 for v in result.variations],
                dtype=np.int64,
            ),
            unchanged=self.unchanged,
        )
        self.looks = Looks.of(result.items, records, [v.condition for v in result.variations])
        perturbed = [j for j, v in enumerate(result.variations) if v.perturbs and v.condition.roi]
        self.moves = Moves.of(records, self.outcomes.reference, perturbed)

    def _fill(self, i: int, j: int, record: Record) -> None:
        self.state[i, j] = STATES.index(record.state)
        self.unchanged[i, j] = record.state is State.NOT_APPLICABLE and record.detail.startswith(UNCHANGED)
        self.tie[i, j] = record.tie
        if record.answer is not None:
            known = self.answers[i]
            if record.answer not in known:
                known.append(record.answer)
            self.answer[i, j] = known.index(record.answer)
            self.label[i, j] = self._labels.setdefault(record.answer, len(self._labels))
        for array, value in (
            (self.score, record.score),
            (self.margin, record.min_margin),
            (self.prob, record.prob),
            (self.prob_margin, record.prob_margin),
            (self.visual_tokens, record.visual_tokens),
        ):
            if value is not None:
                array[i, j] = value
