"""Darcy flow on the unit square through a random medium; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from scipy.special import zeta
from torch import Tensor
from torch.nn.functional import pad

from dlde.errors import GridError, InputError
from dlde.numerics.elliptic import (
    element_balance,
    interpolated,
    mean_in_cells,
    network,
    second_derivative,
    sine_transform,
    solve_directly,
    wall_field,
)
from dlde.numerics.multigrid import solve_by_multigrid
from dlde.problem import Array, Axis, Interval, Problem, Solvable, Solver, Thresholds, Variable
from dlde.problems.drawn import check_field
from dlde.spec import Spec


class RandomField(Spec):
    """g ~ N(0, sigma^2 (-Lap + tau^2)^-exponent), normal slope zero at the walls, without its mean.

    A sum of the first `num_modes` cosines per axis. The defaults are those of Li et al., Fourier Neural
    Operator (2021), arXiv 2010.08895, whose repository scales by tau^(exponent - 1).
    """

    exponent: PositiveFloat = 2.0
    tau: PositiveFloat = 3.0
    sigma: PositiveFloat = 3.0
    num_modes: Annotated[int, Field(ge=2)] = 64


class TwoPhase(Spec):
    """`high` where g >= 0, else `low`; the published demo has 12 and 4."""

    kind: Literal["two-phase"] = "two-phase"
    low: PositiveFloat = 3.0
    high: PositiveFloat = 12.0
    field: RandomField = RandomField()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g}, high={self.high:g}: expected low < high")
        return self

    def draw(self, generator: np.random.Generator, num_points: Sequence[int]) -> Array:
        """a at the nodes."""
        return np.where(_drawn(self.field, generator, num_points) >= 0, self.high, self.low)


class LogNormal(Spec):
    """median * exp(g)."""

    kind: Literal["log-normal"] = "log-normal"
    median: PositiveFloat = 1.0
    field: RandomField = RandomField(sigma=9.0)

    def draw(self, generator: np.random.Generator, num_points: Sequence[int]) -> Array:
        """a at the nodes."""
        return self.median * np.exp(_drawn(self.field, generator, num_points))


class Affine(Spec):
    """mean + sum_m y_m a_m cos(2 pi b1(m) x) cos(2 pi b2(m) y), a_m = amplitude / m^decay / zeta(decay).

    y is uniform on (-1, 1), m = 1 .. terms; the pairs b1, b2 run along the diagonals b1 + b2 = 1, 2, ...
    Positive, as amplitude < mean. Source: the parametric benchmark of Eigel and others, as in
    Heiss et al., Multilevel CNNs for Parametric PDEs (2023), arXiv 2304.00388.
    """

    kind: Literal["affine"] = "affine"
    terms: PositiveInt = 20
    mean: PositiveFloat = 1.0
    amplitude: PositiveFloat = 0.9
    decay: Annotated[float, Field(gt=1)] = 2.0

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.amplitude >= self.mean:
            raise ValueError(
                f"amplitude={self.amplitude:g}, mean={self.mean:g}: the coefficient could vanish; "
                "use amplitude < mean"
            )
        return self

    def draw(self, generator: np.random.Generator, num_points: Sequence[int]) -> Array:
        """a at the nodes."""
        m = np.arange(1, self.terms + 1)
        diagonal = np.floor(-0.5 + np.sqrt(0.25 + 2 * m))
        first = m - diagonal * (diagonal + 1) / 2
        size = self.amplitude / zeta(self.decay) / m**self.decay * generator.uniform(-1, 1, self.terms)
        waves = [
            np.cos(2 * np.pi * np.outer(np.linspace(0, 1, count), b))
            for count, b in zip(num_points, (first, diagonal - first), strict=True)
        ]
        return np.asarray(self.mean + (waves[0] * size) @ waves[1].T)


class Discs(Spec):
    """`outside`, and outside + y_i in each of `rows` x `rows` discs ("cookies"), y_i uniform on `contrast`.

    A node has the mean over its part of the mosaic, by 8 x 8 points. Source: the cookie problem, as in
    Heiss et al., Multilevel CNNs for Parametric PDEs (2023), arXiv 2304.00388; the contrast is our own.
    """

    kind: Literal["discs"] = "discs"
    rows: PositiveInt = 3
    radius: PositiveFloat = 0.13
    outside: PositiveFloat = 1.0
    contrast: Interval = Interval(low=-0.9, high=9.0)

    @model_validator(mode="after")
    def _apart_and_positive(self) -> Self:
        if self.radius > 0.5 / self.rows:
            raise ValueError(
                f"radius={self.radius:g}: {self.rows} discs a row overlap; use radius <= {0.5 / self.rows:g}"
            )
        if self.outside + self.contrast.low <= 0:
            raise ValueError(
                f"contrast.low={self.contrast.low:g}: the coefficient could vanish; use more than -outside, "
                f"{-self.outside:g}"
            )
        return self

    def draw(self, generator: np.random.Generator, num_points: Sequence[int]) -> Array:
        """a at the nodes."""
        contrast = np.array([self.contrast.draw(generator) for _ in range(self.rows**2)])
        within = (np.arange(8) + 0.5) / 8 - 0.5
        places = []
        for count in num_points:
            nodes, spacing = np.linspace(0, 1, count), 1 / (count - 1)
            low, high = np.maximum(nodes - spacing / 2, 0), np.minimum(nodes + spacing / 2, 1)
            points = (low + high)[:, None] / 2 + (high - low)[:, None] * within
            number = np.clip(np.floor(points * self.rows), 0, self.rows - 1).astype(int)
            places.append((number, points - (number + 0.5) / self.rows))
        (i, x), (j, y) = places
        inside = x[:, None, :, None] ** 2 + y[None, :, None, :] ** 2 <= self.radius**2
        added = contrast[i[:, None, :, None] * self.rows + j[None, :, None, :]]
        return np.asarray(self.outside + (inside * added).mean((-2, -1)))


class Darcy(Problem, Solvable):
    """Darcy: -div(a grad u) = source on the unit square, u = 0 on its boundary, with a random coefficient a.

    a is given at the nodes of the stored grid, walls included, and is constant around each of them, up
    to half way to the next: a mosaic, which every solver grid sees exactly (`numerics.elliptic.network`).
    Finite volumes; on the stored grid they are the five-point formula with harmonic means. The order is 2 for
    a smooth coefficient that the grid resolves; where u is not smooth, at the corners of a mosaic
    of two phases, about 1.4 is seen. Stationary: times are [0.0], and no variable has a time.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 2
    # Corners of the mosaic take up to 0.6 off the order (contrast 4), and the step from its own cells
    # to finer ones, where harmonic means become exact averages, up to 1.2. On twice the cells of
    # 85 nodes, two phases are within 1.6e-3 of twice as many again.
    thresholds: ClassVar[Thresholds] = Thresholds(order=0.75, error=5e-3)

    coefficient: Annotated[TwoPhase | LogNormal | Affine | Discs, Field(discriminator="kind")] = TwoPhase()
    source: PositiveFloat = 1.0
    # multigrid: conjugate gradients, all samples at once, to a relative residual of 1e-11 (float32: 1e-5);
    # direct: sparse LU, sample by sample, on a CPU
    method: Literal["multigrid", "direct"] = "multigrid"

    @property
    def variables(self) -> dict[str, Variable]:
        dims = ("x", "y")
        return {
            "a": Variable(dims=dims, long_name="coefficient"),
            "u": Variable(dims=dims, long_name="pressure"),
        }

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The nodes of x and y, walls included."""
        if len(num_points) != 2:
            raise GridError(f"darcy has two spatial axes, x and y, but num_points={tuple(num_points)}")
        if min(num_points) < 3:
            raise GridError(f"num_points={tuple(num_points)}: expected at least 3 nodes per axis")
        return {
            name: Axis(start=0.0, stop=1.0, num_points=count, boundary="wall")
            for name, count in zip("xy", num_points, strict=True)
        }

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Raises GridError for times other than [0.0], and for a solver without inner nodes."""
        if tuple(times) != (0.0,):
            raise GridError(f"darcy is stationary, but times={tuple(times)}; use times: [0.0]")
        if solver.num_points is not None and solver.num_points < 3:
            raise GridError(f"solver.num_points={solver.num_points}: expected at least 3 nodes per axis")

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """`factor` times as many cells per axis; None where that is no whole number, or cells differ.

        None as well for fewer cells than the mosaic's, where a solver averages instead of resolving, and
        above 1025 nodes per axis, for batches would no more fit a memory.
        """
        stored = {axis.num_points for axis in axes.values()}
        if len(stored) != 1:
            return None
        mosaic = stored.pop() - 1
        cells = factor * (solver.num_points - 1 if solver.num_points else mosaic)
        if cells != round(cells) or not mosaic <= cells <= 1024:
            return None
        return Solver(**{**solver.model_dump(), "num_points": round(cells) + 1})

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        return self.refined(solver, axes, 2)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """a at the nodes."""
        return {"a": self.coefficient.draw(generator, [axis.num_points for axis in axes.values()])}

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """a as given, and u; a sample whose iteration does not converge is NaN.

        Of a solver whose nodes do not include those of `axes`, u is interpolated.
        """
        a = self._coefficient(instances, axes)
        u = self._solved(a, self._nodes(a, solver), solver.precision)
        return {"a": a, "u": interpolated(u, a.shape[1:]).to(a.dtype)}

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """The equation in weak form, by bilinear finite elements, against the 8 x 8 longest sines.

        The finite-volume solution is taken as finite-element values, on twice the solver's cells: there the
        mosaic's edges are edges of elements. In the norm that is dual to the energy, relative to the source.
        """
        a = self._coefficient(instances, axes)
        cells = [2 * (count - 1) for count in self._nodes(a, solver)]
        u = self._solved(a, [count + 1 for count in cells], solver.precision)
        load = self.source / (cells[0] * cells[1])
        missing = element_balance(mean_in_cells(a.to(u), cells), u) - load
        squares = [second_derivative(min(9, count), 1.0) for count in cells]
        weight = torch.from_numpy((squares[0][:, None] + squares[1]) ** -0.5).to(u)

        def size(residual: Tensor) -> Tensor:
            longest = sine_transform(residual)[:, : weight.shape[0], : weight.shape[1]]
            norm: Tensor = (longest * weight).flatten(1).norm(dim=1)
            return norm

        return {"darcy": size(missing) / size(torch.full_like(missing, load))}

    def _nodes(self, a: Tensor, solver: Solver) -> list[int]:
        return [solver.num_points or count for count in a.shape[1:]]

    def _coefficient(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> Tensor:
        """a as given. Raises GridError for another shape, InputError where it is not positive."""
        a = instances["a"]
        check_field("a", a, axes)
        least = a.amin((1, 2))
        if bool((least <= 0).any()):
            sample = int((least <= 0).to(torch.uint8).argmax())
            raise InputError(
                f"the coefficient must be positive, but a of sample {sample} goes down to "
                f"{float(least[sample]):g}"
            )
        return a

    def _solved(self, a: Tensor, num_points: Sequence[int], precision: str) -> Tensor:
        """u at all nodes of a grid."""
        a = a.to(getattr(torch, precision))
        nx, ny = (count - 1 for count in num_points)
        links = network(a, (nx, ny))
        rhs = a.new_full((len(a), nx - 1, ny - 1), self.source / (nx * ny))
        if self.method == "direct":
            u = solve_directly(links, rhs)
        else:
            u = solve_by_multigrid(links, rhs, tolerance=1e-11 if precision == "float64" else 1e-5)
        return pad(u, (1, 1, 1, 1))


def _drawn(field: RandomField, generator: np.random.Generator, num_points: Sequence[int]) -> Array:
    return wall_field(generator, num_points, (1.0, 1.0), zero="slope", **field.model_dump())
