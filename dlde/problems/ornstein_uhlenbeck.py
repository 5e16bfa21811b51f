"""Ornstein-Uhlenbeck processes, also of several components and with rough noise; dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.numerics.sde import euler_maruyama
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Variable
from dlde.problems.driving_path import DrivingPath, no_axes, path_variables


class OrnsteinUhlenbeck(Problem, Solvable):
    """Ornstein-Uhlenbeck: dX = R (mean - X) dt + S dB, with as many drivers as components.

    R has `rate` on its diagonal, `coupling` above and -coupling below it; S has noise + common_noise on
    its diagonal and common_noise elsewhere. B is Brownian, or fractional Brownian where hurst is not
    1/2. Euler-Maruyama, of strong order 1 as the noise is additive (rough noise: hurst + 1/2 at most).
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 1

    dims: PositiveInt = 1
    rate: PositiveFloat = 2.0
    coupling: float = 0.0
    mean: float = 0.5
    noise: PositiveFloat = 0.6
    common_noise: float = 0.0
    hurst: Annotated[float, Field(gt=0, lt=1)] = 0.5
    start: float = 0.0
    path: DrivingPath = DrivingPath()

    @model_validator(mode="after")
    def _coupled(self) -> Self:
        if self.dims == 1 and self.coupling:
            raise ValueError(f"coupling={self.coupling:g}: one component has no neighbours; use dims >= 2")
        return self

    @property
    def variables(self) -> dict[str, Variable]:
        return path_variables(self.dims, self.dims, state="process")

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        return no_axes(num_points)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        self.path.check(times, solver)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        return self.path.draw(generator, self.dims)

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            rate, noise = self.drift_matrix.to(increments), self.noise_matrix.to(increments)
            start = increments.new_full((len(increments), self.dims), self.start)
            return euler_maruyama(
                lambda t, x: (self.mean - x) @ rate.T,
                lambda t, x: noise.expand(len(x), -1, -1),
                start,
                increments,
                dt,
                every=every,
            )

        return self.path.follow(instances["noise"], times, solver, march, hurst=self.hurst)

    @property
    def drift_matrix(self) -> Tensor:
        """R (dims, dims), float64."""
        above = self.coupling * torch.ones(self.dims - 1, dtype=torch.float64)
        diagonal = self.rate * torch.eye(self.dims, dtype=torch.float64)
        return diagonal + torch.diag(above, 1) - torch.diag(above, -1)

    @property
    def noise_matrix(self) -> Tensor:
        """S (dims, dims), float64."""
        return self.noise * torch.eye(self.dims, dtype=torch.float64) + self.common_noise
