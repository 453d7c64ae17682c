"""How strongly a token's projected feature answers to its input: S [N], one number per visual token.

Three estimators: `exact` from the projector's closed form, `sampled` as ZOO-Prune does it
(https://arxiv.org/abs/2509.24837), and `jvp`, the same directions with derivatives instead of differences.
`exact` is the root mean square of ||J u|| over all unit directions u, the others a mean over m of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlmbench.errors import ItemError, NotApplicableError
from vlmbench.prune.greedy import all_finite
from vlmbench.prune.projector import Projector

CONSTANT = 1e-3
"""Sensitivities that differ by less than this share of their mean are taken to be equal."""

_ROWS = 2048  # tokens, or tokens x directions, in one call: 128 MB per buffer at 16384 hidden units


def exact(projector: Projector, x: Tensor, rank: int = 0, m: int = 64, seed: int = 0) -> Tensor:
    """S [N] in closed form; x [N, P, c]. Where `projector.form` is None this is `jvp` with m directions.

    rank: of the form's matrices, 0 for all of them. Raises ItemError for values that are not finite.
    """
    form = projector.form
    if form is None:
        return jvp(projector, x, m, seed)
    return _finite(torch.cat([form.sensitivity(part, rank) for part in torch.split(x, _ROWS)]), x)


def sampled(projector: Projector, x: Tensor, m: int = 64, h: float = 0.01, seed: int = 0) -> Tensor:
    """S_i = mean_j ||M(x_i + h u_j) - M(x_i - h u_j)|| / 2h in float32; x [N, P, c].

    The m unit directions u_j span all P c inputs of a token and are shared by all tokens.
    """

    def response(at: Tensor, u: Tensor) -> Tensor:
        return (projector.apply(at + h * u) - projector.apply(at - h * u)) / (2 * h)

    return _mean_norm(response, x, m, seed)


def jvp(projector: Projector, x: Tensor, m: int = 64, seed: int = 0) -> Tensor:
    """S_i = mean_j ||J_i u_j||, the limit of `sampled` for h -> 0; x [N, P, c].

    Raises NotApplicableError where an operation of the projector has no forward derivative.
    """

    def response(at: Tensor, u: Tensor) -> Tensor:
        # forward mode needs tensors that are not marked for inference, and copies are not
        tangent: Tensor = torch.func.jvp(projector.apply, (at.clone(),), (u.clone(),))[1]
        return tangent

    try:
        with torch.inference_mode(False), torch.no_grad():
            return _mean_norm(response, x.clone(), m, seed)
    except NotImplementedError as error:
        raise NotApplicableError(
            "this model's projector has no forward derivative: use zoo with estimator=sampled"
        ) from error


def directions(m: int, patches: int, width: int, seed: int) -> Tensor:
    """[m, P, c] unit directions over all P c inputs, float32, drawn on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(m, patches * width, generator=generator)
    return torch.nn.functional.normalize(bank, dim=-1).view(m, patches, width)


def is_constant(sensitivity: Tensor) -> bool:
    """Whether all of S [n] is the same but for noise, which min-max would turn into weights."""
    return are_constant([sensitivity])[0]


def are_constant(sensitivities: Sequence[Tensor]) -> list[bool]:
    """`is_constant` of several, for which the device is waited for once."""
    found: list[bool] = torch.stack([_constant(each) for each in sensitivities]).tolist()
    return found


def normalise(sensitivity: Tensor) -> Tensor:
    """S [n] -> [n] in [0, 1]: (S - min) / (max - min + 1e-8), all ones where S is constant."""
    low, high = sensitivity.aminmax()
    return torch.where(_constant(sensitivity), 1.0, (sensitivity - low) / (high - low + 1e-8))


def greedy_scores(sensitivities: Sequence[Tensor]) -> list[Tensor | None]:
    """`normalise` of each, None where S is constant: what the greedy choice wants."""
    constant = are_constant(sensitivities)
    return [None if same else normalise(s) for s, same in zip(sensitivities, constant, strict=True)]


def _constant(sensitivity: Tensor) -> Tensor:
    low, high = sensitivity.aminmax()
    return (high - low < CONSTANT * sensitivity.mean()) | (high == low)


def _mean_norm(response: Callable[[Tensor, Tensor], Tensor], x: Tensor, m: int, seed: int) -> Tensor:
    """[N]: mean over m directions of ||response(x, u)||, at most `_ROWS` tokens x directions at a time."""
    x = x.float()
    bank = directions(m, x.shape[1], x.shape[2], seed).to(x.device)
    parts = []
    for tokens in torch.split(x, _ROWS):
        total = tokens.new_zeros(len(tokens))
        for us in torch.split(bank, max(1, _ROWS // len(tokens))):
            at = tokens.repeat(len(us), 1, 1)
            answer = response(at, us.repeat_interleave(len(tokens), dim=0))
            total += torch.linalg.vector_norm(answer.float(), dim=-1).view(len(us), -1).sum(0)
        parts.append(total / m)
    return _finite(torch.cat(parts), x)


def _finite(sensitivity: Tensor, x: Tensor) -> Tensor:
    """`sensitivity`; the inputs too are looked at, because the slope of ReLU is finite even at NaN."""
    if not (all_finite(sensitivity) and all_finite(x)):
        good = torch.isfinite(sensitivity) & torch.isfinite(x).flatten(1).all(1)
        raise ItemError(
            f"sensitivity: {int((~good).sum())} of {len(good)} visual tokens are not finite at the projector "
            "(NaN or infinite): run the model in bfloat16 or float32"
        )
    return sensitivity
