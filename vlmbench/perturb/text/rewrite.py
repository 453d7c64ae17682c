"""A paraphrase or translation out of a frozen file (`perturb --rewrite FILE`)."""

from __future__ import annotations

from dataclasses import dataclass

from vlmbench.errors import NotApplicableError
from vlmbench.items import Item
from vlmbench.perturb.rewriting.frozen import rewrite_name
from vlmbench.perturb.rewriting.languages import NAMES, PARAPHRASE
from vlmbench.perturb.text.wording import reworded, translated


@dataclass(frozen=True)
class Rewrite:
    """A rewrite that was made once by a model and verified.

    Idea: `vlmbench rewrite` writes them, `perturb --rewrite FILE` gives them to the items. Options, answers
    and instruction stay. After the instruction of a translated question stands `Answer in English.`, or
    whatever the language of the task's answers is: else a change of language would count as a flip.
    Source: tier 2 of the question suite; arXiv 2511.11206 (paraphrases, multilingual rewrites).

    Parameters
        kind: `paraphrase`, or the language of a translation.
        index: which one, from 1, where an item has several of a kind.
        force: whether the prompt of a translation says which language to answer in; for models that never
            answer in another one and cannot read the sentence.
        file: sha256 of the file, so that results of different rewrites are never taken for the same.
    """

    kind: str = PARAPHRASE
    index: int = 1
    force: bool = True
    file: str = ""

    def __call__(self, item: Item, seed: int = 0) -> Item:
        what = "paraphrase" if self.kind == PARAPHRASE else f"{NAMES.get(self.kind, self.kind)} rewrite"
        which = f"{what} {self.index}" if self.index > 1 else what
        wording = item.rewrites.get(rewrite_name(self.kind, self.index))
        if wording is None:
            raise NotApplicableError(f"no {which} of the question in the file")
        changed = reworded(item, wording, f"{which} equals the question")
        if self.kind in (PARAPHRASE, item.language):
            return changed
        return translated(changed, self.kind, self.force)
