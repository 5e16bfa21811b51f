"""A state driven by many noises through random, non-commuting fields; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.sde import milstein
from dlde.problem import Array, Axis, Problem, Seed, Solvable, Solver, Variable
from dlde.problems.driving_path import DrivingPath, no_axes, path_variables


class MultiplicativeNoise(Problem, Solvable):
    """Many drivers: dX = -rate X dt + noise / sqrt(drivers) sum_j tanh(A_j X + b_j) dW_j (Ito).

    The entries of A_j (dims x dims) and b_j are standard normal, drawn once from `fields_seed`; the
    fields of fewer drivers are the first of those of more. They do not commute: Milstein's scheme
    without Levy areas, with a smaller error than Euler-Maruyama's but of strong order 1/2 like it
    (1 with one driver).
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 0.5

    dims: PositiveInt = 2
    drivers: PositiveInt = 4
    rate: NonNegativeFloat = 1.0
    noise: PositiveFloat = 1.0
    fields_seed: Seed = 0
    start: float = 0.0
    path: DrivingPath = DrivingPath()

    @property
    def variables(self) -> dict[str, Variable]:
        return path_variables(self.dims, self.drivers, state="process")

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        return no_axes(num_points)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        self.path.check(times, solver)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        return self.path.draw(generator, self.drivers)

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        size = self.noise / self.drivers**0.5

        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            a, b = (part.to(increments) for part in self.fields)

            def diffusion(t: float, x: Tensor) -> Tensor:
                columns: Tensor = size * torch.tanh(torch.einsum("jnm,bm->bnj", a, x) + b)
                return columns

            def along(t: float, x: Tensor, v: Tensor) -> Tensor:
                slope = 1 - (diffusion(t, x) / size).square()
                columns: Tensor = size * slope * torch.einsum("jnm,bmj->bnj", a, v)
                return columns

            start = increments.new_full((len(increments), self.dims), self.start)
            return milstein(lambda t, x: -self.rate * x, diffusion, along, start, increments, dt, every=every)

        return self.path.follow(instances["noise"], times, solver, march)

    @property
    def fields(self) -> tuple[Tensor, Tensor]:
        """A (drivers, dims, dims) and b (dims, drivers), float64."""
        return _fields(self.fields_seed, self.drivers, self.dims)


@lru_cache(maxsize=8)
def _fields(seed: int, drivers: int, dims: int) -> tuple[Tensor, Tensor]:
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn = torch.from_numpy(generator.standard_normal((drivers, dims, dims + 1)))
    return drawn[..., :dims].contiguous(), drawn[..., dims].T.contiguous()
