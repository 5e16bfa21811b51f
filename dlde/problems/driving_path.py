"""What equations driven by noise share: the path, how finely it is known, and what is stored of it.

An instance is white noise, standard normals (steps, driver): the path on the finest grid. The steps
belong to the problem, not to the recipe's times or the solver's dt, so that the same instance can be
stored at other times and followed with other steps, and a convergence study sees one path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dlde.errors import GridError
from dlde.numerics.sde import coarsened, fractional_noise_factor, path_of
from dlde.problem import Array, Solver
from dlde.problems.trajectory import refuse_points
from dlde.spec import Spec

# (increments (batch, steps, drivers), dt, every) -> states (batch, steps / every + 1, components)
March = Callable[[Tensor, float, int], Tensor]


class DrivingPath(Spec):
    """Noise on [0, horizon], known at `steps` equal steps; Brownian, or fractional Brownian by `hurst`."""

    horizon: PositiveFloat = 1.0
    steps: PositiveInt = 1000  # solver.dt cannot be finer than horizon / steps

    @property
    def spacing(self) -> float:
        """Length of the finest step."""
        return self.horizon / self.steps

    def draw(self, generator: np.random.Generator, drivers: int) -> dict[str, Array]:
        """White noise (steps, drivers) on the finest grid."""
        return {"noise": generator.standard_normal((self.steps, drivers))}

    def check(self, times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for times that no fine step ends at, and for a solver finer than the path."""
        self._stride(times, solver)

    def step(self, times: Sequence[float], solver: Solver) -> int:
        """Fine steps in one step of the solver. Raises GridError as `check` does."""
        return self._stride(times, solver)[0]

    def refined(self, solver: Solver, factor: float) -> float | None:
        """A step `factor` times finer, that divides the path into whole numbers of its own steps.

        None where there is none: beyond the path's resolution, or between its steps.
        """
        longest = max(1, int(solver.dt / self.spacing * (1 + 1e-9)))
        whole = max(n for n in range(1, min(longest, self.steps) + 1) if self.steps % n == 0)
        number = round(whole / factor)
        if number < 1 or self.steps % number or abs(number * factor - whole) > 1e-9 * whole:
            return None
        return number * self.spacing

    def follow(
        self, noise: Tensor, times: Sequence[float], solver: Solver, march: March, *, hurst: float = 0.5
    ) -> dict[str, Tensor]:
        """`state` and `control` at the times, solved with steps of at most `solver.dt`."""
        factor, every, stored = self._stride(times, solver)
        increments = coarsened(self.increments(noise, hurst), factor).to(getattr(torch, solver.precision))
        states = march(increments, factor * self.spacing, every)
        control = path_of(increments)[:, ::every]
        return {"state": states[:, stored].to(noise.dtype), "control": control[:, stored].to(noise.dtype)}

    def increments(self, noise: Tensor, hurst: float = 0.5) -> Tensor:
        """Of the path (batch, steps, drivers), from white noise of that shape."""
        if hurst == 0.5:
            return noise * math.sqrt(self.spacing)
        factor = _fractional_factor(self.steps, self.spacing, hurst).to(noise)
        return torch.einsum("ts,bsd->btd", factor, noise)

    def _stride(self, times: Sequence[float], solver: Solver) -> tuple[int, int, list[int]]:
        """Fine steps per step, steps per kept state, and which kept states are stored."""
        refuse_points(solver)
        if solver.dt < self.spacing * (1 - 1e-9):
            raise GridError(
                f"solver.dt={solver.dt:g} is finer than the driving path, whose steps are {self.spacing:g} "
                f"long; use a larger solver.dt, or problem.path.steps >= "
                f"{math.ceil(self.horizon / solver.dt)}"
            )
        if times[-1] > self.horizon * (1 + 1e-9):
            raise GridError(
                f"times up to {times[-1]:g}, but the driving path ends at {self.horizon:g}; use earlier "
                f"times, or problem.path.horizon >= {times[-1]:g}"
            )
        numbers = [round(time / self.spacing) for time in times]
        wrong = [
            time
            for time, number in zip(times, numbers, strict=True)
            if abs(time - number * self.spacing) > 1e-6 * self.spacing
        ]
        if wrong or any(later <= earlier for earlier, later in pairwise(numbers)):
            raise GridError(
                f"times={(wrong or list(times))[0]:g} is no multiple of the driving path's step "
                f"{self.spacing:g}; use other times, or other problem.path.steps"
            )
        common = math.gcd(*numbers) or 1
        longest = max(1, int(solver.dt / self.spacing * (1 + 1e-9)))
        factor = max(n for n in range(1, min(longest, common) + 1) if common % n == 0 and self.steps % n == 0)
        return factor, common // factor, [number // common for number in numbers]


@lru_cache(maxsize=4)
def _fractional_factor(steps: int, spacing: float, hurst: float) -> Tensor:
    return fractional_noise_factor(steps, spacing, hurst)
