"""The viscous Burgers equation in one dimension; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dlde.errors import InputError, SpecError
from dlde.numerics.cole_hopf import cole_hopf, cole_hopf_periodic
from dlde.numerics.jets import Jet
from dlde.numerics.spectral import Scheme, Transform
from dlde.problem import Axis, Exact, Interval, Residual, Thresholds, Variable
from dlde.problems.drawn import Positive
from dlde.problems.forcing import Forcing, RandomForcing, WaveForcing
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import Change, Coefficients, PeriodicEquation, Slope, quadratic


class Burgers(PeriodicEquation, Exact, Residual):
    """Burgers: u_t + u u_x = viscosity u_xx + f in one dimension, periodic or with u = 0 at both walls.

    Solved pseudo-spectrally in conservative form (2/3 rule, integrating-factor RK4). Walls are the
    odd periodic continuation, which the equation keeps odd. Exact without a force f, by the Cole-Hopf
    transformation. `viscosity` may be an interval, from which every instance draws its own.
    The order in time is 4 for smooth data; for random fields, whose coefficients fall like k^-2, about
    3 is seen at large viscosity (the stiff modes of the start: Hochbruck & Ostermann, SIAM J. Numer.
    Anal. 43 (2005)).
    """

    version: ClassVar[str] = "1"
    scheme: ClassVar[Scheme] = "if-rk4"
    thresholds: ClassVar[Thresholds] = Thresholds(order=2.5)  # rough data: see above
    coefficients: ClassVar[dict[str, str]] = {"viscosity": "viscosity"}
    state: ClassVar[dict[str, str]] = {"u": "velocity"}

    viscosity: Positive = 0.02  # docs/decisions/0002; the paper's is 0.1
    domain: tuple[float, float] = (0.0, 1.0)
    boundary: Literal["periodic", "dirichlet"] = "periodic"
    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = GaussianField()
    # Left out where there is none, so that stores made before there were forces keep their names.
    forcing: Annotated[WaveForcing | RandomForcing, Field(discriminator="kind")] | None = Field(
        default=None, exclude_if=lambda forcing: forcing is None
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.boundary == "dirichlet" and self.initial_condition.kind != "sine":
            raise ValueError(
                "boundary=dirichlet needs an initial condition that vanishes at both walls, "
                f"which a periodic {self.initial_condition.kind} field does not; "
                "use initial_condition: {kind: sine}, or boundary: periodic"
            )
        if self.boundary == "dirichlet" and isinstance(self.forcing, RandomForcing):
            raise ValueError(
                "boundary=dirichlet needs a force that vanishes at both walls, which a random one does not; "
                "use forcing: {kind: wave}, or boundary: periodic"
            )
        return self

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return -c["viscosity"] * k[0] ** 2

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change:
        (k,) = transform.wavenumbers()
        square = quadratic(transform, torch.from_numpy(-0.5j * k).to(like))
        return lambda v, c: square(v)

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        return -1j * amplitude * k[0]

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [-u * d(u, 0, 1), c["viscosity"] * d(u, 0, 2)]

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """The Cole-Hopf solution to about 1e-9; raises InputError where quadrature does not reach that.

        Also where there is a force.
        """
        if self.forcing is not None:
            raise InputError("burgers with a force has no exact solution here; use forcing: null")
        self.check_instances(instances, axes)
        initial = self.continued(instances["u"], axes)
        given = instances.get("viscosity")
        if given is None:
            assert not isinstance(self.viscosity, Interval)
            u = cole_hopf_periodic(initial, times, extent=self.period[0], viscosity=self.viscosity)
        else:
            rows = zip(torch.split(initial, 1), given.tolist(), strict=True)
            u = torch.cat(
                [cole_hopf_periodic(row, times, extent=self.period[0], viscosity=nu) for row, nu in rows]
            )
        u = u[..., : axes["x"].num_points]
        return {"u": u} if given is None else {"u": u, "viscosity": given}

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """Space, and a unit of time: a sine of amplitude one on (-1, 1) has its shock by 1 / pi."""
        return {"x": self.domain, "t": (0.0, 1.0)}

    @property
    def unknowns(self) -> dict[str, Variable]:
        return self.variables

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ("x",)

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        return {"heat": {"t": 1, "xx": -self._one_viscosity}}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        v = u["u"]
        return {"burgers": v["heat"] + v.value * v["x"]}

    def check_conditions(self) -> None:
        """Raises SpecError: only a sine between walls has its conditions in closed form.

        Also for a viscosity of every instance's own, and for a force: they are known for instances alone.
        """
        if isinstance(self.viscosity, Interval):
            raise SpecError(
                "burgers with an interval of viscosities is many equations; give viscosity as a number",
                mistakes=["problem.viscosity"],
            )
        if self.forcing is not None:
            raise SpecError(
                "burgers with a force has no residual here; use forcing: null", mistakes=["problem.forcing"]
            )
        if self.boundary == "periodic" or not isinstance(self.initial_condition, Sine):
            raise SpecError(
                f"burgers with boundary={self.boundary} and initial_condition={self.initial_condition.kind} "
                "has no trial function that meets its conditions; use boundary: dirichlet with "
                "initial_condition: {kind: sine}",
                mistakes=["problem.boundary"],
            )

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        """u = u(x, 0) + (1 - e^-t) (x - a)(b - x) N, the latter factor with maximum one."""
        self.check_conditions()
        start, stop = self.domain
        wave, inside = x["x"] - start, (x["x"] - start) * (stop - x["x"])
        initial = self._amplitude * (self._wavenumber * wave).sin()
        return {"u": initial + (1 - (-x["t"]).exp()) * (4 / self.extent**2 * inside) * network["u"]}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        """By Cole-Hopf, once for every time that occurs: quick where many points share their time."""
        self.check_conditions()
        k, amplitude = self._wavenumber, self._amplitude
        x, t = (points[:, 0].double() - self.domain[0], points[:, 1].double())
        u = amplitude * torch.sin(k * x)
        times, which = torch.unique(t, return_inverse=True)
        for number, time in enumerate(times.tolist()):
            if time > 0:
                chosen = which == number
                u[chosen] = cole_hopf(
                    x[chosen],
                    time,
                    velocity=lambda y: amplitude * torch.sin(k * y),
                    potential=lambda y: -amplitude / k * torch.cos(k * y),
                    speed=abs(amplitude),
                    viscosity=self._one_viscosity,
                )
        return {"u": u}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean velocity, where no wall takes up momentum: forces have mean zero."""
        return {"mean velocity": solution["u"].double().mean(-1)} if self.boundary == "periodic" else {}

    @property
    def forced(self) -> Forcing | None:
        return self.forcing

    @property
    def period(self) -> tuple[float, ...]:
        return (self.extent if self.boundary == "periodic" else 2 * self.extent,)

    def periodic_points(self, num_points: int) -> int:
        return num_points if self.boundary == "periodic" else 2 * (num_points - 1)

    def continued(self, field: Tensor, axes: Mapping[str, Axis]) -> Tensor:
        """One period: as it is, or continued oddly beyond the walls to 2 (num_points - 1) points."""
        if self.boundary == "periodic":
            return field
        return torch.cat([field, -field[:, 1:-1].flip(-1)], dim=1)

    def check_instances(self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> None:
        super().check_instances(instances, axes)
        if self.boundary == "dirichlet":
            u = instances["u"]
            if (u[:, [0, -1]].abs() > 1e-6 * u.abs().amax(1, keepdim=True)).any():
                raise InputError("with boundary=dirichlet, u must vanish at both ends of x")
        if "forcing" in instances:
            shapes = instances["forcing"]
            if (shapes.mean(-1).abs() > 1e-6 * shapes.abs().amax(-1)).any():
                raise InputError("forcing must have mean zero over x; subtract it")

    @property
    def _boundary(self) -> Literal["periodic", "wall"]:
        return "periodic" if self.boundary == "periodic" else "wall"

    def _least_points(self, degree: int) -> int:
        return super()._least_points(degree) + (self.boundary == "dirichlet")

    @property
    def _one_viscosity(self) -> float:
        self.check_conditions()
        assert not isinstance(self.viscosity, Interval)
        return self.viscosity

    @property
    def _wavenumber(self) -> float:
        assert isinstance(self.initial_condition, Sine)
        return 2 * math.pi * self.initial_condition.waves / self.extent

    @property
    def _amplitude(self) -> float:
        assert isinstance(self.initial_condition, Sine)
        return self.initial_condition.amplitude
