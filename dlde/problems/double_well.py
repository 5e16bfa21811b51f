"""A particle in a double well under additive noise; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.numerics.sde import euler_maruyama
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Variable
from dlde.problems.driving_path import DrivingPath, no_axes, path_variables


class DoubleWell(Problem, Solvable):
    """Double well: dX = rate X (1 - X^2) dt + noise dW, wells at -1 and 1.

    Euler-Maruyama, of strong order 1 as the noise is additive. The drift is not Lipschitz: steps of
    more than about 2 / (rate X^2) let a far state blow up; such a draw is replaced.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 1

    rate: PositiveFloat = 2.0
    noise: PositiveFloat = 0.6
    start: float = 1.0
    path: DrivingPath = DrivingPath()

    @property
    def variables(self) -> dict[str, Variable]:
        return path_variables(1, 1, state="position")

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        return no_axes(num_points)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        self.path.check(times, solver)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        return self.path.draw(generator, 1)

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            start = increments.new_full((len(increments), 1), self.start)
            return euler_maruyama(self._drift, self._diffusion, start, increments, dt, every=every)

        return self.path.follow(instances["noise"], times, solver, march)

    def _drift(self, t: float, x: Tensor) -> Tensor:
        return self.rate * x * (1 - x.square())

    def _diffusion(self, t: float, x: Tensor) -> Tensor:
        return torch.full_like(x, self.noise)[..., None]
