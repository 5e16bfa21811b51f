"""Linear systems with constant coefficients; everything is dimensionless."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Self

import torch
from pydantic import AfterValidator, model_validator
from torch import Tensor

from dlde.problem import Interval
from dlde.problems.ode_system import Parameters, SolvedODE, Start

Matrix = tuple[tuple[float, ...], ...]


def _square(matrix: Matrix) -> Matrix:
    widths = {len(row) for row in matrix}
    if widths != {len(matrix)}:
        raise ValueError(
            f"{len(matrix)} rows of {', '.join(map(str, sorted(widths)))} entries: expected as many rows as "
            "entries in each"
        )
    return matrix


class LinearSystem(SolvedODE):
    """Linear system: y' = matrix (y - rest), of any number of components.

    Exact by the matrix exponential. The default is a spiral that decays, as in Brunton, Proctor & Kutz,
    Sparse identification of nonlinear dynamics, PNAS 113 (2016).
    """

    matrix: Annotated[Matrix, AfterValidator(_square)] = ((-0.1, 2.0), (-2.0, -0.1))
    rest: tuple[float, ...] | None = None  # where y stays; None: the origin
    start: Start = (Interval(low=-2.0, high=2.0), Interval(low=-2.0, high=2.0))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rest is not None and len(self.rest) != len(self.matrix):
            raise ValueError(f"rest has {len(self.rest)} entries, expected {len(self.matrix)}")
        return self

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(f"y{number}" for number in range(1, len(self.matrix) + 1))

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        matrix, rest = _on(self.matrix, self.rest, y.dtype, y.device)
        # a product that is summed in the same order whatever the batch
        return ((y - rest)[:, None, :] * matrix).sum(-1)

    def flow(self, t: Tensor, start: Tensor, p: Parameters) -> Tensor:
        matrix, rest = _on(self.matrix, self.rest, start.dtype, start.device)
        transition = torch.linalg.matrix_exp(t[:, None, None] * matrix)
        return rest + torch.einsum("tij,bj->bti", transition, start - rest)


@lru_cache(maxsize=16)  # not once for every evaluation: a copy to a device waits for it
def _on(
    matrix: Matrix,
    rest: tuple[float, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    zero = (0.0,) * len(matrix)
    return (
        torch.tensor(matrix, dtype=dtype, device=device),
        torch.tensor(rest or zero, dtype=dtype, device=device),
    )
