"""Two-dimensional incompressible flow on a periodic box; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.numerics.differences import difference, time_derivative
from dlde.numerics.evolution import (
    largest_stable_step,
    refined_to,
    relative_size,
    rounding,
    stencil,
)
from dlde.numerics.random_fields import spectral_std
from dlde.numerics.spectral import Stepper, Transform
from dlde.numerics.vorticity import VorticityAdvection
from dlde.problem import Array, Axis, Exact, Interval, Problem, Solvable, Solver, Variable
from dlde.problems.drawn import (
    Positive,
    bounds,
    check_field,
    check_instances,
    draw_parameters,
    parameter,
    parameter_variables,
)
from dlde.problems.initial_conditions import GaussianField, Sine
from dlde.spec import Spec


class DiagonalForce(Spec):
    """amplitude (sin + cos)(2 pi waves (x / width + y / height)), a source of vorticity.

    That of Li et al., Fourier Neural Operator (2021), arXiv 2010.08895, section 5.3.
    """

    kind: Literal["diagonal"] = "diagonal"
    amplitude: float = 0.1
    waves: PositiveInt = 1

    @property
    def mode(self) -> tuple[int, int]:
        """Waves along each axis."""
        return (self.waves, self.waves)

    def vorticity(self, x: Array, y: Array, height: float) -> Array:
        """The source at x, y, given as fractions of the box."""
        phase = 2 * np.pi * self.waves * (x + y)
        return self.amplitude * (np.sin(phase) + np.cos(phase))


class KolmogorovForce(Spec):
    """The force amplitude sin(2 pi waves y / height) along x, as the source of vorticity -d_y of it.

    Kochkov et al., PNAS 118 (2021), have waves 4 on a box of width 2 pi, and drag 0.1.
    """

    kind: Literal["kolmogorov"] = "kolmogorov"
    amplitude: float = 1.0
    waves: PositiveInt = 4

    @property
    def mode(self) -> tuple[int, int]:
        """Waves along each axis."""
        return (0, self.waves)

    def vorticity(self, x: Array, y: Array, height: float) -> Array:
        """The source at x, y, given as fractions of the box."""
        k = 2 * np.pi * self.waves
        return -self.amplitude * k / height * np.cos(k * y) + 0 * x


class NavierStokes(Problem, Solvable, Exact):
    """Navier-Stokes: w_t + u . grad w = viscosity Lap w - drag w + f, w the vorticity, periodic in 2-D.

    w = v_x - u_y of a divergence-free velocity (u, v) with mean zero; the mean of w is zero on a
    periodic box, and stays so. f is `forcing`, none for decaying flow. The default is the setting of Li et
    al., Fourier Neural Operator (2021), arXiv 2010.08895, section 5.3, with the initial law of their
    generator, N(0, 2 7^3 (-Lap + 49)^-2.5); the text has 7^(3/2) for 2 7^3, six times slower flow, which
    the force soon outgrows.
    Solved pseudo-spectrally in conservative form (2/3 rule, integrating-factor RK4), of order 4 in time.
    Exact where all of w(., 0) and f lie on one circle of wavenumbers: the advection vanishes there.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 4

    viscosity: Positive = 1e-3
    drag: NonNegativeFloat = 0.0  # rate at which all motion decays, as by friction on a ground
    domain: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0))  # of x, of y
    forcing: Annotated[DiagonalForce | KolmogorovForce, Field(discriminator="kind")] | None = DiagonalForce()
    initial_condition: Annotated[GaussianField | Sine, Field(discriminator="kind")] = GaussianField(
        exponent=2.5, tau=7.0, sigma=math.sqrt(2) * 7**1.5, num_modes=20
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (start, stop) in zip("xy", self.domain, strict=True):
            if stop <= start:
                raise ValueError(f"domain of {name} is ({start:g}, {stop:g}): expected start < stop")
        return self

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the box."""
        (x0, x1), (y0, y1) = self.domain
        return (x1 - x0, y1 - y0)

    @property
    def variables(self) -> dict[str, Variable]:
        return {
            "vorticity": Variable(dims=("time", "x", "y"), long_name="vorticity"),
            **parameter_variables(self),
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The grid of x and y, end points excluded.

        Raises GridError where it cannot tell the modes of the initial condition apart.
        """
        if len(num_points) != 2:
            raise GridError(
                f"navier-stokes has two spatial axes, x and y, but num_points={tuple(num_points)}"
            )
        least = 2 * self._modes + 1
        if min(num_points) < least:
            raise GridError(
                f"num_points={tuple(num_points)}: an initial condition of {self._modes} "
                f"modes needs at least {least} points per axis. Use a finer grid, or fewer modes"
            )
        return {
            name: Axis(start=start, stop=stop, num_points=n, boundary="periodic")
            for name, (start, stop), n in zip("xy", self.domain, num_points, strict=True)
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse a grid that loses modes, and a step that is unstable at a typical largest speed."""
        transform = self._transform(axes, solver)
        kx, ky = transform.wavenumbers()
        squared = kx**2 + ky**2
        speed = self._typical_speed(times[-1])
        stepper = Stepper(-bounds(self.viscosity)[0] * squared - self.drag, lambda v: v)
        limit = largest_stable_step(stepper, 1j * speed * np.sqrt(squared), solver.dt)
        if limit < solver.dt:
            raise GridError(
                f"dt={solver.dt:g} is unstable on {transform.num_points[0]} x {transform.num_points[1]} "
                f"points at speeds of about {speed:.2g}, as this flow has; use solver.dt <= {limit:.2g}",
                dt=solver.dt,
                largest=limit,
            )

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """w(x, y, 0), then the viscosity where it is an interval."""
        vorticity = self.initial_condition.draw(generator, axes)
        return {"vorticity": vorticity, **draw_parameters(self, generator)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Solve on `solver.num_points` points per axis, coarser or finer than `axes`.

        A coarser solver is interpolated by its trigonometric polynomial. A flow that outruns the step
        becomes NaN. Raises InputError where the mean vorticity is not zero, GridError on other grids.
        """
        given = self._checked(instances, axes)
        transform = self._transform(axes, solver)
        states = self._states(instances, axes, times, solver)
        w = transform.backward(states, given.shape[-2:])
        w = w.to(given.dtype, memory_format=torch.contiguous_format)
        if times[0] == 0:
            w[:, 0] = given
        return {"vorticity": w, **{name: instances[name] for name in parameter_variables(self)}}

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """w(0) e^(-rate t) + f (1 - e^(-rate t)) / rate with rate = viscosity k^2 + drag.

        Raises InputError where w(0) and f are not of one wavenumber k.
        """
        given = self._checked(instances, axes).double()
        shape = (given.shape[-2], given.shape[-1])
        transform = Transform(shape, self.extent, dealias=False)
        initial, force = transform.forward(given), self._force(transform, given.device)
        squared = self._squared(transform, given.device)
        size = initial.abs().square() + force.abs().square()
        mean = (size * squared).sum((-2, -1)) / size.sum((-2, -1)).clamp(min=1e-300)
        elsewhere = (squared - mean[:, None, None]).abs() > 1e-6 * squared.amax()
        lost = (given - transform.backward(initial)).abs().amax((-2, -1))
        stray = torch.maximum((size.sqrt() * elsewhere).amax((-2, -1)), lost)
        if (stray > 1e-9 * size.sqrt().amax((-2, -1))).any():
            raise InputError(
                "vorticity and forcing have several wavenumbers, for which no closed form is known; use "
                "initial_condition: {kind: sine} with forcing: null, or compare with a finer solver"
            )
        t = torch.tensor(tuple(times), dtype=torch.float64, device=given.device)
        rate = (parameter(self, "viscosity", instances) * mean + self.drag).clamp(min=1e-300)
        decayed = -torch.expm1(-rate[:, None] * t)[..., None, None]
        source = self._force_field(axes, given.device) / rate[:, None, None, None]
        w = given[:, None] * (1 - decayed) + source * decayed
        return {"vorticity": w, **{name: instances[name] for name in parameter_variables(self)}}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean vorticity, which is zero."""
        return {"mean vorticity": solution["vorticity"].double().mean((-2, -1))}

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Of the equation in advective form by finite differences, and of both budgets.

        dE/dt = -2 viscosity Z - 2 drag E + <psi f>  for the energy E = <u^2 + v^2> / 2,
        dZ/dt = -2 viscosity P - 2 drag Z + <w f>    for the enstrophy Z = <w^2> / 2, P = <|grad w|^2> / 2.
        Time by central differences of order 4, space by those of order 8 on twice the solver's points.
        """
        around, delta = stencil(times, solver.dt)
        if not around:
            return {}
        transform = self._transform(axes, solver)
        states = self._states(instances, axes, around, solver)
        states, rate = time_derivative(states.to(torch.complex128), delta)
        points = (2 * transform.num_points[0], 2 * transform.num_points[1])
        spacing = [length / n for length, n in zip(self.extent, points, strict=True)]
        squared = self._squared(transform, states.device)
        stream = states * torch.where(squared > 0, 1 / squared, 0)
        w, w_t, psi = (transform.backward(c, points) for c in (states, rate, stream))
        f = self._force_field(self.axes(points), w.device)
        nu = parameter(self, "viscosity", instances).view(-1, 1, 1, 1)
        psi_x, psi_y, w_x, w_y = (
            difference(field, 1, spacing[axis], axis) for field in (psi, w) for axis in (-2, -1)
        )
        advection = psi_y * w_x - psi_x * w_y
        diffusion = nu * sum(difference(w, 2, spacing[axis], axis) for axis in (-2, -1))
        friction, force, noise = self.drag * w, f.expand_as(w), rounding(w, delta, solver.precision)

        def budget(weight: Tensor) -> Tensor:
            terms = [weight * term for term in (w_t, diffusion, friction, force, noise)]
            means = [term.mean((-2, -1)) for term in terms]
            return relative_size(means[0] - means[1] + means[2] - means[3], means)

        return {
            "vorticity": relative_size(
                w_t + advection - diffusion + friction - force,
                [w_t, advection, diffusion, friction, force, noise],
            ),
            "energy": budget(psi),
            "enstrophy": budget(w),
        }

    def _states(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> Tensor:
        """Coefficients (batch, time, *modes) on the solver's grid."""
        transform = self._transform(axes, solver)
        given = self._checked(instances, axes).to(getattr(torch, solver.precision))
        v0 = transform.forward(refined_to(given, transform.num_points))
        v0[:, 0, 0] = 0
        squared = self._squared(transform, v0.device)
        viscosity = parameter(self, "viscosity", instances)
        linear = -viscosity[:, None, None] * squared - self.drag
        if not isinstance(self.viscosity, Interval):
            linear = linear[0]
        advection = VorticityAdvection(transform, v0)
        force = self._force(transform, v0.device).to(v0)

        def forced(w: Tensor) -> Tensor:
            return advection(w).add_(force)

        return Stepper(linear, advection if self.forcing is None else forced).solve(v0, times, solver.dt)

    def _squared(self, transform: Transform, device: torch.device) -> Tensor:
        """Wavenumbers squared over the modes, float64."""
        kx, ky = transform.wavenumbers()
        return torch.from_numpy(kx**2 + ky**2).to(device)

    def _checked(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> Tensor:
        check_instances(self, instances, ["vorticity"])
        w = instances["vorticity"]
        check_field("vorticity", w, axes)
        if (w.mean((-2, -1)).abs() > 1e-6 * w.abs().amax((-2, -1))).any():
            raise InputError(
                "the mean vorticity must be zero, as it is of any periodic velocity; subtract its mean"
            )
        return w

    def _transform(self, axes: Mapping[str, Axis], solver: Solver) -> Transform:
        points = [solver.num_points or axes[name].num_points for name in "xy"]
        modes = max(self._modes, self.forcing.waves if self.forcing else 0)
        if min(points) < 3 * modes + 1:
            raise GridError(
                f"a solver on {points[0]} x {points[1]} points loses modes of the initial condition or "
                f"the forcing, which have {modes}; use solver.num_points >= {3 * modes + 1}"
            )
        return Transform(points, self.extent)

    @property
    def _modes(self) -> int:
        return self.initial_condition.num_modes

    def _fractions(self, axes: Mapping[str, Axis]) -> tuple[Array, Array]:
        """The points as fractions of the box, to broadcast over the grid."""
        x, y = (np.arange(axes[name].num_points) / axes[name].num_points for name in "xy")
        return x[:, None], y[None, :]

    def _force_field(self, axes: Mapping[str, Axis], device: torch.device) -> Tensor:
        x, y = self._fractions(axes)
        if self.forcing is None:
            return torch.zeros(x.size, y.size, dtype=torch.float64, device=device)
        return torch.from_numpy(self.forcing.vorticity(x, y, self.extent[1])).to(device)

    def _force(self, transform: Transform, device: torch.device) -> Tensor:
        field = self._force_field(self.axes(transform.num_points), device)
        force = transform.forward(field)
        force[0, 0] = 0  # rounding must not add up in the mean
        return force

    def _typical_speed(self, horizon: float) -> float:
        """Twice the root mean square of the velocity at the start and what the force adds by then."""
        width, height = self.extent
        condition = self.initial_condition
        if isinstance(condition, Sine):
            k = 2 * math.pi * condition.waves * math.hypot(1 / width, 1 / height)
            speed = abs(condition.amplitude) / 2 / k
        else:
            modes = Transform((2 * condition.num_modes + 1,) * 2, self.extent, dealias=False)
            kx, ky = modes.wavenumbers()
            squared = (kx**2 + ky**2).ravel()[1:]
            law = condition.model_dump(include={"exponent", "tau", "sigma"})
            speed = math.sqrt((spectral_std(squared, **law) ** 2 / squared).sum())
        if self.forcing is not None:
            x, y = np.meshgrid(*(np.linspace(0, 1, 8 * self.forcing.waves, endpoint=False),) * 2)
            m = self.forcing.mode
            k = 2 * math.pi * math.hypot(m[0] / width, m[1] / height)
            decay = bounds(self.viscosity)[0] * k**2 + self.drag
            speed += self.forcing.vorticity(x, y, height).std() / k * min(horizon, 1 / decay)
        return 2 * float(speed)
