"""u_t = diffusivity u_xx on a circle, solved exactly, mode by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.errors import GridError
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Variable

MODES = 4  # of a random initial state


class Diffusion(Problem, Solvable):
    """Diffusion of a random temperature around a circle of length one."""

    version: ClassVar[str] = "1"  # of the solver; another one makes another dataset
    order: ClassVar[int] = 8  # of convergence; here the solution is exact

    diffusivity: PositiveFloat = 0.01

    @property
    def variables(self) -> dict[str, Variable]:
        return {"u": Variable(dims=("time", "x"), units="K", long_name="temperature")}

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        if len(num_points) != 1:
            raise GridError(f"diffusion has one axis, but num_points={tuple(num_points)}")
        return {"x": Axis(start=0.0, stop=1.0, num_points=num_points[0], boundary="periodic", units="m")}

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        cosine, sine = generator.standard_normal((2, MODES))
        phases = 2 * np.pi * np.arange(1, MODES + 1)[:, None] * axes["x"].points
        return {"u": cosine @ np.cos(phases) + sine @ np.sin(phases)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        n = axes["x"].num_points
        spectrum = torch.fft.rfft(instances["u"])
        k = 2 * torch.pi * torch.arange(n // 2 + 1, dtype=torch.float64)
        decay = torch.exp(-self.diffusivity * k**2 * torch.tensor(times, dtype=torch.float64)[:, None])
        return {"u": torch.fft.irfft(spectrum[:, None] * decay, n)}
