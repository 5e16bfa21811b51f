"""Shallow water in a closed basin with an uneven bed; SI units (m, s)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor
from torch.nn.functional import pad

from dlde.errors import GridError, InputError
from dlde.numerics.shallow_water import Basin, State, gaussian_basis, march
from dlde.problem import Array, Axis, Interval, Problem, Solvable, Solver, Thresholds, Variable
from dlde.spec import Spec


class Bed(Spec):
    """Depth of the water at rest: Gaussian with covariance variance * exp(-r^2 / length^2); never dry.

    A bed that comes within a twentieth of the mean depth to the surface is drawn again.
    """

    mean: PositiveFloat = 15.0  # m
    variance: NonNegativeFloat = 5.0  # m2
    length: PositiveFloat = 1e5  # m

    @model_validator(mode="after")
    def _wet(self) -> Self:
        if self.mean < 2 * math.sqrt(self.variance):
            raise ValueError(
                f"mean={self.mean:g} m with variance={self.variance:g} m2: nearly every bed would run dry; "
                f"use mean >= {2 * math.sqrt(self.variance):g}, or a smaller variance"
            )
        return self


class Bump(Spec):
    """One square of raised water, its centre anywhere in the basin; the walls may cut it."""

    height: Interval = Interval(low=0.05, high=0.15)  # m
    side: Interval = Interval(low=5e4, high=1e5)  # m

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.side.low <= 0:
            raise ValueError(f"side.low={self.side.low:g} m: expected a length greater than 0")
        return self


class ShallowWater(Problem, Solvable):
    """Shallow water: u_t = -g grad z - drag u|u|/h + viscosity Lap u, z_t = -div(h u), h = depth + z.

    In a closed basin, from rest with one square bump; z is stored as `height`. A grid of num_points cells per
    axis: heights stand in their middles; u and v at the face towards the next cell along x and along y, and
    zero at the last, the wall. Semi-implicit (`numerics.shallow_water`): gravity waves do not limit the
    step, but those that it does not resolve are too slow. The stored grid is the solver's, as instances
    are cell values: `order` is that in the step, of the equations on the cells. Friction is of order 1, but
    small (3e-6 of the solution in 1500 s with steps of 10 s), so that 2.0 to 2.5 is seen above that.

    Source: Learning Implicit PDE Integration with Linear Implicit Layers (2021), whose figures are
    the defaults, with cells of 10 km; there the outermost cells of the grid are dry, here none is.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 2
    # The shortest waves of a square bump, two cells long, run slow: with 75 s, after 25 h, they are 3e-2 of
    # the solution away from where 37.5 s puts them, and 1.2e-2 after 4 h.
    thresholds: ClassVar[Thresholds] = Thresholds(error=5e-2)

    extent: tuple[PositiveFloat, PositiveFloat] = (3.2e5, 3.2e5)  # of the basin along x and y, m
    bed: Bed = Bed()
    bump: Bump = Bump()
    gravity: PositiveFloat = 9.81  # m/s2
    drag: NonNegativeFloat = 1e-3  # of the bottom, quadratic, dimensionless
    viscosity: NonNegativeFloat = 1000.0  # lateral, m2/s
    implicitness: Annotated[float, Field(ge=0.5, le=1)] = 0.5  # 1/2: order 2, above: 1, below: unstable

    @property
    def variables(self) -> dict[str, Variable]:
        dims = ("time", "x", "y")
        face = "velocity along {0}, at the face towards the next cell along {0}"
        return {
            "height": Variable(dims=dims, units="m", long_name="water height above rest"),
            "u": Variable(dims=dims, units="m/s", long_name=face.format("x")),
            "v": Variable(dims=dims, units="m/s", long_name=face.format("y")),
            "depth": Variable(dims=dims[1:], units="m", long_name="depth of the water at rest"),
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The middles of the cells along x and y."""
        if len(num_points) != 2:
            raise GridError(
                f"shallow-water has two spatial axes, x and y, but num_points={tuple(num_points)}"
            )
        if min(num_points) < 4:
            raise GridError(f"num_points={tuple(num_points)}: expected at least 4 cells per axis")
        return {
            name: Axis(
                start=length / count / 2,
                stop=length - length / count / 2,
                num_points=count,
                boundary="wall",
                units="m",
            )
            for name, length, count in zip("xy", self.extent, num_points, strict=True)
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for another grid than the stored one, and for a step that viscosity blows up."""
        if solver.num_points is not None and {solver.num_points} != {a.num_points for a in axes.values()}:
            raise GridError(
                f"solver.num_points={solver.num_points}: shallow-water is solved on its stored cells, "
                f"{tuple(a.num_points for a in axes.values())}; leave it out, or change num_points"
            )
        rate = 2 * self.viscosity * sum(length**-2 for length in self._spacing(axes))
        if solver.dt * rate > 1:
            raise GridError(
                f"solver.dt={solver.dt:g} s is unstable: viscosity={self.viscosity:g} m2/s is explicit and "
                f"allows at most {1 / rate:.6g} s on these cells. Use solver.dt <= {1 / rate:.6g}"
            )

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        """Half the step; the cells stay, as the instance is given on them."""
        return self.refined(solver, axes, 2)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """The depth, and the height at the start: the mean of the bump over every cell."""
        depth = self._bed(generator, [axis.points for axis in axes.values()])
        height = self.bump.height.draw(generator)
        covered = []
        side = self.bump.side.draw(generator)
        for axis, length in zip(axes.values(), self.extent, strict=True):
            middle, spacing = length * generator.random(), length / axis.num_points
            low = np.maximum(axis.points - spacing / 2, middle - side / 2)
            high = np.minimum(axis.points + spacing / 2, middle + side / 2)
            covered.append(np.maximum(high - low, 0) / spacing)
        return {"depth": depth, "height": height * np.outer(*covered)}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """From rest, or from `u` and `v` where the instances have them as well.

        Raises InputError where there is no water, in the first cell found.
        """
        self.check_solver(axes, times, solver)
        states = self._states(instances, axes, times, solver)
        height = instances["height"]
        fields = [torch.stack(columns, 1).to(height.dtype) for columns in zip(*states, strict=True)]
        return {
            "height": fields[0],
            "u": pad(fields[1], (0, 0, 0, 1)),
            "v": pad(fields[2], (0, 1)),
            "depth": instances["depth"],
        }

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """At the last time: differences in time of order 4 against the right-hand side on the cells.

        Relative to the gradient of the height, and to the divergence.
        """
        middle = max(times[-1], 2 * solver.dt)
        around = [middle + shift * solver.dt for shift in (-2, -1, 0, 1, 2)]
        if around[0] < 1e-9 * solver.dt:
            around[0] = 0.0
        states = self._states(instances, axes, around, solver)
        model = self._model(instances["depth"].to(states[0][0]), axes)
        right = model.tendency(states[2])
        rates = [(8 * (d - b) - (e - a)) / (12 * solver.dt) for a, b, _, d, e in zip(*states, strict=True)]
        slope = [
            torch.diff(states[2][0], dim=axis + 1) * (self.gravity / spacing)
            for axis, spacing in enumerate(model.spacing)
        ]
        scales = [right[0], *slope]
        return {
            name: (rate - term).flatten(1).norm(dim=1) / scale.flatten(1).norm(dim=1)
            for name, rate, term, scale in zip(
                ("continuity", "momentum along x", "momentum along y"), rates, right, scales, strict=True
            )
        }

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean height: no water passes the walls."""
        return {"mean height": solution["height"].mean((-2, -1))}

    def energy(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> Tensor:
        """Of the motion, per density (m5/s2), (batch, time); friction takes it."""
        model = self._model(solution["depth"], axes)
        height, u, v = solution["height"], solution["u"][:, :, :-1], solution["v"][..., :-1]
        return torch.stack(
            [model.energy((height[:, i], u[:, i], v[:, i])) for i in range(height.shape[1])], 1
        )

    def _states(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> list[State]:
        dtype = getattr(torch, solver.precision)
        height, depth = (self._cells(instances, name, axes).to(dtype) for name in ("height", "depth"))
        low = depth + height
        if bool((low <= 0).any()):
            sample, i, j = (int(k) for k in (low <= 0).nonzero()[0])
            raise InputError(
                f"sample {sample} is dry in cell ({i}, {j}): depth {float(depth[sample, i, j]):g} m, height "
                f"{float(height[sample, i, j]):g} m; depth + height must be positive everywhere"
            )
        u, v = (
            self._cells(instances, name, axes).to(dtype) if name in instances else torch.zeros_like(height)
            for name in ("u", "v")
        )
        state = height, u[:, :-1], v[:, :, :-1]
        return march(self._model(depth, axes).step, state, times, solver.dt)

    def _model(self, depth: Tensor, axes: Mapping[str, Axis]) -> Basin:
        return Basin(depth, self._spacing(axes), self.gravity, self.drag, self.viscosity, self.implicitness)

    def _cells(self, instances: Mapping[str, Tensor], name: str, axes: Mapping[str, Axis]) -> Tensor:
        values, shape = instances[name], tuple(axis.num_points for axis in axes.values())
        if values.ndim != 3 or tuple(values.shape[1:]) != shape:
            raise GridError(
                f"{name} has shape {tuple(values.shape)}, expected (batch, {shape[0]}, {shape[1]}), the cells"
            )
        return values

    def _spacing(self, axes: Mapping[str, Axis]) -> tuple[float, float]:
        dx, dy = (length / axis.num_points for length, axis in zip(self.extent, axes.values(), strict=True))
        return dx, dy

    def _bed(self, generator: np.random.Generator, points: Sequence[Array]) -> Array:
        """Judged on a lattice that does not depend on the grid, so that neither do the draws."""
        bed = self.bed
        lattice = [np.linspace(0, length, math.ceil(8 * length / bed.length) + 1) for length in self.extent]
        bases = [
            [
                gaussian_basis(x, length=bed.length, extent=length)
                for x, length in zip(where, self.extent, strict=True)
            ]
            for where in (points, lattice)
        ]
        while True:
            white = math.sqrt(bed.variance) * generator.standard_normal(
                (bases[0][0].shape[1], bases[0][1].shape[1])
            )
            depth, judged = (bed.mean + x @ white @ y.T for x, y in bases)
            if judged.min() > bed.mean / 20:
                return np.asarray(depth)
