"""Geometric Brownian motion; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.numerics.sde import milstein
from dlde.problem import Array, Axis, Exact, Problem, Solvable, Solver, Variable
from dlde.problems.driving_path import DrivingPath, no_axes, path_variables


class GeometricBrownian(Problem, Solvable, Exact):
    """Geometric Brownian motion: dX = drift X dt + volatility X dW, in the sense of Ito.

    Exact: X_t = start exp((drift - volatility^2 / 2) t + volatility W_t). Solved by Milstein's scheme,
    of strong order 1, like an equation whose solution is not known.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 1

    drift: float = 0.1
    volatility: PositiveFloat = 0.5
    start: PositiveFloat = 1.0
    path: DrivingPath = DrivingPath()

    @property
    def variables(self) -> dict[str, Variable]:
        return path_variables(1, 1, state="value")

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
            return milstein(
                lambda t, x: self.drift * x,
                lambda t, x: self.volatility * x[..., None],
                lambda t, x, v: self.volatility * v,
                start,
                increments,
                dt,
                every=every,
            )

        return self.path.follow(instances["noise"], times, solver, march)

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """On the finest path's values of W."""

        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            w = torch.cat([torch.zeros_like(increments[:, :1]), increments.cumsum(1)], 1)[:, ::every]
            t = torch.arange(w.shape[1], dtype=w.dtype, device=w.device)[:, None] * (dt * every)
            growth = (self.drift - self.volatility**2 / 2) * t + self.volatility * w
            return self.start * growth.exp()

        return self.path.follow(instances["noise"].double(), times, Solver(dt=self.path.spacing), march)
