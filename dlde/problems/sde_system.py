"""Stochastic differential equations behind one interface, in the sense of Ito.

An equation is a class of a few lines: its parameters as fields, its drift and its diffusion.

    class Logistic(SDESystem):
        \"\"\"Stochastic growth: dX = rate X (1 - X) dt + noise X (1 - X) dW.\"\"\"

        scheme: ClassVar = "milstein"
        order: ClassVar[float] = 1
        rate: PositiveFloat = 1.0
        noise: PositiveFloat = 0.3
        start: float = 0.1

        def drift_at(self, t, x):
            return self.rate * x * (1 - x)

        def diffusion_at(self, t, x):
            return (self.noise * x * (1 - x))[..., None]

Everything else is here: drawing, following a path in batches, storing, measuring the defect.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.numerics.ode import eigenvalues, rounded_down
from dlde.numerics.sde import euler_maruyama, milstein
from dlde.problem import Array, Axis, Solver, Thresholds, Variable
from dlde.problems.driving_path import DrivingPath
from dlde.problems.trajectory import Trajectory


class SDESystem(Trajectory):
    """Stochastic differential equations: dX = f(t, X) dt + g(t, X) dB, on given paths of noise.

    An instance is `noise`, the white noise (steps, driver) of its path. `order` is the strong one: for
    Euler-Maruyama 1 where g does not depend on X, else 1/2; for Milstein's scheme 1 where the columns of g
    commute (one driver, diagonal noise), else 1/2. Steps keep to the path: never finer than it is known,
    and whole numbers of its steps.
    """

    scheme: ClassVar[Literal["euler-maruyama", "milstein"]] = "euler-maruyama"
    order: ClassVar[float] = 0.5
    version: ClassVar[str] = "1"
    # strong errors fall slowly: over a thousand steps 5e-2 is left at order 1/2, up to 1e-2 at order 1
    thresholds: ClassVar[Thresholds] = Thresholds(error=1e-1, exact=1e-2, defect=5e-2)

    state: ClassVar[str] = "process"  # what a state is, in words

    start: float = 0.0
    path: DrivingPath = DrivingPath()

    @abstractmethod
    def drift_at(self, t: float, x: Tensor) -> Tensor:
        """f(t, x): (batch, components) -> (batch, components). A row may not depend on the others."""

    @abstractmethod
    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        """g(t, x): (batch, components) -> (batch, components, drivers)."""

    def diffusion_along(self, t: float, x: Tensor, v: Tensor) -> Tensor:
        """Column j of g, differentiated along column j of v: (batch, components, drivers), like v.

        By automatic differentiation; a formula is faster.
        """
        columns = []
        for number, direction in enumerate(v.unbind(-1)):
            derivative = torch.func.jvp(lambda y: self.diffusion_at(t, y), (x,), (direction,))[1]
            columns.append(derivative[..., number])
        return torch.stack(columns, -1)

    @property
    def num_components(self) -> int:
        """Entries of a state."""
        return 1

    @property
    def num_drivers(self) -> int:
        """Entries of the noise."""
        return 1

    @property
    def hurst_exponent(self) -> float:
        """Of the noise: 1/2 is Brownian. Other than that, g must not depend on X."""
        return 0.5

    @property
    def variables(self) -> dict[str, Variable]:
        return {
            "state": Variable(
                dims=("time", "component"), sizes={"component": self.num_components}, long_name=self.state
            ),
            "control": Variable(
                dims=("time", "driver"), sizes={"driver": self.num_drivers}, long_name="driving path"
            ),
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse what the path cannot be followed with, and steps that are not stable at the start.

        Raises GridError. Without noise, a decaying solution of the linearised equation may not grow.
        """
        step = self.path.step(times, solver) * self.path.spacing
        start = self.initial(torch.zeros(1, 1, self.num_drivers, dtype=torch.float64))
        rates = eigenvalues(self.drift_at, start)
        rates = rates[rates.real < 0]
        # |1 + rate step| = 1.01: as much is let pass, for oscillations that hardly decay
        squares = np.abs(rates) ** 2
        longest = (-rates.real + np.sqrt(rates.real**2 + (1.01**2 - 1) * squares)) / squares
        if step > longest.min(initial=np.inf):
            raise GridError(
                f"solver.dt={solver.dt:g} is not stable: the linearised drift decays at up to "
                f"{-rates.real.min():.3g} at the start; use solver.dt <= {rounded_down(longest.min())}"
            )

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """By a step that the path can be followed with; None where there is none."""
        dt = self.path.refined(solver, factor)
        return None if dt is None else Solver(**{**solver.model_dump(), "dt": dt})

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        return self.path.draw(generator, self.num_drivers)

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """`state`, and the path at the times as `control`. Raises InputError or GridError for other noise."""

        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            start = self.initial(increments)
            if self.scheme == "euler-maruyama":
                return euler_maruyama(self.drift_at, self.diffusion_at, start, increments, dt, every=every)
            along = self.diffusion_along
            return milstein(self.drift_at, self.diffusion_at, along, start, increments, dt, every=every)

        noise = self.noise_of(instances)
        return self.path.follow(noise, times, solver, march, hurst=self.hurst_exponent)

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Of X - X_0 = int f dt + int g dB at the solver's steps, by the trapezoidal rule for both integrals.

        That of the noise is Stratonovich's, so Ito's correction is taken off; it falls like the step.
        """
        step = self.path.step(times, solver) * self.path.spacing
        steps = [number * step for number in range(round(times[-1] / step) + 1)]
        solution = self.solve(instances, axes, steps, solver)
        x, kicks = solution["state"].double(), solution["control"].double().diff(dim=1)
        drift = torch.stack([self.drift_at(t, x[:, i]) for i, t in enumerate(steps)], 1)
        diffusion = torch.stack([self.diffusion_at(t, x[:, i]) for i, t in enumerate(steps)], 1)
        pushed = ((drift[:, 1:] + drift[:, :-1]) * (step / 2)).cumsum(1)
        shaken = torch.einsum("btnj,btj->btn", diffusion[:, 1:] + diffusion[:, :-1], kicks / 2)
        if self.hurst_exponent == 0.5:
            corrections = [
                self.diffusion_along(t, x[:, i], diffusion[:, i]).sum(-1) for i, t in enumerate(steps)
            ]
            correction = torch.stack(corrections, 1)
            shaken = shaken - (correction[:, 1:] + correction[:, :-1]) * (step / 4)
        shaken = shaken.cumsum(1)
        moved = x[:, 1:] - x[:, :1]
        size = torch.stack([part.flatten(1).norm(dim=1) for part in (moved, pushed, shaken)]).amax(0)
        tiny = torch.finfo(size.dtype).tiny
        return {"state": (moved - pushed - shaken).flatten(1).norm(dim=1) / size.clamp(min=tiny)}

    def initial(self, increments: Tensor) -> Tensor:
        """States (batch, components) at time 0, in the precision and on the device of the increments."""
        return increments.new_full((len(increments), self.num_components), self.start)

    def noise_of(self, instances: Mapping[str, Tensor]) -> Tensor:
        """The white noise of instances, (batch, steps, drivers). Raises InputError or GridError."""
        if instances.keys() != {"noise"}:
            raise InputError(
                f"an instance of {type(self).__name__} consists of noise, but given are "
                f"{', '.join(instances) or 'none'}"
            )
        noise = instances["noise"]
        if noise.ndim != 3 or tuple(noise.shape[1:]) != (self.path.steps, self.num_drivers):
            raise GridError(
                f"noise has shape {tuple(noise.shape)}, expected (batch, {self.path.steps}, "
                f"{self.num_drivers}): one standard normal for every step of the path and driver"
            )
        return noise
