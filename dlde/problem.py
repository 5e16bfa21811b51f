"""What a problem offers, as small protocols; a problem implements those that it can.

Everything is dimensionless unless a variable says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BeforeValidator,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor

from dlde import catalog
from dlde.spec import Spec

if TYPE_CHECKING:
    from dlde.numerics.jets import Jet

Array = NDArray[np.float64]


class Variable(Spec):
    """A stored field: its dimensions after `sample` (such as `("time", "x")`), units and meaning.

    A dimension is `time`, an axis of the grid, or one of `sizes` (such as `component`, `driver`).
    """

    dims: tuple[str, ...]
    sizes: dict[str, PositiveInt] = {}
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


class Interval(Spec):
    """A parameter that every instance draws anew: uniform, or uniform in its logarithm."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g}, high={self.high:g}: expected low < high")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low={self.low:g}: a logarithmic scale needs low > 0; use scale: linear")
        return self

    def draw(self, generator: np.random.Generator) -> float:
        """One value; consumes one uniform number."""
        fraction = generator.random()
        if self.scale == "log":
            return float(self.low * (self.high / self.low) ** fraction)
        return float(self.low + (self.high - self.low) * fraction)


class Thresholds(Spec):
    """What a certificate must find on random instances; errors are relative L2 norms per variable."""

    order: float | None = None  # least observed order; None: the solver's `order` less 0.5
    error: PositiveFloat = 1e-3  # largest difference from the same instance solved more finely
    exact: PositiveFloat = 1e-3  # largest distance from the exact solution, where there is one
    drift: PositiveFloat = 1e-6  # largest change of a conserved quantity, relative to its scale
    defect: PositiveFloat = 1e-2  # largest relative defect of the equation


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
    `order` is the solver's order of accuracy in what `refined` refines: the time step by default.
    """

    version: ClassVar[str]
    order: ClassVar[float]
    thresholds: ClassVar[Thresholds] = Thresholds()

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

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse times and settings that no instance can be solved with. Raises GridError.

        A step that is too large for stability is refused with the largest stable one.
        """
        return

    def refined(self, solver: Solver, axes: Mapping[str, Axis], factor: float) -> Solver | None:
        """The solver along which `order` is defined, `factor` times finer (coarser where below 1).

        None where it cannot be, such as beyond the resolution of a given noise. By default the step.
        """
        return Solver(**{**solver.model_dump(), "dt": solver.dt / factor})

    def finer(self, solver: Solver, axes: Mapping[str, Axis]) -> Solver | None:
        """A solver twice as fine in everything, that the certificate's `error` is measured against."""
        if axes and (stored := {axis.num_points for axis in axes.values()}):
            points = 2 * (solver.num_points or max(stored))
            solver = Solver(**{**solver.model_dump(), "num_points": points})
        return self.refined(solver, axes, 2)

    def defect(
        self,
        instances: Mapping[str, Tensor],
        axes: Mapping[str, Axis],
        times: Sequence[float],
        solver: Solver,
    ) -> dict[str, Tensor]:
        """How far the solution is from meeting the equation, put into it by another discretisation.

        (batch,) per equation, relative to the size of its largest term; none by default.
        """
        return {}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """Quantities that the exact flow keeps, each (batch, time); none by default.

        Of `solution` as `solve` returns it, in float64.
        """
        return {}


class Exact(ABC):
    """A closed form (or a quadrature exact to rounding) of the solution."""

    @abstractmethod
    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """The same as `Solvable.solve`, without discretisation error, in float64."""


class Residual(ABC):
    """The equation in strong form on a box, for methods that need no solved examples.

    A function is known at points by its value and derivatives there, as a `Jet`; `u["u"]["xx"]` is
    the second derivative of the unknown `u` along `x`. Coordinates that are differentiated along have
    names of one letter. All functions work in the points' dtype and on their device, and can be
    differentiated by autograd with respect to the points.
    """

    @property
    @abstractmethod
    def box(self) -> dict[str, tuple[float, float]]:
        """Coordinates by name with their ends, in the order of a point's entries."""

    @property
    @abstractmethod
    def unknowns(self) -> dict[str, Variable]:
        """What is solved for, by name; a variable's `dims` are not used."""

    @property
    @abstractmethod
    def derivatives(self) -> tuple[str, ...]:
        """The derivatives that `residual` reads, such as ("x", "xx", "t"), those of `operators` aside."""

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        """Fixed linear combinations of derivatives that `residual` reads as one, by name; none by default.

        {"laplacian": {"xx": 1, "yy": 1}} is carried as one derivative, `u["u"]["laplacian"]`, whatever
        the dimension: much cheaper than its second derivatives one by one. Names have three letters or
        more; coefficients do not depend on the point.
        """
        return {}

    @abstractmethod
    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        """Defect of every equation at the points, by name: coordinates (points,), results (points,)."""

    @abstractmethod
    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        """The unknowns from a network's outputs, such that all conditions hold by construction.

        u = A(x) + D(x) N: A meets the conditions, D vanishes where they hold. Coordinates and outputs
        are jets with the same derivatives (possibly none), so that one formula serves all of them.
        """

    def check_conditions(self) -> None:
        """Refuse a variant whose conditions `constrain` cannot build in. Raises SpecError."""
        return

    @property
    def output_scale(self) -> dict[str, float]:
        """The size of each unknown's free part, which a network's output is multiplied by."""
        return dict.fromkeys(self.unknowns, 1.0)

    @abstractmethod
    def reference(self, points: Tensor) -> dict[str, Tensor]:
        """The trusted solution (points,) at points (points, coordinates), float64, for measuring."""


ReferenceKind = Literal["exact", "computed", "recalled"]


class Semilinear(ABC):
    """A backward parabolic equation in many dimensions, known along the paths of a diffusion.

    u_t + 1/2 sum_i s_i^2 u_ii + mu . grad u + f(t, x, u, s grad u) = 0 with u(horizon, x) = g(x), where
    the diffusion s is diagonal and neither mu nor s depends on u. States are (batch, dims).
    """

    # Where `reference` comes from; a recalled one is a figure of the literature, held for one state.
    reference_kind: ClassVar[ReferenceKind]
    units: ClassVar[str] = "dimensionless"  # of the states and of u
    dims: int
    horizon: float
    start: float  # every entry of the state x0 at which u(0, x0) is asked for

    @property
    @abstractmethod
    def value_range(self) -> tuple[float, float]:
        """Where a solver may begin its search for u(0, x0): prior knowledge, so kept wide."""

    @property
    def value_scale(self) -> float:
        """The size of u, in which a solver may measure its unknowns."""
        return 1.0

    @property
    def positive(self) -> bool:
        """Whether all entries of a state must be positive, such as prices."""
        return False

    @abstractmethod
    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """The diffusion at all times: start (batch, dims), Brownian increments (batch, steps, dims)

        -> (batch, steps + 1, dims).
        """

    @abstractmethod
    def diffusion(self, x: Tensor) -> Tensor:
        """The diagonal of s: (..., dims) -> (..., dims)."""

    @abstractmethod
    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """f(t, x, y, z): x, z (..., dims), y and the result (...); z means s grad u."""

    @abstractmethod
    def terminal(self, x: Tensor) -> Tensor:
        """g(x): (..., dims) -> (...)."""

    @abstractmethod
    def reference(self, x: Tensor) -> Tensor | None:
        """u(0, x) for states (batch, dims) -> (batch,), float64; None where none is known there."""


class Steppable(ABC):
    """A controlled system in discrete time, for a batch of episodes at once: state and control act,

    noise is handed in, so that a path of noise can be repeated under another control. Everything
    random is a function of a seed, the number of the episode and the number of the decision.
    """

    control_limit: float  # every entry of a control lies in [-control_limit, control_limit]

    @property
    @abstractmethod
    def decisions(self) -> int:
        """Controls in one episode. Its end is a limit of time, no end of the system."""

    @property
    @abstractmethod
    def state_shape(self) -> tuple[int, ...]:
        """Of one episode's state."""

    @property
    @abstractmethod
    def control_shape(self) -> tuple[int, ...]:
        """Of one episode's control."""

    @abstractmethod
    def initial(self, seed: int, episodes: Sequence[int]) -> Tensor:
        """Random states (episodes, *state_shape), float64."""

    @abstractmethod
    def noise(self, seed: int, episodes: Sequence[int], decision: int) -> Tensor:
        """What drives `step` at that decision (episodes, ...), float64."""

    @abstractmethod
    def step(self, state: Tensor, control: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The next states, and the rewards (episodes,) of this decision.

        A row's result does not depend on the other rows. Raises NonFiniteError where a state blows up.
        """


class ActuatedField(Steppable):
    """A field (num_points,) on one periodic axis, held at a target by a force of `places` actuators.

    The force is sum_j a_j psi_j(x), the reward of a decision minus its cost.
    """

    interval: float  # time during which one control is held
    energy_price: float  # of the control's mean square, against that of the field's distance from the target

    @property
    @abstractmethod
    def axis(self) -> Axis:
        """The grid of the field."""

    @property
    @abstractmethod
    def target(self) -> Tensor:
        """(num_points,), float64."""

    @property
    @abstractmethod
    def shapes(self) -> Tensor:
        """psi (places, num_points), float64; place j stands at the fraction j / places of the axis."""


AnyProblem = Annotated[
    Problem,
    BeforeValidator(lambda value: catalog.read("problem", value)),
    PlainSerializer(lambda noun: catalog.write("problem", noun)),
]
Seed = NonNegativeInt
