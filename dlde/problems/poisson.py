"""Poisson's equation on a rectangle, for a chosen solution or for random sources; all dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError, SpecError
from dlde.numerics.elliptic import (
    between_walls,
    interpolated,
    second_derivative,
    second_difference,
    solve_poisson,
    wall_field,
)
from dlde.numerics.jets import Jet
from dlde.problem import Array, Axis, Exact, Problem, Residual, Solvable, Solver, Variable
from dlde.problems.drawn import check_field
from dlde.spec import Spec


class Peak(Spec):
    """exp(-sharpness ((x - a)^2 + (y - b)^2)) around the centre (a, b)."""

    kind: Literal["peak"] = "peak"
    sharpness: PositiveFloat = 100.0
    center: tuple[float, float] = (0.5, 0.5)

    def factor(self, axis: int, x: Jet) -> Jet:
        """The solution is the product of these over both axes."""
        d = x - self.center[axis]
        exponent: Jet = -self.sharpness * (d * d)
        return exponent.exp()

    def source(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the solution's Laplacian."""
        s = self.sharpness * ((x - self.center[0]) ** 2 + (y - self.center[1]) ** 2)
        return 4 * self.sharpness * (1 - s) * torch.exp(-s)


class Sine(Spec):
    """sin(waves pi x) sin(waves pi y)."""

    kind: Literal["sine"] = "sine"
    waves: PositiveInt = 1

    def factor(self, axis: int, x: Jet) -> Jet:
        """The solution is the product of these over both axes."""
        return (self.waves * math.pi * x).sin()

    def source(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the solution's Laplacian."""
        k = self.waves * math.pi
        return 2 * k**2 * torch.sin(k * x) * torch.sin(k * y)


class GaussianSource(Spec):
    """No chosen solution: f ~ N(0, sigma^2 (-Lap + tau^2 I)^-exponent), and u, vanish on the walls.

    f is a sum of the sines with at most `num_modes` half waves per axis. The defaults give |f| of about one
    on (-1, 1)^2.
    """

    kind: Literal["gaussian"] = "gaussian"
    exponent: PositiveFloat = 3.0
    tau: PositiveFloat = 5.0
    sigma: PositiveFloat = 150.0
    num_modes: PositiveInt = 32


class Poisson(Problem, Solvable, Exact, Residual):
    """Poisson: -(u_xx + u_yy) = f on a rectangle, with Dirichlet data; u is chosen, or f is random.

    A chosen `solution` gives f and the boundary values (a manufactured solution). The residual is divided by
    the largest |f|, so that its size says the same for every sharpness. `kind: gaussian` draws f and has
    no closed form at points, but one on the grid: f is a finite sum of sines.

    Solved by the five-point formula, of order 2 in the spacing, through sine transforms; `solver.num_points`
    counts the nodes per axis, walls included. Stationary: times are [0.0], and no variable has a time.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 2

    domain: tuple[tuple[float, float], tuple[float, float]] = ((-1.0, 1.0), (-1.0, 1.0))  # of x, of y
    solution: Annotated[Peak | Sine | GaussianSource, Field(discriminator="kind")] = Peak()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (start, stop) in self.box.items():
            if stop <= start:
                raise ValueError(f"domain of {name} is ({start:g}, {stop:g}): expected start < stop")
        if isinstance(self.solution, Peak):
            for (name, (start, stop)), place in zip(self.box.items(), self.solution.center, strict=True):
                if not start < place < stop:
                    raise ValueError(
                        f"solution.center has {name} = {place:g}, outside the domain ({start:g}, {stop:g}); "
                        "move the center or widen the domain"
                    )
        return self

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        return dict(zip("xy", self.domain, strict=True))

    @property
    def unknowns(self) -> dict[str, Variable]:
        return {"u": Variable(dims=("x", "y"), long_name="potential")}

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ()

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        return {"laplacian": {"xx": 1, "yy": 1}}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        source = self._chosen.source(x["x"], x["y"])
        return {"poisson": (-u["u"]["laplacian"] - source) / self._source_scale}

    def check_conditions(self) -> None:
        """Raises SpecError: a random source is known on a grid alone."""
        if isinstance(self.solution, GaussianSource):
            raise SpecError(
                "poisson with solution=gaussian has a random source, known on a grid alone, and no solution "
                "at points; use solution: {kind: peak} or {kind: sine}",
                mistakes=["problem.solution"],
            )

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        """Transfinite interpolation of the four sides (Coons), and a bubble with maximum one times N.

        Of a product X(x) Y(y) the interpolation is  lX Y + X lY - lX lY,  where lX is the straight
        line through the ends of X.
        """
        (x0, x1), (y0, y1) = self.domain
        u = (
            ((x["x"] - x0) * (x1 - x["x"]) * (4 / (x1 - x0) ** 2))
            * ((x["y"] - y0) * (y1 - x["y"]) * (4 / (y1 - y0) ** 2))
            * network["u"]
        )
        if self._vanishes_outside:
            return {"u": u}
        (along_x, line_x), (along_y, line_y) = (
            (self._chosen.factor(axis, x[name]), self._line(axis, x[name]))
            for axis, name in enumerate(self.box)
        )
        return {"u": u + line_x * along_y + (along_x - line_x) * line_y}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        x, y = (Jet(column, {}, ()) for column in points.double().unbind(1))
        return {"u": (self._chosen.factor(0, x) * self._chosen.factor(1, y)).value}

    def _line(self, axis: int, x: Jet) -> Jet:
        start, stop = self.domain[axis]
        ends = Jet(torch.tensor([start, stop], dtype=torch.float64), {}, ())
        first, last = (float(end) for end in self._chosen.factor(axis, ends).value)
        return (x - start) * ((last - first) / (stop - start)) + first

    @property
    def variables(self) -> dict[str, Variable]:
        dims = ("x", "y")
        return {
            "f": Variable(dims=dims, long_name="source"),
            "u": Variable(dims=dims, long_name="potential"),
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The nodes of x and y, walls included. Raises GridError where they do not hold the modes of f."""
        if len(num_points) != 2:
            raise GridError(f"poisson has two spatial axes, x and y, but num_points={tuple(num_points)}")
        self._check_nodes(min(num_points), f"num_points={tuple(num_points)}")
        return {
            name: Axis(start=start, stop=stop, num_points=count, boundary="wall")
            for (name, (start, stop)), count in zip(self.box.items(), num_points, strict=True)
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for times other than [0.0], and for a solver that does not hold the modes of f."""
        if tuple(times) != (0.0,):
            raise GridError(f"poisson is stationary, but times={tuple(times)}; use times: [0.0]")
        if solver.num_points is not None:
            self._check_nodes(solver.num_points, f"solver.num_points={solver.num_points}")

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """`factor` times as many cells per axis; None where that is no whole number, or cells differ."""
        stored = {axis.num_points for axis in axes.values()}
        if solver.num_points is None and len(stored) != 1:
            return None
        cells = factor * ((solver.num_points or stored.pop()) - 1)
        if cells != round(cells) or cells < 2:
            return None
        return Solver(**{**solver.model_dump(), "num_points": round(cells) + 1})

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        return self.refined(solver, axes, 2)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """f at the nodes; the same for every instance where the solution is chosen."""
        if not isinstance(self.solution, GaussianSource):
            return {"f": self.solution.source(*_mesh(axes)).numpy()}
        shape = [axis.num_points for axis in axes.values()]
        extent = [stop - start for start, stop in self.domain]
        law = self.solution.model_dump(exclude={"kind"})
        return {"f": wall_field(generator, shape, extent, zero="value", **law)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """f as given, and u. Of a finer or coarser solver f and u are interpolated."""
        f = self._source(instances, axes)
        u, _ = self._solved(f, axes, solver)
        return {"f": f, "u": interpolated(u, f.shape[1:]).to(f.dtype)}

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """The chosen solution, or the sum of sines that belongs to the one through the values of f.

        Raises InputError where f is not the chosen solution's, which alone has a closed form.
        """
        f = self._source(instances, axes).double()
        x, y = (coordinate.to(f) for coordinate in _mesh(axes))
        if isinstance(self.solution, GaussianSource):
            cells = [axis.num_points - 1 for axis in axes.values()]
            symbols = (
                second_derivative(cells[0], self._extent(0)),
                second_derivative(cells[1], self._extent(1)),
            )
            return {"f": f, "u": _walled(solve_poisson(f[:, 1:-1, 1:-1], symbols))}
        own = self.solution.source(x, y)
        if ((f - own).abs() > 1e-6 * own.abs().amax()).any():
            raise InputError(
                "f is not the source of the chosen solution, so that its solution has no closed form; "
                "use the problem's own f, or solution: {kind: gaussian}"
            )
        return {"f": f, "u": self._values(axes).to(f).expand_as(f).clone()}

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """-(u_xx + u_yy) - f by central differences of order 4, inside the solver's grid, relative to f."""
        u, f = self._solved(self._source(instances, axes), axes, solver)
        inside = f[:, 2:-2, 2:-2]
        missing = -inside
        for axis in (0, 1):
            spacing = self._extent(axis) / (u.shape[axis + 1] - 1)
            missing = missing - _fourth_order(u, axis + 1) / spacing**2
        return {"poisson": missing.flatten(1).norm(dim=1) / inside.flatten(1).norm(dim=1)}

    def _solved(self, f: Tensor, axes: Mapping[str, Axis], solver: Solver) -> tuple[Tensor, Tensor]:
        """u and f at all nodes of the solver's grid."""
        shape = [solver.num_points or axis.num_points for axis in axes.values()]
        self.check_solver(axes, (0.0,), solver)
        f = f.to(getattr(torch, solver.precision))
        random = isinstance(self.solution, GaussianSource)
        f = between_walls(f, shape) if random else interpolated(f, shape)
        rhs = f[:, 1:-1, 1:-1].clone()
        spacing = [self._extent(axis) / (count - 1) for axis, count in enumerate(shape)]
        walls = torch.zeros(shape, dtype=f.dtype, device=f.device)
        if not random:
            grid = {
                name: Axis(start=start, stop=stop, num_points=count, boundary="wall")
                for (name, (start, stop)), count in zip(self.box.items(), shape, strict=True)
            }
            walls = self._values(grid).to(f)
            walls[1:-1, 1:-1] = 0
            rhs[:, [0, -1]] += walls[[0, -1], 1:-1] / spacing[0] ** 2
            rhs[:, :, [0, -1]] += walls[1:-1, [0, -1]] / spacing[1] ** 2
        symbols = [second_difference(count - 1, self._extent(axis)) for axis, count in enumerate(shape)]
        return _walled(solve_poisson(rhs, (symbols[0], symbols[1]))) + walls, f

    def _values(self, axes: Mapping[str, Axis]) -> Tensor:
        """The chosen solution at the nodes (x, y), float64."""
        points = torch.stack([coordinate.flatten() for coordinate in _mesh(axes)], 1)
        return self.reference(points)["u"].view([axis.num_points for axis in axes.values()])

    def _extent(self, axis: int) -> float:
        start, stop = self.domain[axis]
        return stop - start

    def _check_nodes(self, count: int, given: str) -> None:
        modes = self.solution.num_modes if isinstance(self.solution, GaussianSource) else 1
        least = max(modes + 2, 5)
        if count < least:
            raise GridError(
                f"{given}: a source of {modes} modes needs at least {least} nodes per axis, walls included. "
                "Use a finer grid, or fewer modes"
            )

    def _source(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> Tensor:
        """f as given. Raises GridError for another shape, InputError where random ones leave the walls."""
        f = instances["f"]
        check_field("f", f, axes)
        if isinstance(self.solution, GaussianSource):
            walls = torch.cat([f[:, [0, -1]].flatten(1), f[:, :, [0, -1]].flatten(1)], 1)
            if (walls.abs().amax(1) > 1e-6 * f.abs().amax((1, 2))).any():
                raise InputError("with solution=gaussian, f must vanish on the walls of x and y")
        return f

    @property
    def _source_scale(self) -> float:
        chosen = self._chosen
        return 4 * chosen.sharpness if isinstance(chosen, Peak) else 2 * (chosen.waves * math.pi) ** 2

    @property
    def _chosen(self) -> Peak | Sine:
        self.check_conditions()
        assert not isinstance(self.solution, GaussianSource)
        return self.solution

    @property
    def _vanishes_outside(self) -> bool:
        """Whether the sides carry the value zero: a sine whose nodes they are."""
        return isinstance(self.solution, Sine) and all(
            float(end * self.solution.waves).is_integer() for ends in self.domain for end in ends
        )


def _mesh(axes: Mapping[str, Axis]) -> tuple[Tensor, Tensor]:
    """x and y of every node (x, y), float64."""
    x, y = torch.meshgrid(*(torch.from_numpy(axis.points) for axis in axes.values()), indexing="ij")
    return x, y


def _walled(inner: Tensor) -> Tensor:
    return torch.nn.functional.pad(inner, (1, 1, 1, 1))


def _fourth_order(u: Tensor, axis: int) -> Tensor:
    """Second differences of order 4 along an axis, without the division, two nodes from all walls."""
    u = u[:, :, 2:-2] if axis == 1 else u[:, 2:-2]
    count = u.shape[axis] - 4
    shifted = [u.narrow(axis, shift, count) for shift in range(5)]
    total: Tensor = (16 * (shifted[1] + shifted[3]) - shifted[0] - shifted[4] - 30 * shifted[2]) / 12
    return total
