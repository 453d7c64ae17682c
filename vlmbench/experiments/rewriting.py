"""Questions -> accepted and rejected rewrites, round by round; a pure function of what the models answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from vlmbench.experiments.asking import Asker, Told
from vlmbench.items import Item
from vlmbench.perturb.rewriting.checks import CHECKS, Pair, failed
from vlmbench.perturb.rewriting.frozen import Count, Rewritten, source_hash
from vlmbench.perturb.rewriting.languages import language_of, words
from vlmbench.perturb.rewriting.prompt import ask_rewrite, ask_verifier, read_rewrite, read_yes
from vlmbench.perturb.rewriting.similarity import token_f1
from vlmbench.schema import Schema

REPEATED = "repeated"
SIMILARITY = "similarity"


class Rejected(Schema):
    """A rejected rewrite: a line of the file beside."""

    item: str
    kind: str
    language: str
    attempt: int = Field(ge=1, description="from 1, of the rewrites asked for one item and kind")
    question: str = Field(description="as it was read from the answer")
    raw: str = Field(description="the whole answer")
    asked: str = Field(description="the question that was to be rewritten")
    source: str = Field(description="its hash")
    reason: str = Field(description="the first check that failed")
    failed: list[str] = Field(description="all of them")
    score: float | None = None


@dataclass(frozen=True)
class Wanted:
    """What is to be written."""

    items: Sequence[Item]
    kinds: Sequence[str]
    per_item: int = 1
    threshold: float = 0.5
    """Similarity below which the verifier rejects."""


@dataclass
class Outcome:
    """What came of it, in the order of the items."""

    accepted: list[Rewritten] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    unanswered: int = 0

    def counts(self, kinds: Sequence[str]) -> dict[str, Count]:
        """By kind; nothing that was asked for is missing from it."""
        found = {}
        for kind in kinds:
            reasons = Counter(one.reason for one in self.rejected if one.kind == kind)
            good = sum(one.kind == kind for one in self.accepted)
            bad = reasons.total()
            rate = round(bad / (good + bad), 4) if good + bad else 0.0
            found[kind] = Count(
                asked=good + bad,
                accepted=good,
                rejected=bad,
                rejection_rate=rate,
                reasons=dict(reasons.most_common()),
            )
        return found


@dataclass
class _Job:
    """One item and kind, with what earlier rounds brought."""

    item: Item
    kind: str
    tried: list[str] = field(default_factory=list)
    accepted: list[Rewritten] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def pair(self, rewrite: str = "") -> Pair:
        own = self.item.language
        return Pair(self.item.question, rewrite, own, language_of(self.kind, own), self.item.options)


@dataclass
class _Remembering:
    """In place of an asker: gives the answers that it has, and counts those missing in each round."""

    asker: Asker
    missing: int = 0

    def about(self) -> dict[str, Any]:
        return {}

    def stored(self, prompt: str) -> str | None:
        return self.asker.stored(prompt)

    def answers(self, prompts: Sequence[str], told: Told) -> list[str | None]:
        found = {prompt: self.stored(prompt) for prompt in prompts}
        self.missing += list(found.values()).count(None)
        return [found[prompt] for prompt in prompts]

    def close(self) -> None: ...


def most_calls(wanted: Wanted, generator: Asker, verifier: Asker | None) -> tuple[int, int]:
    """How many calls of the generator and of the verifier these rewrites may still need, at most: the rounds
    are gone through with the answers that there are. What a missing answer leads to is not known: another
    prompt in each later round, and a rewrite to verify."""
    writes = _Remembering(generator)
    checks = None if verifier is None else _Remembering(verifier)
    rewrite_items(wanted, writes, checks)
    return writes.missing, 0 if checks is None else checks.missing + writes.missing


def rewrite_items(
    wanted: Wanted, generator: Asker, verifier: Asker | None, told: Told = lambda count: None
) -> Outcome:
    """Asks for every item and kind `per_item` times, each time for another wording than before."""
    jobs, outcome = list(_jobs(wanted)), Outcome()
    for attempt in range(1, wanted.per_item + 1):
        raws = generator.answers([ask_rewrite(job.pair(), job.tried) for job in jobs], told)
        outcome.unanswered += raws.count(None)
        passed: list[tuple[_Job, str, str]] = []
        for job, raw in zip(jobs, raws, strict=True):
            if raw is None:
                continue
            text = read_rewrite(raw, job.item.question)
            wrong = _wrong(job, text)
            if wrong:
                _reject(job, attempt, text, raw, wrong)
            else:
                passed.append((job, text, raw))
            if text:
                job.tried.append(text)
        outcome.unanswered += _verify(passed, verifier, wanted.threshold, attempt, told)
    for job in jobs:
        outcome.accepted += job.accepted
        outcome.rejected += job.rejected
    return outcome


def _jobs(wanted: Wanted) -> Iterator[_Job]:
    return (_Job(item, kind) for item in wanted.items for kind in wanted.kinds)


def _wrong(job: _Job, text: str) -> tuple[str, ...]:
    wrong = failed(job.pair(text))
    earlier = {" ".join(words(one.casefold())) for one in job.tried}
    repeats = text and " ".join(words(text.casefold())) in earlier
    return (*wrong, REPEATED) if repeats else wrong


def _verify(
    passed: Sequence[tuple[_Job, str, str]],
    verifier: Asker | None,
    threshold: float,
    attempt: int,
    told: Told,
) -> int:
    """Accepts or rejects what has passed the checks; returns how many have no answer of the verifier."""
    if verifier is None:
        for job, text, _ in passed:
            _accept(job, text, None)
        return 0
    raws = verifier.answers([ask_verifier(job.pair(text)) for job, text, _ in passed], told)
    for (job, text, raw), said in zip(passed, raws, strict=True):
        if said is None:
            continue
        score = similarity(job.pair(text), said)
        if score is not None and score >= threshold:
            _accept(job, text, score)
        else:
            _reject(job, attempt, text, raw, (SIMILARITY,), score)
    return raws.count(None)


def similarity(pair: Pair, said: str) -> float | None:
    """What a verifier's answer means: of a translation, how much of the question comes back (token F1); of a
    paraphrase 1 for yes and 0 for no; None where it is neither."""
    if pair.is_paraphrase:
        same = read_yes(said)
        return None if same is None else float(same)
    return round(token_f1(pair.source, read_rewrite(said, pair.rewrite)), 4)


def _accept(job: _Job, text: str, score: float | None) -> None:
    checks = [*CHECKS, *([] if score is None else [SIMILARITY])]
    job.accepted.append(
        Rewritten.model_validate(
            {
                "item": job.item.id,
                "kind": job.kind,
                "language": job.pair().into,
                "index": len(job.accepted) + 1,  # without gaps: index 1 covers as many items as it can
                "question": text,
                "source": source_hash(job.item),
                "checks": checks,
                "score": score,
            }
        )
    )


def _reject(
    job: _Job, attempt: int, text: str, raw: str, wrong: tuple[str, ...], score: float | None = None
) -> None:
    job.rejected.append(
        Rejected(
            item=job.item.id,
            kind=job.kind,
            language=job.pair().into,
            attempt=attempt,
            question=text,
            raw=raw,
            asked=job.item.question,
            source=source_hash(job.item),
            reason=wrong[0],
            failed=list(wrong),
            score=score,
        )
    )
