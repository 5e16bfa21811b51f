"""Periodic semilinear equations u_t = L u + N(u) + f: what all of them share.

An equation is its symbol of L, its nonlinear part, and its right-hand side at points; grids, drawing,
solving on cache-sized blocks, refusals and the check of the equation come from here. Everything is
dimensionless.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from dlde.errors import GridError, InputError, nearest
from dlde.numerics.differences import difference, five_times, time_derivative
from dlde.numerics.evolution import refined_to
from dlde.numerics.spectral import Scheme, Stepper, Transform, check_times
from dlde.problem import Array, Axis, Exact, Interval, Problem, Solvable, Solver, Variable
from dlde.problems.drawn import Real
from dlde.problems.forcing import Forcing, RandomForcing
from dlde.problems.initial_conditions import InitialCondition

Coefficients = Mapping[str, Any]  # by name: a number, or a tensor (batch, 1, ...) with one for each sample
Change = Callable[[Tensor, Coefficients], Tensor]  # the nonlinear part, of coefficients (batch, *modes)
Slope = Callable[[Tensor, int, int], Tensor]  # (field, axis, order) -> derivative of that order

_EXCESS = 6.0  # decades beyond a mode's own growth, at the end of all steps, that count as unstable
_STEPS = 100  # and of that many at least
_CHECKED_TIMES = 8  # at which `defect` looks, at most


class PeriodicEquation(Solvable, Problem):
    """Base: a semilinear equation on a periodic interval, or a square of that side.

    `coefficients` names the fields that may be an `Interval`; one that is becomes an entry (batch,) of
    the instances and a scalar variable. `state` names the stored fields: one, or the real and the
    imaginary part of a complex one.
    """

    order: ClassVar[float] = 4
    scheme: ClassVar[Scheme] = "etdrk4"
    degree: ClassVar[int] = 2  # of the nonlinear part, whose products are free of aliasing
    coefficients: ClassVar[dict[str, str]] = {}  # name -> meaning
    state: ClassVar[dict[str, str]] = {"u": "solution"}  # name -> meaning

    domain: tuple[float, float] = (0.0, 1.0)
    initial_condition: InitialCondition

    @abstractmethod
    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        """Of L over the modes: wavenumbers of each axis (arrays or tensors) -> the same kind."""

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change | None:
        """N, in the precision and on the device of coefficients `like`; None for a linear equation."""
        return None

    @abstractmethod
    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        """The terms whose sum is u_t, at points: the state (batch, time, *space), forcing aside."""

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        """The symbol of N's derivative at a constant state of that size, for the stability of a step."""
        return 0.0 * k[0]

    @property
    def forced(self) -> Forcing | None:
        """The force f(x, t), where the equation has one."""
        return None

    @model_validator(mode="after")
    def _ordered_domain(self) -> Self:
        start, stop = self.domain
        if stop <= start:
            raise ValueError(f"domain=({start:g}, {stop:g}): expected start < stop")
        return self

    @property
    def num_axes(self) -> int:
        """Of space."""
        return 1

    @property
    def extent(self) -> float:
        """Length of the domain."""
        return self.domain[1] - self.domain[0]

    @property
    def period(self) -> tuple[float, ...]:
        """Along each axis."""
        return (self.extent,) * self.num_axes

    @property
    def drawn(self) -> dict[str, Interval]:
        """The coefficients that every instance draws anew."""
        given = {name: getattr(self, name) for name in self.coefficients}
        return {name: value for name, value in given.items() if isinstance(value, Interval)}

    @property
    def variables(self) -> dict[str, Variable]:
        space = ("x", "y")[: self.num_axes]
        found = {
            name: Variable(dims=("time", *space), long_name=meaning) for name, meaning in self.state.items()
        }
        for name in self.drawn:
            found[name] = Variable(dims=(), long_name=self.coefficients[name])
        if isinstance(self.forced, RandomForcing):
            found["forcing"] = self.forced.variable
        return found

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The grid. Raises GridError where it cannot tell the modes of the initial condition apart."""
        names = ("x", "y")[: self.num_axes]
        if len(num_points) != self.num_axes:
            count = "one spatial axis" if self.num_axes == 1 else "two spatial axes"
            raise GridError(
                f"{self._title} has {count}, {' and '.join(names)}, but num_points={tuple(num_points)}"
            )
        modes, least = self._highest_mode, self._least_points(1)
        if min(num_points) < least:
            what = "an initial condition" if self._forced_modes < modes else "an initial condition or force"
            raise GridError(
                f"num_points={min(num_points)}: {what} of {modes} modes needs at least {least} points. "
                "Use a finer grid, or fewer modes"
            )
        start, stop = self.domain
        return {
            name: Axis(start=start, stop=stop, num_points=points, boundary=self._boundary)
            for name, points in zip(names, num_points, strict=True)
        }

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """The field at time 0, then the coefficients, then the force."""
        instance = self.draw_state(generator, axes)
        for name, interval in self.drawn.items():
            instance[name] = np.array(interval.draw(generator))
        if isinstance(self.forced, RandomForcing):
            instance["forcing"] = self.forced.draw(generator, axes)
        return instance

    def draw_state(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """The field at time 0."""
        (name,) = self.state
        return {name: self.initial_condition.draw(generator, axes)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Solve on `solver.num_points` points per axis, coarser or finer than `axes`.

        A coarser solver is interpolated by its trigonometric polynomial. Raises GridError where it
        would not hold the initial condition below its cut, InputError for instances that do not fit.
        """
        transform = self._transform(axes, solver)
        self.check_instances(instances, axes)
        precision = getattr(torch, solver.precision)
        parts = [self.continued(instances[name], axes).to(precision) for name in self.state]
        shape = tuple(parts[0].shape[1:])
        finer = [refined_to(part, transform.num_points) for part in parts]
        v0 = transform.forward(finer[0] if len(finer) == 1 else torch.complex(*finer))
        values = self.values_of(instances)
        k: Sequence[Any] = transform.wavenumbers()
        if self.drawn:
            k = [torch.from_numpy(one).to(v0.device) for one in k]
        states = self._march(v0, transform, k, values, instances, times, solver.dt)
        fields = transform.backward(states, shape)
        fields = _cropped(fields, axes)
        solution = {}
        for name, field in zip(
            self.state, [fields] if len(parts) == 1 else [fields.real, fields.imag], strict=True
        ):
            given = instances[name]
            field = field.to(given.dtype, memory_format=torch.contiguous_format)
            if times[0] == 0:
                field[:, 0] = given
            solution[name] = field
        return solution | {name: instances[name] for name in self.variables if name not in self.state}

    def _march(
        self,
        v0: Tensor,
        transform: Transform,
        k: Sequence[Any],
        values: Coefficients,
        instances: Mapping[str, Tensor],
        times: Sequence[float],
        dt: float,
    ) -> Tensor:
        """The coefficients (batch, time, *modes) at the times."""
        symbol = self.symbol(k, values)
        change = self.nonlinearity(transform, v0)
        if change is None:
            return _exponentials(v0, symbol, times)
        forced = self.forced
        if not self.drawn and forced is None:
            return Stepper(symbol, lambda v: change(v, values), self.scheme).solve(v0, times, dt)
        names = tuple(self.drawn)
        data = [values[name].to(v0.real.dtype) for name in names]
        if forced is not None:
            shapes = forced.shapes(instances, transform.num_points[0], self.period[0], self.extent)
            data.append(transform.forward(shapes.to(v0.real)).expand(len(v0), -1, -1))

        def nonlinear(v: Tensor, time: float, *rows: Tensor) -> Tensor:
            out = change(v, {**values, **dict(zip(names, rows, strict=False))})
            if forced is not None:
                for number, weight in enumerate(forced.weights(time)):
                    out.add_(rows[-1][:, number], alpha=weight)
            return out

        return Stepper(symbol, nonlinear, self.scheme, data=data).solve(v0, times, dt)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for a grid that loses modes, and for a step that no instance allows.

        The step is tried on the equation linearised at a constant state of a size that nearly every
        instance exceeds somewhere.
        """
        transform = self._transform(axes, solver)
        gaps = [b - a for a, b in itertools.pairwise((0.0, *times)) if b > a]
        if not gaps:
            return
        if not self._stable(transform, max(gap / math.ceil(gap / solver.dt) for gap in gaps), times[-1]):
            largest = solver.dt
            while not self._stable(transform, largest, times[-1]):
                largest /= 1.1
            raise GridError(
                f"solver.dt={solver.dt:g} is unstable for {self._title} on {max(transform.num_points)} "
                f"points a period; use solver.dt <= {largest:.3g}, or fewer solver.num_points",
                dt=solver.dt,
                largest=largest,
            )

    def _stable(self, transform: Transform, dt: float, duration: float) -> bool:
        if self._linear:
            return True
        k = transform.wavenumbers()
        amplitude = self.initial_condition.size(self.extent, self.num_axes)
        for end in ("low", "high"):
            c = {name: getattr(self, name) for name in self.coefficients}
            c.update({name: getattr(interval, end) for name, interval in self.drawn.items()})
            symbol = self.symbol(k, c)
            rate = self.linearised(k, amplitude, c) + np.zeros_like(symbol)
            with np.errstate(over="ignore", invalid="ignore"):
                growth = Stepper(symbol, lambda v: v, self.scheme).amplification(rate, dt)
                own = np.maximum(np.abs(np.exp(dt * (symbol + rate))), 1)
                decades = np.log10(np.maximum(growth / own, 1e-300)) * max(duration / dt, _STEPS)
            if decades.max() < _EXCESS:
                return True
        return False

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """u_t by central differences in time (order 4) against the terms by differences in space (order 8).

        Both of the solution on a grid four times finer than the solver's; at 8 of the times at most.
        """
        points = [max(axis.num_points, solver.num_points or 0) for axis in axes.values()]
        finer = self.axes(points)
        given = {
            name: self._on(value, axes, finer) if name in self.state else value
            for name, value in instances.items()
        }
        if "forcing" in given:
            given["forcing"] = self._on(given["forcing"], axes, finer)
        later = [time for time in times if time > 0][:: math.ceil(len(times) / _CHECKED_TIMES)]
        if not later:
            return {}
        step = self._defect_step(later, solver.dt)
        solution = self.solve(given, finer, five_times(later, step), solver)
        parts = [self.continued_in_time(solution[name], finer).double() for name in self.state]
        parts = [refined_to(part, [4 * n for n in part.shape[2:]]) for part in parts]
        u = parts[0] if len(parts) == 1 else torch.complex(*parts)
        now, slope = time_derivative(u, step)
        spacing = [period / n for period, n in zip(self.period, now.shape[2:], strict=True)]

        def d(field: Tensor, axis: int, order: int) -> Tensor:
            return difference(field, order, spacing[axis], axis - self.num_axes)

        values = {
            name: value[:, None] if isinstance(value, Tensor) else value
            for name, value in self.values_of(instances).items()
        }
        terms = self.terms(now, d, values)
        if self.forced is not None:
            shapes = self.forced.shapes(given, now.shape[2], self.period[0], self.extent).to(now)
            weights = shapes.new_tensor([self.forced.weights(time) for time in later])
            terms.append(torch.einsum("tj,bjx->btx", weights, shapes).expand_as(now))
        defect = slope - sum(terms)
        size = torch.stack([_norm(term) for term in (slope, *terms)]).amax(0)
        return {self._title.lower(): _norm(defect) / size}

    def _defect_step(self, times: Sequence[float], dt: float) -> float:
        """Short against the gaps of the times and the period of the initial condition's fastest mode."""
        highest = 2 * np.pi * self._highest_mode / min(self.period)
        k = [np.full((1,) * self.num_axes, highest)] * self.num_axes
        c = {name: getattr(self, name) for name in self.coefficients}
        c.update({name: interval.high for name, interval in self.drawn.items()})
        fastest = float(np.abs(self.symbol(k, c)).max())
        gaps = [b - a for a, b in itertools.pairwise((0.0, *times))]
        return min(dt, min(gaps) / 8, 0.3 / fastest if fastest else dt)

    def continued(self, field: Tensor, axes: Mapping[str, Axis]) -> Tensor:
        """The values of one period, from those of the grid (batch, *space)."""
        return field

    def continued_in_time(self, field: Tensor, axes: Mapping[str, Axis]) -> Tensor:
        """The same of (batch, time, *space)."""
        whole = self.continued(field.flatten(0, 1), axes)
        return whole.view(*field.shape[:2], *whole.shape[1:])

    def periodic_points(self, num_points: int) -> int:
        """Points of a period on a grid of that many points."""
        return num_points

    def check_instances(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> None:
        """Refuse what is missing, unknown or of another shape. Raises GridError and InputError."""
        wanted = [name for name in (*self.state, *self.variables) if name in self.variables]
        for name in instances:
            if name not in wanted:
                raise InputError(f"{self._title} has no instance entry {name!r}; {nearest(name, wanted)}")
        space = tuple(axis.num_points for axis in axes.values())
        first = next(iter(self.state))
        for name in wanted:
            if name not in instances:
                raise InputError(
                    f"an instance of {self._title} needs {name!r}; it has {', '.join(instances) or 'nothing'}"
                )
            shape = tuple(instances[name].shape)
            lead: tuple[int, ...] = (shape[0] if shape and name == first else len(instances[first]),)
            expected = lead if name in self.drawn else (*lead, *space)
            if name == "forcing":
                expected = (*lead, *self.variables[name].sizes.values(), *space)
            if shape != expected:
                wanted_shape = ", ".join(["batch", *map(str, expected[1:])])
                raise GridError(
                    f"{name} has shape {shape}, expected ({wanted_shape}{',' * (len(expected) == 1)})"
                    f"{' as the grid of ' + ' and '.join(axes) if name not in self.drawn else ''}"
                    f"{f', with batch {lead[0]} as {first}' if name != first else ''}"
                )
        for name, interval in self.drawn.items():
            if interval.low > 0 and not (instances[name] > 0).all():
                raise InputError(f"{name} must be positive in every instance, as it is where it is drawn")

    def values_of(self, instances: Mapping[str, Tensor]) -> dict[str, Any]:
        """The coefficients: numbers, and those of the instances as (batch, 1, ...), float64."""
        ones = [1] * self.num_axes
        return {
            name: instances[name].double().view(-1, *ones) if name in self.drawn else getattr(self, name)
            for name in self.coefficients
        }

    def _on(self, field: Tensor, axes: Mapping[str, Axis], finer: Mapping[str, Axis]) -> Tensor:
        """A field of one grid on another, by its trigonometric polynomial."""
        if [a.num_points for a in axes.values()] == [a.num_points for a in finer.values()]:
            return field
        points = [self.periodic_points(axis.num_points) for axis in finer.values()]
        whole = refined_to(self.continued(field, axes) if field.ndim == 1 + len(axes) else field, points)
        return _cropped(whole, finer)

    @property
    def _linear(self) -> bool:
        return type(self).nonlinearity is PeriodicEquation.nonlinearity

    @property
    def _title(self) -> str:
        return self.summary().partition(":")[0]

    @property
    def _boundary(self) -> Literal["periodic", "wall"]:
        return "periodic"

    @property
    def _forced_modes(self) -> int:
        return self.forced.highest_mode if self.forced is not None else 0

    @property
    def _highest_mode(self) -> int:
        """Of what is given: the initial condition and the force."""
        return max(self.initial_condition.highest_mode(self.extent), self._forced_modes)

    def _least_points(self, degree: int) -> int:
        """Of a grid that holds what is given where products of that degree are free of aliasing."""
        return (degree + 1) * self._highest_mode + 1

    def _transform(self, axes: Mapping[str, Axis], solver: Solver) -> Transform:
        degree = 1 if self._linear else self.degree
        points = [solver.num_points or axis.num_points for axis in axes.values()]
        least = self._least_points(degree)
        if min(points) < least:
            raise GridError(
                f"a solver on {min(points)} points loses modes of the initial condition, which has "
                f"{self._highest_mode}; use solver.num_points >= {least}"
            )
        return Transform(
            [self.periodic_points(n) for n in points],
            self.period,
            degree=degree,
            real=len(self.state) == 1,
        )


class AnyDimension(PeriodicEquation):
    """Base: the same in one or two dimensions, of space (x) or (x, y)."""

    dims: Literal[1, 2] = 1

    @property
    def num_axes(self) -> int:
        return self.dims


class LinearEquation(AnyDimension, Exact):
    """Base: every mode is multiplied by exp(symbol * t), which no step of time can improve.

    Fields are to have no mode at half the points or above.
    """

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """None: there is no error in time."""
        return None

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        """Twice the points."""
        points = solver.num_points or max(axis.num_points for axis in axes.values())
        return Solver(**{**solver.model_dump(), "num_points": 2 * points})

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """By the Fourier sums themselves, without a fast transform: modes below half the points."""
        self.check_instances(instances, axes)
        (name,) = self.state
        field = instances[name].double()
        k, waves = [], []
        for number, axis in enumerate(axes.values()):
            cut = (axis.num_points - 1) // 2
            one = 2 * math.pi / self.extent * torch.arange(-cut, cut + 1, dtype=torch.float64)
            one = one.to(field.device)
            x = torch.from_numpy(axis.points - axis.start).to(field.device)
            waves.append(torch.polar(torch.ones((), dtype=x.dtype, device=x.device), x[:, None] * one))
            k.append(one.view([-1 if n == number else 1 for n in range(self.num_axes)]))
        v = field.to(torch.complex128)
        for wave in waves:
            v = torch.tensordot(v, wave.conj() / len(wave), dims=([1], [0]))
        symbol = self.symbol(k, self.values_of(instances))
        states = _exponentials(v, symbol, times)
        for wave in waves:
            states = torch.tensordot(states, wave.T, dims=([2], [0]))
        return {name: states.real.contiguous()} | {n: instances[n] for n in self.drawn}


class Transport(LinearEquation):
    """Base: a linear equation with a constant velocity, speed * (cos direction, sin direction).

    `direction` (radians) turns it in the plane; in one dimension a negative speed goes to the left.
    """

    speed: Real = 1.0
    direction: Real = 0.0

    @model_validator(mode="after")
    def _directed(self) -> Self:
        if self.dims == 1 and self.direction != 0:
            raise ValueError(
                f"direction={self.direction}: one dimension has none; use dims: 2, or direction: 0"
            )
        return self

    def velocity(self, c: Coefficients) -> list[Any]:
        """Along each axis."""
        if self.dims == 1:
            return [c["speed"]]
        if isinstance(c["direction"], Tensor):
            return [c["speed"] * torch.cos(c["direction"]), c["speed"] * torch.sin(c["direction"])]
        return [c["speed"] * math.cos(c["direction"]), c["speed"] * math.sin(c["direction"])]

    def carried(self, k: Sequence[Any], c: Coefficients) -> Any:
        """The symbol of -velocity . grad."""
        return -1j * sum(v * one for v, one in zip(self.velocity(c), k, strict=True))


def laplacian(k: Sequence[Any]) -> Any:
    """Its symbol, -|k|^2."""
    return -sum(one**2 for one in k)


def quadratic(transform: Transform, factor: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> factor * the coefficients of the square of v's field, a real one in one dimension."""
    (num_points,), (num_modes,) = transform.num_points, transform.modes
    factor = factor / num_points  # the scale of the transform, with no pass of its own

    def change(v: Tensor) -> Tensor:
        square = transform.backward(v).square_()
        coefficients: Tensor = torch.fft.rfft(square)[..., :num_modes]
        return coefficients.mul_(factor)

    return change


def _exponentials(v0: Tensor, symbol: Any, times: Sequence[float]) -> Tensor:
    """exp(symbol * time) v0 at the times (batch, time, *modes)."""
    check_times(times)
    symbol = torch.as_tensor(symbol).to(v0.device)
    factors = [torch.exp(symbol * time).to(v0.dtype) for time in times]
    return torch.stack([factor * v0 for factor in factors], dim=1)


def _cropped(field: Tensor, axes: Mapping[str, Axis]) -> Tensor:
    """The points of the grid, from those of a period."""
    for dim, axis in zip(range(-len(axes), 0), axes.values(), strict=True):
        field = field.narrow(dim, 0, axis.num_points)
    return field


def _norm(field: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(field.flatten(1), dim=1)
    return norm
