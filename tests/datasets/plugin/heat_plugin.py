"""A cheap problem with a closed form, as a user's own package would add it; for tests of the data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.errors import GridError
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Variable


class Heat(Problem, Solvable):
    """Heat: u_t = diffusivity u_xx, periodic, with four random Fourier modes; exact in every mode."""

    version: ClassVar[str] = "1"
    order: ClassVar[int] = 8

    diffusivity: PositiveFloat = 0.01
    fails_above: float = 1e9  # the solution is not finite where the first amplitude exceeds this

    @property
    def variables(self) -> dict[str, Variable]:
        return {
            "u": Variable(dims=("time", "x"), units="K", long_name="temperature"),
            "flux": Variable(dims=("x",), units="K m-1", long_name="initial flux"),
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        if len(num_points) != 1:
            raise GridError(f"heat has one spatial axis, but num_points={tuple(num_points)}")
        return {"x": Axis(start=0.0, stop=1.0, num_points=num_points[0], boundary="periodic", units="m")}

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        amplitudes = generator.standard_normal((4, 2))
        x = axes["x"].points
        phases = 2 * np.pi * np.arange(1, 5)[:, None] * x
        return {"u": amplitudes[:, 0] @ np.cos(phases) + amplitudes[:, 1] @ np.sin(phases)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        assert torch.get_num_threads() == 1
        n = axes["x"].num_points
        spectrum = torch.fft.rfft(instances["u"])
        k = 2 * torch.pi * torch.arange(n // 2 + 1, dtype=torch.float64)
        decay = torch.exp(-self.diffusivity * k**2 * torch.tensor(times, dtype=torch.float64)[:, None])
        flux = torch.fft.irfft(-1j * k * spectrum, n)
        u = torch.fft.irfft(spectrum[:, None] * decay, n)
        u[spectrum[:, 1].real * 2 / n > self.fails_above, -1, 0] = torch.nan
        return {"u": u, "flux": flux}


class Talk(Problem):
    """Talk: has no solver."""
