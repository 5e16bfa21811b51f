"""The Allen-Cahn equation backward in time in many dimensions; everything is dimensionless."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.radial import RadialSolution, solve_radial
from dlde.numerics.sde import path_of
from dlde.problem import Problem, ReferenceKind, Semilinear


class AllenCahnHD(Problem, Semilinear):
    """Allen-Cahn in many dimensions: u_t + Lap u + u - u^3 = 0 with u(T, x) = 1 / (2 + 2 |x|^2 / 5).

    The reference solves the equation as one in |x|^2, to about ten digits. Source: Han, Jentzen & E,
    PNAS 115 (2018), arXiv 1707.02568.
    """

    reference_kind: ClassVar[ReferenceKind] = "computed"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 0.3
    start: float = 0.0

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.3, 0.5  # as in the authors' code

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """start + sqrt(2) W: exact."""
        return start[:, None] + math.sqrt(2) * path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.full_like(x, math.sqrt(2))

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return y - y**3

    def terminal(self, x: Tensor) -> Tensor:
        return 0.5 / (1 + 0.2 * x.square().sum(-1))

    def reference(self, x: Tensor) -> Tensor | None:
        solution = _solution(self.dims, self.horizon)
        return torch.from_numpy(solution(x.detach().double().square().sum(-1).cpu().numpy()))


@lru_cache(maxsize=8)
def _solution(dims: int, horizon: float) -> RadialSolution:
    return solve_radial(
        lambda q: 0.5 / (1 + 0.2 * q), lambda u, squared_gradient: u - u**3, dims=dims, time=horizon
    )
