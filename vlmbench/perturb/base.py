"""The contracts of perturbations. An image perturbation is (image, seed) -> (image, transform); a question
perturbation is Item -> Item. Both are frozen dataclasses of their parameters, one family per file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL import Image

    from vlmbench.items import Item
    from vlmbench.perturb.transforms import Transform


@runtime_checkable
class ImagePerturbation(Protocol):
    """Deterministic: one seed, one result. The input is RGB and is never modified."""

    def __call__(self, image: Image.Image, seed: int = 0) -> tuple[Image.Image, Transform]:
        """The new image (RGB) and how points and boxes of the old one move. Raises NotApplicableError."""
        ...

    def risks(self) -> frozenset[str]:
        """Tags of questions (`risk.py`) whose right answer these parameters may change; empty if none."""
        ...


@runtime_checkable
class QuestionPerturbation(Protocol):
    """Deterministic and meaning-preserving. Returns a changed copy; raises NotApplicableError with the reason
    where the item offers nothing to change (no options to rotate, no such phrasing, text unchanged)."""

    def __call__(self, item: Item, seed: int = 0) -> Item: ...
