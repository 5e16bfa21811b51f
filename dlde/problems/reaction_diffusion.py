"""Two reacting and diffusing fields on a periodic interval or rectangle: what all of them share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError
from dlde.numerics.differences import difference, time_derivative
from dlde.numerics.evolution import (
    largest_stable_step,
    refined_to,
    relative_size,
    rounding,
    stencil,
)
from dlde.numerics.spectral import Stepper, Transform
from dlde.problem import Array, Axis, Problem, Solvable, Solver, Thresholds, Variable
from dlde.problems.drawn import (
    check_field,
    check_instances,
    check_lists,
    draw_parameters,
    drawn_names,
    parameter,
    parameter_variables,
)
from dlde.problems.initial_conditions import Waves
from dlde.spec import Spec

Flux = Callable[[float], tuple[float, float]]  # time -> g and its derivative; g(0) = 0
Domain = Annotated[tuple[tuple[float, float], ...], Field(min_length=1, max_length=2)]  # of x, and of y


class Blobs(Spec):
    """`outside` everywhere, and `inside` in `count` smooth blobs at random places, uniform in the domain.

    A blob is exp(-d^2 / (2 radius^2)), continued periodically; where blobs overlap the state stays
    between the two. With `apart`, each field has blobs of its own, which breaks waves into spirals.
    """

    kind: Literal["blobs"] = "blobs"
    count: PositiveInt = 12
    radius: PositiveFloat = 4.0  # in units of the domain
    outside: tuple[float, float] = (1.0, 0.0)
    inside: tuple[float, float] = (0.5, 0.25)
    apart: bool = False

    def num_modes(self, length: float) -> int:
        """The mode where a blob's coefficients have fallen to 1e-5."""
        return math.ceil(4.8 * length / (2 * math.pi * self.radius))

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> tuple[Array, Array]:
        """Both fields."""
        places = generator.random((2, self.count, 2))  # alike for one and two axes
        covered = [self._covered(places[which], axes) for which in (0, 1 if self.apart else 0)]
        first, second = (
            outside + (inside - outside) * cover
            for outside, inside, cover in zip(self.outside, self.inside, covered, strict=True)
        )
        return first, second

    def _covered(self, places: Array, axes: Mapping[str, Axis]) -> Array:
        free = np.ones([axis.num_points for axis in axes.values()])
        for place in places:
            blob = np.ones(())
            for fraction, axis in zip(place, axes.values(), strict=False):
                blob = blob[..., None] * self._profile(fraction, axis)
            free = free * (1 - blob)
        return 1 - free

    def _profile(self, fraction: float, axis: Axis) -> Array:
        length = axis.stop - axis.start
        distance = axis.points - axis.start - fraction * length
        images = length * np.arange(-2, 3)[:, None]
        peak = np.exp(-(images**2) / (2 * self.radius**2)).sum()
        profile: Array = np.exp(-((distance + images) ** 2) / (2 * self.radius**2)).sum(0) / peak
        return profile


class Noise(Spec):
    """A homogeneous state plus a Gaussian field for each component, white in the modes up to `modes`."""

    kind: Literal["noise"] = "noise"
    state: tuple[float, float] = (0.5, 0.25)
    amplitude: PositiveFloat = 0.01  # standard deviation of the noise
    modes: PositiveInt = 16  # highest, along each axis

    def num_modes(self, length: float) -> int:
        """Whatever the length."""
        return self.modes

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> tuple[Array, Array]:
        """Both fields."""
        noise = Waves(amplitude=self.amplitude, num_modes=self.modes, decay=0.0)
        first, second = (noise.draw(generator, axes) + mean for mean in self.state)
        return first, second


class Uniform(Spec):
    """The same state everywhere, in every instance."""

    kind: Literal["uniform"] = "uniform"
    state: tuple[float, float] = (0.0, 0.0)

    def num_modes(self, length: float) -> int:
        """None but the mean; one, so that a grid has points."""
        return 1

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> tuple[Array, Array]:
        """Both fields."""
        shape = [axis.num_points for axis in axes.values()]
        first, second = (np.full(shape, value) for value in self.state)
        return first, second


class ReactionDiffusion(Problem, Solvable):
    """Base: a_t = D_a Lap a + R_a(a, b), b_t = D_b Lap b + R_b(a, b), in one or two dimensions.

    Solved pseudo-spectrally (2/3 rule, ETDRK4, which keeps its order beside a kink at a wall and took a
    tenth of an integrating factor's error in patterns). A product of three fields aliases a little, but the
    cut that forbids it, at half the modes, costs 5 to 10 times the accuracy.
    The domain has one interval or two. Fields of type `Positive` may be intervals.

    Periodic, or between walls (`walls`): then the even periodic continuation is solved, on which a slope
    at the wall is a kink, resolved to an order of 1 to 2 in the spacing only. A flux a_x = g(t) at the left
    end of one dimension (`flux`) is lifted: g(t) phi(x) with phi = -(L - x)^2 / (2 L) is taken off first.
    """

    order: ClassVar[float] = 4
    # Fronts are a few points wide, and the defect weighs their finest modes by k^2 where the error does not.
    # Steps near the stable ones, large enough for patterns, show an order of little more than 3.
    thresholds: ClassVar[Thresholds] = Thresholds(order=3.0, defect=3e-2)
    state: ClassVar[dict[str, str]]  # name -> meaning of both fields

    domain: Domain
    initial_condition: Annotated[Blobs | Noise | Uniform, Field(discriminator="kind")]

    @abstractmethod
    def diffusivities(self, instances: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Of both fields, each (batch,) or (1,)."""

    @abstractmethod
    def reaction(self, a: Tensor, b: Tensor, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """R at points; `p` has the parameters that `rates` names, shaped to broadcast. New tensors."""

    rates: ClassVar[tuple[str, ...]]

    @abstractmethod
    def fastest_rate(self) -> float:
        """The largest rate of the reaction in the states that it visits, for the stability of a step."""

    @property
    def walls(self) -> bool:
        """Whether the domain ends in walls, without a flux but where `flux` gives one."""
        return False

    @property
    def flux(self) -> Flux | None:
        """The slope of the first field at the left end of one dimension, where it is not zero."""
        return None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (start, stop) in zip("xy", self.domain, strict=False):
            if stop <= start:
                raise ValueError(f"domain of {name} is ({start:g}, {stop:g}): expected start < stop")
        check_lists(self)
        return self

    @property
    def extent(self) -> tuple[float, ...]:
        """Length of the domain along each axis."""
        return tuple(stop - start for start, stop in self.domain)

    @property
    def variables(self) -> dict[str, Variable]:
        space = ("x", "y")[: len(self.domain)]
        fields = {name: Variable(dims=("time", *space), long_name=text) for name, text in self.state.items()}
        return {**fields, **parameter_variables(self)}

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The grid; with walls it includes both ends.

        Raises GridError where it cannot tell the modes of the initial condition apart.
        """
        if len(num_points) != len(self.domain):
            raise GridError(
                f"num_points={tuple(num_points)} for a domain with {len(self.domain)} axes; "
                "give one number for each, or change problem.domain"
            )
        for name, points, period in zip("xy", num_points, self._periods, strict=False):
            modes = self.initial_condition.num_modes(period)
            if self._continued_points(points) < 2 * modes + 1:
                raise GridError(
                    f"num_points={points} along {name}: an initial condition of {modes} modes needs "
                    f"at least {self._least(2 * modes + 1)}. Use a finer grid, or a smoother start"
                )
        boundary: Literal["wall", "periodic"] = "wall" if self.walls else "periodic"
        return {
            name: Axis(start=start, stop=stop, num_points=n, boundary=boundary)
            for name, (start, stop), n in zip("xy", self.domain, num_points, strict=False)
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse a grid that loses modes, and a step that is unstable for the fastest reaction."""
        self._transform(axes, solver)
        rate = self.fastest_rate()
        stepper = Stepper(np.zeros(1), lambda v: v)
        limit = largest_stable_step(stepper, np.array([-rate]), solver.dt)
        if limit < solver.dt:
            raise GridError(
                f"dt={solver.dt:g} is unstable for this reaction, whose fastest rate is about {rate:.3g}; "
                f"use solver.dt <= {limit:.2g}",
                dt=solver.dt,
                largest=limit,
            )

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """Both fields at time 0, then the parameters that are intervals."""
        fields = dict(zip(self.state, self.initial_condition.draw(generator, axes), strict=True))
        return {**fields, **draw_parameters(self, generator)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Solve on `solver.num_points` points per axis, coarser or finer than `axes`.

        A coarser solver is interpolated by its trigonometric polynomial. Raises InputError or GridError
        for instances that do not fit.
        """
        states = self._states(instances, axes, times, solver)
        shape = [axis.num_points for axis in axes.values()]
        fields = self._transform(axes, solver).backward(states, [self._continued_points(n) for n in shape])
        for dim, n in zip(range(-len(shape), 0), shape, strict=True):
            fields = fields.narrow(dim, 0, n)
        if self.flux is not None:
            lifted = self._lift(fields, self._continued_points(shape[0]))[: shape[0]]
            g = fields.new_tensor([self.flux(time)[0] for time in times])
            fields[:, :, 0] += g[:, None] * lifted
        solution = {name: instances[name] for name in drawn_names(self)}
        for name, field in zip(self.state, fields.unbind(2), strict=True):
            given = instances[name]
            field = field.to(given.dtype, memory_format=torch.contiguous_format, copy=True)
            if times[0] == 0:
                field[:, 0] = given
            solution[name] = field
        return solution

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Of both equations at points: time by central differences of order 4, space of order 8.

        The solution is taken on twice the solver's points.
        """
        around, delta = stencil(times, solver.dt)
        if not around:
            return {}
        transform = self._transform(axes, solver)
        states = self._states(instances, axes, around, solver).to(torch.complex128)
        points = [2 * n for n in transform.num_points]
        now, rate = (transform.backward(part, points) for part in time_derivative(states, delta))
        shape = (-1, *[1] * (1 + len(points)))
        smooth, steady = now, torch.zeros(())
        if self.flux is not None:
            g, g_t = now.new_tensor([self.flux(time) for time in around[2::5]]).T[..., None]
            lift = self._lift(now, points[0])
            now, rate = now.clone(), rate.clone()
            smooth, steady = now.clone(), -g / self.extent[0]
            now[:, :, 0] += g * lift
            rate[:, :, 0] += g_t * lift
        p = {name: parameter(self, name, instances).view(shape) for name in self.rates}
        reactions = self.reaction(now[:, :, 0], now[:, :, 1], p)
        spacing = [length / n for length, n in zip(self._periods, points, strict=True)]
        dims = range(-len(points), 0)
        found = {}
        for which, (name, diffusivity) in enumerate(
            zip(self.state, self.diffusivities(instances), strict=True)
        ):
            field, slope, change = now[:, :, which], rate[:, :, which], reactions[which]
            bent = torch.stack([difference(smooth[:, :, which], 2, spacing[dim], dim) for dim in dims]).sum(0)
            diffusion = diffusivity.view(shape) * (bent + steady if which == 0 else bent)
            noise = rounding(field, delta, solver.precision)
            found[name] = relative_size(slope - diffusion - change, [slope, diffusion, change, noise])
        return found

    def _states(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> Tensor:
        """Coefficients (batch, time, field, *modes) on the solver's grid."""
        self._check(instances, axes)
        transform = self._transform(axes, solver)
        given = torch.stack([instances[name] for name in self.state], dim=1)
        given = given.to(getattr(torch, solver.precision))
        if self.walls:
            for dim in range(-len(axes), 0):
                inner = given.narrow(dim, 1, given.shape[dim] - 2)
                given = torch.cat([given, inner.flip(dim)], dim=dim)
        v0 = transform.forward(refined_to(given, transform.num_points))
        shape = (-1, *[1] * len(axes))
        squared = sum(torch.from_numpy(k**2).to(v0.device) for k in transform.wavenumbers())
        first, second = self.diffusivities(instances)
        together = max(len(first), len(second))
        linear = torch.stack([-d.expand(together).reshape(shape) * squared for d in (first, second)], dim=1)
        p = [parameter(self, name, instances) for name in self.rates]
        flux, lift = self.flux, self._lift(given, transform.num_points[0])

        def reaction(v: Tensor, time: float, diffusivity: Tensor, *p: Tensor) -> Tensor:
            a, b = transform.backward(v).unbind(1)
            g, g_t = (0.0, 0.0) if flux is None else flux(time)
            if g or g_t:
                a = a + g * lift
            change = self.reaction(a, b, dict(zip(self.rates, p, strict=True)))
            if g or g_t:
                change[0].sub_(diffusivity * (g / self.extent[0])).sub_(g_t * lift)
            return transform.forward(torch.stack(change, dim=1))

        count = len(v0)
        linear = linear[0] if len(linear) == 1 else linear
        data = [one.view(shape).to(given).expand(count, *shape[1:]) for one in (first, *p)]
        return Stepper(linear, reaction, "etdrk4", data=data).solve(v0, times, solver.dt)

    def _check(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> None:
        check_instances(self, instances, list(self.state))
        for name in self.state:
            check_field(name, instances[name], axes, len(instances[next(iter(self.state))]))

    def _transform(self, axes: Mapping[str, Axis], solver: Solver) -> Transform:
        points = [solver.num_points or axis.num_points for axis in axes.values()]
        for n, period in zip(points, self._periods, strict=True):
            modes = self.initial_condition.num_modes(period)
            if self._continued_points(n) < 3 * modes + 1:
                raise GridError(
                    f"a solver on {n} points loses modes of the initial condition, which has {modes}; "
                    f"use solver.num_points >= {self._least(3 * modes + 1)}"
                )
        return Transform([self._continued_points(n) for n in points], self._periods)

    @property
    def _periods(self) -> tuple[float, ...]:
        return tuple(length * (2 if self.walls else 1) for length in self.extent)

    def _continued_points(self, num_points: int) -> int:
        """Of a period, for that many of the domain."""
        return 2 * (num_points - 1) if self.walls else num_points

    def _least(self, continued: int) -> int:
        """The inverse, rounded up."""
        return -(-continued // 2) + 1 if self.walls else continued

    def _lift(self, like: Tensor, num_points: int) -> Tensor:
        """phi on the points of a period along x: slope 1 at the left end, 0 at the right."""
        length = self.extent[0]
        x = torch.arange(num_points, dtype=torch.float64, device=like.device) * (
            self._periods[0] / num_points
        )
        folded = torch.minimum(x, 2 * length - x)
        return (-((length - folded) ** 2) / (2 * length)).to(like.real.dtype)
