"""The viscous Burgers equation in one dimension; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.cole_hopf import cole_hopf, cole_hopf_periodic
from dlde.numerics.jets import Jet
from dlde.numerics.random_fields import gaussian_field
from dlde.numerics.spectral import Stepper, Transform, resample
from dlde.problem import Array, Axis, Exact, Problem, Residual, Solvable, Solver, Variable
from dlde.spec import Spec


class GaussianField(Spec):
    """N(0, sigma^2 (-Lap + tau^2 I)^-exponent), periodic, mean zero, cut after `num_modes` modes.

    The defaults are those of Li et al., Fourier Neural Operator (2021), arXiv 2010.08895; its
    repository's generator holds a harder one: exponent 2.5, tau 7, sigma 49, viscosity 1e-3.
    """

    kind: Literal["gaussian"] = "gaussian"
    exponent: PositiveFloat = 2.0
    tau: PositiveFloat = 5.0
    sigma: PositiveFloat = 25.0
    num_modes: PositiveInt = 64


class Sine(Spec):
    """amplitude * sin(2 pi waves (x - start) / extent): -sin(pi x) on (-1, 1); every instance alike."""

    kind: Literal["sine"] = "sine"
    amplitude: float = 1.0
    waves: PositiveInt = 1

    @property
    def num_modes(self) -> int:
        """Highest mode of the domain."""
        return self.waves


class Burgers(Problem, Solvable, Exact, Residual):
    """Burgers: u_t + u u_x = viscosity u_xx in one dimension, periodic or with u = 0 at both walls.

    Solved pseudo-spectrally in conservative form (2/3 rule, integrating-factor RK4). Walls are the
    odd periodic continuation, which the equation keeps odd. Exact by the Cole-Hopf transformation.
    The order in time is 4 for smooth data; for random fields, whose coefficients fall like k^-2, about
    3 is seen at large viscosity (the stiff modes of the start: Hochbruck & Ostermann, SIAM J. Numer.
    Anal. 43 (2005)).
    """

    version: ClassVar[str] = "1"
    order: ClassVar[int] = 4

    viscosity: PositiveFloat = 0.02  # docs/decisions/0002; the paper's is 0.1
    domain: tuple[float, float] = (0.0, 1.0)
    boundary: Literal["periodic", "dirichlet"] = "periodic"
    initial_condition: Annotated[GaussianField | Sine, Field(discriminator="kind")] = GaussianField()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        start, stop = self.domain
        if stop <= start:
            raise ValueError(f"domain=({start:g}, {stop:g}): expected start < stop")
        if self.boundary == "dirichlet" and self.initial_condition.kind == "gaussian":
            raise ValueError(
                "boundary=dirichlet needs an initial condition that vanishes at both walls, "
                "which a periodic gaussian field does not; "
                "use initial_condition: {kind: sine}, or boundary: periodic"
            )
        return self

    @property
    def extent(self) -> float:
        """Length of the domain."""
        return self.domain[1] - self.domain[0]

    @property
    def variables(self) -> dict[str, Variable]:
        return {"u": Variable(dims=("time", "x"), long_name="velocity")}

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The grid of x; with walls it includes both ends.

        Raises GridError where it cannot tell the modes of the initial condition apart.
        """
        if len(num_points) != 1:
            raise GridError(f"burgers has one spatial axis, x, but num_points={tuple(num_points)}")
        periodic = self.boundary == "periodic"
        least = 2 * self.initial_condition.num_modes + (1 if periodic else 2)
        if num_points[0] < least:
            raise GridError(
                f"num_points={num_points[0]}: an initial condition of {self.initial_condition.num_modes} "
                f"modes needs at least {least} points. Use a finer grid, or fewer modes"
            )
        start, stop = self.domain
        boundary: Literal["periodic", "wall"] = "periodic" if periodic else "wall"
        return {"x": Axis(start=start, stop=stop, num_points=num_points[0], boundary=boundary)}

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """u(x, 0)."""
        condition = self.initial_condition
        if isinstance(condition, Sine):
            phase = 2 * np.pi * condition.waves * (axes["x"].points - self.domain[0]) / self.extent
            return {"u": condition.amplitude * np.sin(phase)}
        return {
            "u": gaussian_field(
                generator, (axes["x"].num_points,), (self.extent,), **condition.model_dump(exclude={"kind"})
            )
        }

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Solve on `solver.num_points` points (walls: both ends included), coarser or finer than `axes`.

        A coarser solver is interpolated by its trigonometric polynomial; raises GridError where it
        would not hold the initial condition below its 2/3 cut.
        """
        transform = self._transform(axes["x"], solver)
        initial = self._continued(instances["u"], axes["x"]).to(getattr(torch, solver.precision))
        v0 = transform.forward(resample(initial, max(initial.shape[-1], *transform.num_points)))
        (k,) = transform.wavenumbers()
        flux = torch.from_numpy(-0.5j * k).to(v0)

        def advection(v: Tensor) -> Tensor:
            return transform.forward(transform.backward(v).square_()).mul_(flux)

        states = Stepper(-self.viscosity * k**2, advection).solve(v0, times, solver.dt)
        u = transform.backward(states, initial.shape[-1:])[..., : axes["x"].num_points]
        u = u.to(instances["u"].dtype, memory_format=torch.contiguous_format)
        if times[0] == 0:
            u[:, 0] = instances["u"]
        return {"u": u}

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """The Cole-Hopf solution to about 1e-9; raises InputError where quadrature does not reach that."""
        initial = self._continued(instances["u"], axes["x"])
        u = cole_hopf_periodic(initial, times, extent=self._period, viscosity=self.viscosity)
        return {"u": u[..., : axes["x"].num_points]}

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """Space, and a unit of time: a sine of amplitude one on (-1, 1) has its shock by 1 / pi."""
        return {"x": self.domain, "t": (0.0, 1.0)}

    @property
    def unknowns(self) -> dict[str, Variable]:
        return self.variables

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ("x",)

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        return {"heat": {"t": 1, "xx": -self.viscosity}}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        v = u["u"]
        return {"burgers": v["heat"] + v.value * v["x"]}

    def check_conditions(self) -> None:
        """Raises SpecError: only a sine between walls has its conditions in closed form."""
        if self.boundary == "periodic" or not isinstance(self.initial_condition, Sine):
            raise SpecError(
                f"burgers with boundary={self.boundary} and initial_condition={self.initial_condition.kind} "
                "has no trial function that meets its conditions; use boundary: dirichlet with "
                "initial_condition: {kind: sine}",
                mistakes=["problem.boundary"],
            )

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        """u = u(x, 0) + (1 - e^-t) (x - a)(b - x) N, the latter factor with maximum one."""
        self.check_conditions()
        start, stop = self.domain
        wave, inside = x["x"] - start, (x["x"] - start) * (stop - x["x"])
        initial = self._amplitude * (self._wavenumber * wave).sin()
        return {"u": initial + (1 - (-x["t"]).exp()) * (4 / self.extent**2 * inside) * network["u"]}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        """By Cole-Hopf, once for every time that occurs: quick where many points share their time."""
        self.check_conditions()
        k, amplitude = self._wavenumber, self._amplitude
        x, t = (points[:, 0].double() - self.domain[0], points[:, 1].double())
        u = amplitude * torch.sin(k * x)
        times, which = torch.unique(t, return_inverse=True)
        for number, time in enumerate(times.tolist()):
            if time > 0:
                chosen = which == number
                u[chosen] = cole_hopf(
                    x[chosen],
                    time,
                    velocity=lambda y: amplitude * torch.sin(k * y),
                    potential=lambda y: -amplitude / k * torch.cos(k * y),
                    speed=abs(amplitude),
                    viscosity=self.viscosity,
                )
        return {"u": u}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean velocity, where no wall takes up momentum."""
        return {"mean velocity": solution["u"].mean(-1)} if self.boundary == "periodic" else {}

    @property
    def _wavenumber(self) -> float:
        assert isinstance(self.initial_condition, Sine)
        return 2 * math.pi * self.initial_condition.waves / self.extent

    @property
    def _amplitude(self) -> float:
        assert isinstance(self.initial_condition, Sine)
        return self.initial_condition.amplitude

    @property
    def _period(self) -> float:
        return self.extent if self.boundary == "periodic" else 2 * self.extent

    def _transform(self, axis: Axis, solver: Solver) -> Transform:
        num_points = solver.num_points or axis.num_points
        least = 3 * self.initial_condition.num_modes + 1
        if self.boundary == "dirichlet":
            least += 1
        if num_points < least:
            raise GridError(
                f"a solver on {num_points} points loses modes of the initial condition, which has "
                f"{self.initial_condition.num_modes}; use solver.num_points >= {least}"
            )
        return Transform(
            (num_points if self.boundary == "periodic" else 2 * (num_points - 1),), (self._period,)
        )

    def _continued(self, u: Tensor, axis: Axis) -> Tensor:
        """One period: as it is, or continued oddly beyond the walls to 2 (num_points - 1) points."""
        if u.ndim != 2 or u.shape[1] != axis.num_points:
            raise GridError(
                f"u has shape {tuple(u.shape)}, expected (batch, {axis.num_points}) as the grid of x"
            )
        if self.boundary == "periodic":
            return u
        if (u[:, [0, -1]].abs() > 1e-6 * u.abs().amax(1, keepdim=True)).any():
            raise InputError("with boundary=dirichlet, u must vanish at both ends of x")
        return torch.cat([u, -u[:, 1:-1].flip(-1)], dim=1)
