"""The Korteweg-de Vries equation on a periodic interval; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dlde.errors import InputError
from dlde.numerics.spectral import Transform, derivative
from dlde.problem import Array, Axis, Exact, Interval
from dlde.problems.drawn import Positive, drawn_value
from dlde.problems.initial_conditions import GaussianField, InitialCondition, Sine, Waves
from dlde.problems.periodic import Change, Coefficients, PeriodicEquation, Slope, quadratic

_TAIL = 20.7  # log(1e9): what a grid leaves out of a soliton's spectrum, and a period of its tails


class Soliton(InitialCondition):
    """2 dispersion q^2 sech^2(q (x - x0)), where q is the inverse width and x0 lies anywhere.

    It moves at 4 dispersion q^2. On the periodic interval it is exact up to its tails, 8 q^2 exp(-q extent).
    """

    kind: Literal["soliton"] = "soliton"
    inverse_width: Positive = Interval(low=0.5, high=1.0)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        """For a dispersion of one."""
        axis = axes["x"]
        extent = axis.stop - axis.start
        q = drawn_value(self.inverse_width, generator)
        distance = axis.points - axis.start - extent * generator.random()
        return 2 * q**2 / np.cosh(q * (distance - extent * np.round(distance / extent))) ** 2

    def highest_mode(self, extent: float) -> int:
        q = self.inverse_width.high if isinstance(self.inverse_width, Interval) else self.inverse_width
        return math.ceil(2 * q * _TAIL / math.pi * extent / (2 * math.pi))

    def size(self, extent: float, dims: int) -> float:
        return 2 * self.least**2

    @property
    def least(self) -> float:
        """The smallest inverse width."""
        return self.inverse_width.low if isinstance(self.inverse_width, Interval) else self.inverse_width


class KortewegDeVries(PeriodicEquation, Exact):
    """Korteweg-de Vries: u_t + 6 u u_x + dispersion u_xxx = 0 on a periodic interval.

    Solved pseudo-spectrally (2/3 rule, ETDRK4). Exact for a soliton: see there.
    Sources: Zabusky & Kruskal, Phys. Rev. Lett. 15 (1965); Kassam & Trefethen, SIAM J. Sci. Comput. 26
    (2005).
    """

    version: ClassVar[str] = "1"
    coefficients: ClassVar[dict[str, str]] = {"dispersion": "coefficient of u_xxx"}
    state: ClassVar[dict[str, str]] = {"u": "elevation"}

    dispersion: Positive = 1.0
    domain: tuple[float, float] = (0.0, 32.0)
    initial_condition: Annotated[Soliton | GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves(
        amplitude=0.5, num_modes=4, decay=0.0
    )

    @model_validator(mode="after")
    def _holds_a_soliton(self) -> Self:
        if isinstance(self.initial_condition, Soliton):
            q = self.initial_condition.least
            if 4 * math.exp(-q * self.extent) > 1e-3:
                raise ValueError(
                    f"a soliton of inverse_width={q:g} is wider than the domain of {self.extent:g}; "
                    f"use an extent of at least {math.log(4e3) / q:.2g}, or a narrower soliton"
                )
        return self

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """u(x, 0), then the dispersion, which a soliton is scaled by."""
        instance = super().draw(generator, axes)
        if isinstance(self.initial_condition, Soliton):
            dispersion: Any = instance.get("dispersion", self.dispersion)
            instance["u"] = instance["u"] * dispersion
        return instance

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return 1j * c["dispersion"] * k[0] ** 3

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change:
        (k,) = transform.wavenumbers()
        square = quadratic(transform, torch.from_numpy(-3j * k).to(like))
        return lambda v, c: square(v)

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        return -6j * amplitude * k[0]

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [-6 * u * d(u, 0, 1), -c["dispersion"] * d(u, 0, 3)]

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """Of solitons, whose width and place are read off their mass and their lowest Fourier mode.

        Raises InputError for other fields.
        """
        self.check_instances(instances, axes)
        u = instances["u"].double()
        dispersion = torch.as_tensor(self.values_of(instances)["dispersion"]).to(u).expand(len(u), 1)
        mode = torch.fft.rfft(u, norm="forward")
        q = mode[:, :1].real * self.extent / (4 * dispersion)
        place = -mode[:, 1:2].angle() * self.extent / (2 * math.pi)
        x = torch.from_numpy(axes["x"].points - axes["x"].start).to(u)

        def soliton(t: float) -> Tensor:
            distance = x - place - 4 * dispersion * q**2 * t
            distance = distance - self.extent * torch.round(distance / self.extent)
            height: Tensor = 2 * dispersion * q**2
            return height / torch.cosh(q * distance) ** 2

        start = soliton(0.0)
        if ((start - u).norm(dim=-1) > 1e-6 * u.norm(dim=-1)).any():
            raise InputError(
                "Korteweg-de Vries has no exact solution here but for a single soliton; "
                "use initial_condition: {kind: soliton}"
            )
        return {"u": torch.stack([soliton(t) for t in times], dim=1)} | {
            name: instances[name] for name in self.drawn
        }

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """Mass, momentum and energy, as means of u, u^2 and u^3 - dispersion u_x^2 / 2."""
        u = solution["u"].double()
        dispersion = self.values_of(solution)["dispersion"]
        slope = derivative(u, self.extent)
        return {
            "mass": u.mean(-1),
            "momentum": u.square().mean(-1),
            "energy": (u**3).mean(-1) - dispersion / 2 * slope.square().mean(-1),
        }
