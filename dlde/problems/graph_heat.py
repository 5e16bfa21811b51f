"""Heat on graphs; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.numerics.differences import five_times, middles, time_derivative
from dlde.numerics.graphs import (
    Diffusion,
    Numbers,
    both_ways,
    dense_weights,
    fluxes,
    grid,
    heat_flow,
    ring,
    star,
)
from dlde.numerics.ode import rounded_down, solve_ode, stretches
from dlde.problem import Array, Axis, Exact, Interval, Problem, Solvable, Solver, Thresholds, Variable
from dlde.problems.block_model import Blocks, check_edges, check_shapes, no_grid
from dlde.problems.drawn import (
    PositiveOrListed,
    bounds,
    check_instances,
    draw_parameters,
    parameter,
    parameter_variables,
)
from dlde.problems.trajectory import refuse_points
from dlde.spec import Spec

LARGEST_RATE = 2.0  # eigenvalue of a normalised Laplacian
RK4_REACH = 2.785  # rk4 does not grow for -RK4_REACH <= rate dt <= 0
LARGEST_EXACT = 2000  # nodes whose eigenvectors are found


class Ring(Spec):
    """A cycle of nodes."""

    kind: Literal["ring"] = "ring"
    num_nodes: Annotated[int, Field(ge=3)] = 64

    @property
    def num_edges(self) -> int:
        """Each counted once."""
        return self.num_nodes

    def draw_edges(self, generator: np.random.Generator) -> Numbers:
        """Each edge once; draws nothing."""
        return ring(self.num_nodes)


class Grid(Spec):
    """A rectangle of nodes, each linked to those beside, above and below it; of one row, a path."""

    kind: Literal["grid"] = "grid"
    rows: PositiveInt = 20
    columns: Annotated[int, Field(ge=2)] = 20

    @property
    def num_nodes(self) -> int:
        """Of the rectangle."""
        return self.rows * self.columns

    @property
    def num_edges(self) -> int:
        """Each counted once."""
        return 2 * self.rows * self.columns - self.rows - self.columns

    def draw_edges(self, generator: np.random.Generator) -> Numbers:
        """Each edge once; draws nothing."""
        return grid(self.rows, self.columns)


class Star(Spec):
    """A node that is linked to all others, which have no other edge."""

    kind: Literal["star"] = "star"
    num_nodes: Annotated[int, Field(ge=2)] = 64

    @property
    def num_edges(self) -> int:
        """Each counted once."""
        return self.num_nodes - 1

    def draw_edges(self, generator: np.random.Generator) -> Numbers:
        """Each edge once; draws nothing."""
        return star(self.num_nodes)


class Weights(Spec):
    """Every edge has a weight of its own, the same in both directions."""

    each: Interval = Interval(low=0.2, high=2.0)

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.each.low <= 0:
            raise ValueError(f"each.low={self.each.low:g}: expected more than 0")
        return self


class Noise(Spec):
    """Independent normal values at all nodes."""

    kind: Literal["noise"] = "noise"

    def draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> Array:
        """(node, channel)."""
        return generator.standard_normal(shape)


class Spots(Spec):
    """One at `count` nodes of every channel, zero at the others."""

    kind: Literal["spots"] = "spots"
    count: PositiveInt = 4

    def draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> Array:
        """(node, channel)."""
        u = np.zeros(shape)
        for channel in u.T:
            channel[generator.permutation(shape[0])[: self.count]] = 1
        return u


class GraphHeat(Problem, Solvable, Exact):
    """Heat on graphs: du/dt = -diffusivity L u, L the normalised Laplacian of a weighted graph.

    random-walk: L = 1 - D^-1 W, which keeps constants and the maximum principle, and the total heat
    sum_i d_i u_i; symmetric: L = 1 - D^-1/2 W D^-1/2, which keeps sum_i sqrt(d_i) u_i (Chung, Spectral Graph
    Theory (1997); it is the linear flow of GRAND, arXiv 2106.10934, with fixed weights). Every instance has
    its own graph, drawn from blocks, or the ring, grid or star; edges have weight one, or each draws it.
    An instance is `edges` in both directions, `weight` (edge) where it is drawn, u (node, channel) and the
    drawn diffusivity; all are stored. Solved by rk4 over the list of edges, exact by eigenvectors.
    """

    version: ClassVar[str] = "1"
    order: ClassVar[float] = 4
    # stored values are single precision, 6e-8 each: well below these a dataset does not show the solver;
    # heat is kept to rounding, as all that rk4 adds is a multiple of L
    thresholds: ClassVar[Thresholds] = Thresholds(error=1e-5, exact=1e-5, drift=1e-10, defect=1e-4)

    graph: Annotated[Blocks | Ring | Grid | Star, Field(discriminator="kind")] = Blocks(
        num_nodes=400, num_edges=800
    )
    laplacian: Literal["random-walk", "symmetric"] = "random-walk"
    diffusivity: PositiveOrListed = 1.0
    weights: Weights | None = None  # None: one
    initial_condition: Annotated[Noise | Spots, Field(discriminator="kind")] = Noise()
    channels: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.initial_condition, Spots) and self.initial_condition.count > self.graph.num_nodes:
            raise ValueError(
                f"initial_condition.count={self.initial_condition.count}: the graph has "
                f"{self.graph.num_nodes} nodes; use at most so many"
            )
        return self

    @property
    def variables(self) -> dict[str, Variable]:
        nodes, edges = self.graph.num_nodes, 2 * self.graph.num_edges
        found = {
            "u": Variable(
                dims=("time", "node", "channel"),
                sizes={"node": nodes, "channel": self.channels},
                long_name="temperature",
            ),
            "edges": Variable(
                dims=("edge", "end"), sizes={"edge": edges, "end": 2}, long_name="edges, as pairs of nodes"
            ),
        }
        if self.weights is not None:
            found["weight"] = Variable(dims=("edge",), sizes={"edge": edges}, long_name="weight of the edge")
        return {**found, **parameter_variables(self)}

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """None: nodes are no grid. Raises GridError where one is asked for."""
        return no_grid("graph-heat", num_points)

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse steps with which rk4 is not stable on every graph. Raises GridError."""
        refuse_points(solver)
        self._check_step(times, solver, bounds(self.diffusivity)[1])

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """A graph and its temperatures at time 0."""
        scalars = draw_parameters(self, generator)
        edges = self.graph.draw_edges(generator)
        u = self.initial_condition.draw(generator, (self.graph.num_nodes, self.channels))
        own = [] if self.weights is None else [np.array([self.weights.each.draw(generator) for _ in edges])]
        edges, weights = both_ways(edges, *own)
        found = {"u": u, "edges": edges.astype(np.float64), **scalars}
        return {**found, "weight": weights[0]} if weights else found

    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """u at the times, with the graphs and diffusivities as they were given.

        Raises InputError for graphs that are none or of other sizes, GridError for unstable steps.
        """
        self._check(instances)
        diffusivity = parameter(self, "diffusivity", instances)
        self._check_step(times, solver, float(diffusivity.detach().max()))
        u, precision = instances["u"], getattr(torch, solver.precision)
        laplacian = self._laplacian(instances, precision)
        rate = -diffusivity.to(precision)[:, None]
        states = solve_ode(
            lambda _, v: rate * laplacian(v), u.to(precision).flatten(1), times, solver.dt, scheme="rk4"
        )
        states = states.to(u.dtype).reshape(len(u), len(times), *u.shape[1:])
        if times[0] == 0:
            states[:, 0] = u
        return {**instances, "u": states}

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """By eigenvectors of every graph; raises InputError for more than 2000 nodes, whose are not found."""
        if self.graph.num_nodes > LARGEST_EXACT:
            raise InputError(
                f"eigenvectors are found for at most {LARGEST_EXACT} nodes, but the graph has "
                f"{self.graph.num_nodes}"
            )
        self._check(instances)
        u, weights = instances["u"].double(), self._weights(instances)
        elapsed = parameter(self, "diffusivity", instances)[:, None] * u.new_tensor(list(times))
        rows = zip(
            *(torch.split(each, 1) for each in (instances["edges"], weights, u, elapsed.expand(len(u), -1))),
            strict=True,
        )
        flows = [
            heat_flow(
                dense_weights(edges, weight, u.shape[1]), start, t, symmetric=self.laplacian == "symmetric"
            )
            for edges, weight, start, t in rows
        ]
        return {**instances, "u": torch.cat(flows)}

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Of u' by central differences of order 4 in the middle between times, from the fluxes along edges.

        The differences are over a sixteenth of the solver's step.
        """
        between, near = middles(times, solver.dt)
        if not between:
            return {}
        states = self.solve(instances, axes, five_times(between, near), solver)["u"].double()
        states, slope = time_derivative(states, near)
        gained = fluxes(
            instances["edges"],
            self._weights(instances),
            states,
            symmetric=self.laplacian == "symmetric",
        )
        right = parameter(self, "diffusivity", instances)[:, None, None, None] * gained
        size = torch.maximum(slope.flatten(1).norm(dim=1), right.flatten(1).norm(dim=1))
        tiny = torch.finfo(right.dtype).tiny
        return {"heat": (slope - right).flatten(1).norm(dim=1) / size.clamp(min=tiny)}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The total heat, in which nodes weigh as their degrees, or the roots of them (symmetric)."""
        capacity = self._laplacian(solution, torch.float64).capacity
        return {"total heat": torch.einsum("bn,btnc->bt", capacity, solution["u"].double())}

    def _laplacian(self, given: Mapping[str, Tensor], precision: torch.dtype) -> Diffusion:
        return Diffusion(
            given["edges"],
            self._weights(given).to(precision),
            self.graph.num_nodes,
            symmetric=self.laplacian == "symmetric",
        )

    def _weights(self, given: Mapping[str, Tensor]) -> Tensor:
        """(batch, edge), float64."""
        edges = given["edges"]
        weights = given.get("weight")
        return torch.ones_like(edges[..., 0], dtype=torch.float64) if weights is None else weights.double()

    def _check(self, instances: Mapping[str, Tensor]) -> None:
        """Raises InputError."""
        nodes, edges = self.graph.num_nodes, 2 * self.graph.num_edges
        shapes: dict[str, tuple[int, ...]] = {"u": (nodes, self.channels), "edges": (edges, 2)}
        if self.weights is not None:
            shapes["weight"] = (edges,)
        check_shapes({name: instances[name] for name in instances if name in shapes}, shapes)
        check_instances(self, instances, list(shapes))
        weights = self._weights(instances)
        if bool((weights <= 0).any()):
            raise InputError(f"weight must be positive, got {weights.min().item():g}")
        check_edges(instances["edges"], weights, nodes)

    def _check_step(self, times: Sequence[float], solver: Solver, diffusivity: float) -> None:
        """Raises GridError. The bound holds for every graph."""
        begins = [0.0, *times[:-1]]
        longest = max(
            (end - begin) / max(1, count)
            for begin, (end, count) in zip(begins, stretches(times, solver.dt), strict=True)
        )
        largest = RK4_REACH / (LARGEST_RATE * diffusivity)
        if longest > largest:
            raise GridError(
                f"solver.dt={solver.dt:g} is not stable: rk4 needs steps of at most {RK4_REACH:g} / (2 "
                f"diffusivity), with diffusivities up to {diffusivity:g}; use solver.dt <= "
                f"{rounded_down(largest)}"
            )
