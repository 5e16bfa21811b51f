"""Systems of ordinary differential equations behind one interface.

A system is a class of a few lines: its components, its parameters as fields, its vector field.

    class VanDerPol(ODESystem):
        \"\"\"Van der Pol: x'' = stiffness (1 - x^2) x' - x.\"\"\"

        components: ClassVar = ("position", "velocity")
        stiffness: Positive = Interval(low=0.5, high=2.0)
        start: Start = (Interval(low=-2.0, high=2.0), 0.0)

        def vector_field(self, t, y, p):
            x, v = y.unbind(-1)
            return torch.stack([v, p["stiffness"] * (1 - x**2) * v - x], -1)

Everything else is here: drawing, solving in batches, storing, measuring the defect, refusing steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, get_args

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.numerics.differences import five_times, middles, time_derivative
from dlde.numerics.ode import (
    ORDERS,
    Scheme,
    eigenvalues,
    rounded_down,
    solve_ode,
    stability_radius,
    stretches,
)
from dlde.numerics.quintic_spline import Spline
from dlde.problem import Array, Axis, Exact, Interval, Solver, Thresholds, Variable
from dlde.problems.drawn import Real, drawn_value
from dlde.problems.driving_force import AnyForce
from dlde.problems.trajectory import Trajectory, refuse_points

_PROBED = 32  # instances whose rates at the start a step must resolve

Start = Annotated[tuple[Real, ...], Field(min_length=1)]  # of every component, at time 0
Parameters = Mapping[str, Tensor]


class ODESystem(Trajectory):
    """Ordinary differential equations: y' = f(t, y, p), for many starts and parameters at once.

    A field of type `Real` (or `Positive`, `NonNegative`) is a parameter: a number,
    or an `Interval` of which every instance draws its own value; drawn ones are stored beside the state.
    An instance is `start` (component,), one entry for each drawn parameter, and `force` (sensor,) where
    there is one. Explicit Runge-Kutta by `scheme`, whose steps are the same for all instances: rk4, or dop853
    of order 8 for unforced systems that are followed far (a force is a spline with four derivatives).
    Refused are steps that the linearised equation at the starts is not stable with, so a stiff system is,
    with the step that it would need: there is no implicit scheme.
    """

    version: ClassVar[str] = "1"
    scheme: ClassVar[Scheme] = "rk4"
    order: ClassVar[float] = 4  # the scheme's
    # stored values are single precision, 6e-8 each: well below these a dataset does not show the solver
    thresholds: ClassVar[Thresholds] = Thresholds(error=1e-5, exact=1e-5, drift=1e-5, defect=1e-4)

    units: ClassVar[Mapping[str, str]] = {}  # of components and parameters; dimensionless where not named
    visited: ClassVar[Sequence[Sequence[float]]] = ()  # states whose rates a step must resolve, too

    start: Start

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "order" not in cls.__dict__:  # else the vector field has fewer derivatives
            cls.order = ORDERS[cls.scheme]

    @model_validator(mode="after")
    def _one_start_for_each(self) -> Self:
        if len(self.start) != len(self.components):
            raise ValueError(
                f"start has {len(self.start)} entries, expected {len(self.components)}: "
                f"{', '.join(self.components)}"
            )
        return self

    @property
    @abstractmethod
    def components(self) -> tuple[str, ...]:
        """Names of the state's entries; a class attribute will do."""

    @abstractmethod
    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        """f(t, y, p), (batch, components) like y; parameters (batch,), among them `force` at time t.

        A sample's result may not depend on the others.
        """

    @property
    def forcing(self) -> AnyForce | None:
        """What drives the system, if anything does."""
        return None

    def draw_start(self, generator: np.random.Generator) -> Array:
        """A random state at time 0, (component,): independent entries of `start` by default."""
        return np.array([drawn_value(entry, generator) for entry in self.start])

    def check_start(self, start: Tensor) -> None:
        """Raises InputError for states (batch, component) that the equation has no solution from."""
        return

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        """What the exact flow keeps, each (...,), of states (..., components); none by default."""
        return {}

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the fields that are parameters."""
        return tuple(
            name
            for name, field in cls.model_fields.items()
            if Interval in map(_bare, get_args(field.annotation))
        )

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the parameters that every instance draws."""
        return tuple(name for name in self.parameters() if isinstance(getattr(self, name), Interval))

    @property
    def variables(self) -> dict[str, Variable]:
        units = [self.units.get(name, "dimensionless") for name in self.components]
        state = Variable(
            dims=("time", "component"),
            sizes={"component": len(self.components)},
            units=units[0] if len(set(units)) == 1 else ", ".join(units),
            long_name=", ".join(self.components),
        )
        scalars = {
            name: Variable(
                dims=(), units=self.units.get(name, "dimensionless"), long_name=name.replace("_", " ")
            )
            for name in self.varying
        }
        force = {}
        if self.forcing is not None:
            force["force"] = Variable(
                dims=("sensor",),
                sizes={"sensor": self.forcing.num_sensors},
                units=self.units.get("force", "dimensionless"),
                long_name="force at the sensors",
            )
        return {"state": state, **scalars, **force}

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """The start, the drawn parameters and the force."""
        scalars = {name: np.asarray(drawn_value(getattr(self, name), generator)) for name in self.varying}
        start = self.draw_start(generator)
        force = {} if self.forcing is None else {"force": self.forcing.draw(generator)}
        return {"start": start, **scalars, **force}

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse times beyond the force, and steps that are not stable at the starts. Raises GridError."""
        refuse_points(solver)
        if self.forcing is not None and times[-1] > self.forcing.horizon * (1 + 1e-9):
            raise GridError(
                f"times up to {times[-1]:g}, but the force ends at {self.forcing.horizon:g}; use earlier "
                f"times, or problem.force.horizon >= {times[-1]:g}"
            )
        begins = [0.0, *times[:-1]]
        longest = max(
            (end - begin) / max(1, count)
            for begin, (end, count) in zip(begins, stretches(times, solver.dt), strict=True)
        )
        rate, radius = self._fastest_rate(), stability_radius(self.scheme)
        if longest * rate > radius:
            raise GridError(
                f"solver.dt={solver.dt:g} is not stable with {self.scheme}: the linearised equation has "
                f"rates up to {rate:.3g} at its starts; use solver.dt <= {rounded_down(radius / rate)}"
            )

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """`state` at the times, with the drawn parameters and the force as they were given.

        Raises InputError or GridError for instances that are not of the form that `draw` gives them.
        """
        start, p = self._read(instances)
        precision = getattr(torch, solver.precision)
        field = self._field({name: value.to(precision) for name, value in p.items()})
        states = solve_ode(field, start.to(precision), times, solver.dt, scheme=self.scheme).to(start.dtype)
        if times[0] == 0:
            states[:, 0] = start
        return {"state": states, **{name: instances[name] for name in instances if name != "start"}}

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Of y' by central differences of order 4 from f, for every component, between the times.

        The differences are taken in the middle between two times, over a fraction of the solver's step.
        """
        between, near = middles(times, solver.dt)
        if not between:
            return {}
        states = self.solve(instances, axes, five_times(between, near), solver)["state"].double()
        states, slope = time_derivative(states, near)
        field = self._field(self._read(instances)[1])
        right = torch.stack([field(t, y) for t, y in zip(between, states.unbind(1), strict=True)], 1)
        size = torch.maximum(slope.norm(dim=1), right.norm(dim=1)).clamp(min=torch.finfo(right.dtype).tiny)
        relative = (slope - right).norm(dim=1) / size
        return dict(zip(self.components, relative.unbind(1), strict=True))

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The invariants at all times."""
        y = solution["state"].double()
        return self.invariants(y, {name: value[:, None] for name, value in self._values(solution, y).items()})

    def _fastest_rate(self) -> float:
        """Largest |eigenvalue| of the Jacobian at random starts and the visited states, at time 0."""
        generator = np.random.default_rng(0)
        samples = [self.draw(generator, {}) for _ in range(_PROBED)]
        given = {name: torch.from_numpy(np.stack([one[name] for one in samples])) for name in samples[0]}
        start = given["start"]
        p = self._values(given, start)
        if "force" in given:
            p["force"] = given["force"][:, 0]
        states = [start, *(start.new_tensor(state).expand_as(start) for state in self.visited)]
        rates = [np.abs(eigenvalues(lambda t, y: self.vector_field(t, y, p), state)) for state in states]
        return float(max(rate.max(initial=0.0) for rate in rates))

    def _values(self, given: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        """All parameters (batch,), in float64 on the device of `like`."""
        fixed = like.new_ones(len(like), dtype=torch.float64)
        return {
            name: given[name].double() if name in self.varying else getattr(self, name) * fixed
            for name in self.parameters()
        }

    def _read(self, instances: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The start as it is given, and all parameters and the force at the sensors in float64."""
        shapes: dict[str, tuple[int, ...]] = {
            "start": (len(self.components),),
            **dict.fromkeys(self.varying, ()),
        }
        if self.forcing is not None:
            shapes["force"] = (self.forcing.num_sensors,)
        if instances.keys() != shapes.keys():
            raise InputError(
                f"an instance of {type(self).__name__} consists of {', '.join(shapes)}, but given are "
                f"{', '.join(instances) or 'none'}; a parameter varies where it is an interval (low, high)"
            )
        batch = len(instances["start"]) if instances["start"].ndim else 0
        for name, shape in shapes.items():
            if tuple(instances[name].shape) != (batch, *shape):
                expected = ", ".join(["batch", *map(str, shape)])
                raise GridError(
                    f"{name} has shape {tuple(instances[name].shape)}, expected ({expected}) with one batch "
                    "for all"
                )
        start = instances["start"]
        self.check_start(start)
        p = self._values(instances, start)
        return start, {**p, **({"force": instances["force"].double()} if "force" in shapes else {})}

    def _field(self, p: Parameters) -> Any:
        """f as the solver calls it; `force` in p holds the values at the sensors."""
        if self.forcing is None:
            return lambda t, y: self.vector_field(t, y, p)
        force = Spline(p["force"], self.forcing.horizon)
        return lambda t, y: self.vector_field(t, y, {**p, "force": force(t)})


class SolvedODE(ODESystem, Exact):
    """Ordinary differential equations with a closed form: y(t) = flow(t, y(0), p)."""

    @abstractmethod
    def flow(self, t: Tensor, start: Tensor, p: Parameters) -> Tensor:
        """y (batch, time, component) at t (time,) from `start` (batch, component), p (batch, 1), float64."""

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        start, p = self._read(instances)
        t = torch.tensor(list(times), dtype=torch.float64, device=start.device)
        states = self.flow(t, start.double(), {name: value[:, None] for name, value in p.items()})
        return {"state": states, **{name: instances[name] for name in instances if name != "start"}}


def _bare(annotation: Any) -> Any:
    """A type without the conditions on its values."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
