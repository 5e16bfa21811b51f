"""What a problem offers, as small protocols; a problem implements those that it can.

Everything is dimensionless unless a variable says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, NonNegativeInt, PlainSerializer, PositiveFloat, PositiveInt
from torch import Tensor

from dlde import catalog
from dlde.spec import Spec

Array = NDArray[np.float64]


class Variable(Spec):
    """A stored field: its dimensions after `sample` (such as `("time", "x")`), units and meaning."""

    dims: tuple[str, ...]
    units: str = "dimensionless"
    long_name: str


class Axis(Spec):
    """A uniform axis of `num_points` from `start` to `stop`; a periodic one leaves out `stop`."""

    start: float
    stop: float
    num_points: PositiveInt
    boundary: Literal["periodic", "wall", "open"]
    units: str = "dimensionless"

    @property
    def points(self) -> Array:
        """Coordinates (num_points,), float64."""
        return np.linspace(self.start, self.stop, self.num_points, endpoint=self.boundary != "periodic")


class Solver(Spec):
    """How finely a reference solution is computed, before it is stored on the recipe's grid."""

    num_points: PositiveInt | None = None  # per axis; None: the stored grid
    dt: PositiveFloat = 1e-3  # largest time step; shortened to meet the stored times
    precision: Literal["float64", "float32"] = "float64"


class Problem(Spec):
    """An equation with domain, conditions and parameters; the fields are the parameters."""

    requires_grid: ClassVar[bool] = True

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


class Solvable(ABC):
    """Random instances, and a batched reference solver.

    `version` changes whenever the stored values would; it is part of a store's identity.
    `order` is the solver's order of accuracy in the time step.
    """

    version: ClassVar[str]
    order: ClassVar[int]

    @property
    @abstractmethod
    def variables(self) -> dict[str, Variable]:
        """What a solution consists of, by name."""

    @abstractmethod
    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The spatial axes of a grid with that many points per axis, by name, in order."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """One random instance on the grid `axes` (no batch axis).

        Consumes the generator in a way that does not depend on the grid, so that a finer grid
        shows the same instance.
        """

    @abstractmethod
    def solve(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """Solve a batch: instances (batch, *space) -> variables (batch, *dims), on the grid `axes`.

        Runs on the device of `instances`; `solver.num_points` and `solver.dt` may refine the
        computation beyond that grid. The result of a sample must not depend on its neighbours'
        values.
        """

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """Quantities that the exact flow keeps, each (batch, time); none by default."""
        return {}


class Exact(ABC):
    """A closed form (or a quadrature exact to rounding) of the solution."""

    @abstractmethod
    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """The same as `Solvable.solve`, without discretisation error, in float64."""


AnyProblem = Annotated[
    Problem,
    BeforeValidator(lambda value: catalog.read("problem", value)),
    PlainSerializer(lambda noun: catalog.write("problem", noun)),
]
Seed = NonNegativeInt
