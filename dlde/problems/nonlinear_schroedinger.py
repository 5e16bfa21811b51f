"""The nonlinear Schroedinger equation on a periodic interval; everything is dimensionless."""

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
from dlde.problems.drawn import Positive, Real, drawn_value
from dlde.problems.initial_conditions import InitialCondition, Waves
from dlde.problems.periodic import Change, Coefficients, PeriodicEquation, Slope

_TAIL = 20.7  # log(1e9): what a grid leaves out of a soliton's spectrum, and a period of its tails


class BrightSoliton(InitialCondition):
    """a sech(a (x - x0)) exp(i (v (x - x0) + phase)), with x0 and phase anywhere; for focusing = 1.

    On the periodic interval it is exact up to its tails, 2 a exp(-a extent / 2).
    """

    kind: Literal["soliton"] = "soliton"
    amplitude: Positive = Interval(low=1.0, high=2.0)
    velocity: Real = Interval(low=-1.0, high=1.0)

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        """The real and the imaginary part (2, points)."""
        axis = axes["x"]
        extent = axis.stop - axis.start
        a, v = drawn_value(self.amplitude, generator), drawn_value(self.velocity, generator)
        place, phase = extent * generator.random(), 2 * np.pi * generator.random()
        distance = axis.points - axis.start - place
        distance = distance - extent * np.round(distance / extent)
        angle = v * distance + phase
        psi: Array = a / np.cosh(a * distance) * np.stack([np.cos(angle), np.sin(angle)])
        return psi

    def highest_mode(self, extent: float) -> int:
        a = self.amplitude.high if isinstance(self.amplitude, Interval) else self.amplitude
        v = self.velocity
        fastest = max(abs(v.low), abs(v.high)) if isinstance(v, Interval) else abs(v)
        return math.ceil((2 * a * _TAIL / math.pi + fastest) * extent / (2 * math.pi))

    def size(self, extent: float, dims: int) -> float:
        return self.amplitude.low if isinstance(self.amplitude, Interval) else self.amplitude


class NonlinearSchroedinger(PeriodicEquation, Exact):
    """Nonlinear Schroedinger: i psi_t + psi_xx / 2 + focusing |psi|^2 psi = 0 on a periodic interval.

    psi is stored as its real part `psi_re` and its imaginary part `psi_im`. A negative `focusing` is
    the defocusing equation. Solved pseudo-spectrally (no aliasing of the cube, ETDRK4). Exact for a
    soliton of the focusing equation: see there.
    Sources: Zakharov & Shabat, Sov. Phys. JETP 34 (1972); Kassam & Trefethen, SIAM J. Sci. Comput. 26
    (2005).
    """

    version: ClassVar[str] = "1"
    degree: ClassVar[int] = 3
    coefficients: ClassVar[dict[str, str]] = {"focusing": "strength of focusing"}
    state: ClassVar[dict[str, str]] = {"psi_re": "real part of psi", "psi_im": "imaginary part of psi"}

    focusing: Real = 1.0
    domain: tuple[float, float] = (-10.0, 10.0)
    initial_condition: Annotated[BrightSoliton | Waves, Field(discriminator="kind")] = Waves(
        amplitude=0.5, num_modes=4
    )

    @model_validator(mode="after")
    def _holds_a_soliton(self) -> Self:
        if isinstance(self.initial_condition, BrightSoliton):
            a = self.initial_condition.size(self.extent, 1)
            if 2 * math.exp(-a * self.extent / 2) > 1e-3:
                raise ValueError(
                    f"a soliton of amplitude={a:g} is wider than the domain of {self.extent:g}; "
                    f"use an extent of at least {2 * math.log(2e3) / a:.2g}, or a narrower soliton"
                )
        return self

    def draw_state(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """Both parts: of a soliton, or two independent fields."""
        condition = self.initial_condition
        if isinstance(condition, BrightSoliton):
            real, imaginary = condition.draw(generator, axes)
        else:
            real, imaginary = condition.draw(generator, axes), condition.draw(generator, axes)
        return {"psi_re": real, "psi_im": imaginary}

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> dict[str, Array]:
        """psi(x, 0), then the strength of focusing, by whose root a soliton is divided."""
        instance = super().draw(generator, axes)
        focusing: Any = instance.get("focusing", self.focusing)
        if isinstance(self.initial_condition, BrightSoliton) and focusing > 0:
            for name in self.state:
                instance[name] = instance[name] / np.sqrt(focusing)
        return instance

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return -0.5j * k[0] ** 2

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change:
        def change(v: Tensor, c: Coefficients) -> Tensor:
            psi = transform.backward(v)
            density = psi.real.square() + psi.imag.square()
            return transform.forward(psi * density).mul_(1j * c["focusing"])

        return change

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        return 2j * c["focusing"] * amplitude**2 + 0 * k[0]

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [0.5j * d(u, 0, 2), 1j * c["focusing"] * (u.real**2 + u.imag**2) * u]

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """Of solitons, whose parameters are read off their mass, momentum and lowest Fourier mode.

        Raises InputError for other fields.
        """
        self.check_instances(instances, axes)
        psi = torch.complex(instances["psi_re"].double(), instances["psi_im"].double())
        focusing = torch.as_tensor(self.values_of(instances)["focusing"]).to(psi.real).expand(len(psi), 1)
        density = torch.fft.rfft(psi.abs().square(), norm="forward")
        mass = density[:, :1].real
        a = focusing * mass * self.extent / 2
        place = -density[:, 1:2].angle() * self.extent / (2 * math.pi)
        slope = torch.complex(derivative(psi.real, self.extent), derivative(psi.imag, self.extent))
        v = (psi.conj() * slope).imag.mean(-1, keepdim=True) / mass
        root = focusing.abs().sqrt()
        x = torch.from_numpy(axes["x"].points - axes["x"].start).to(psi.real)

        def soliton(t: float) -> Tensor:
            distance = x - place - v * t
            distance = distance - self.extent * torch.round(distance / self.extent)
            phase = v * distance + (a**2 + v**2) * t / 2  # where the soliton stands, at distance 0
            return torch.polar(a / root / torch.cosh(a * distance), phase)

        start = soliton(0.0)
        phase = (start.conj() * psi).sum(-1, keepdim=True)
        phase = phase / phase.abs()
        wrong = (start * phase - psi).abs().square().sum(-1) > 1e-12 * psi.abs().square().sum(-1)
        if (wrong | (focusing[:, 0] <= 0)).any():
            raise InputError(
                "the nonlinear Schroedinger equation has no exact solution here but for a single soliton of "
                "its focusing form; use initial_condition: {kind: soliton} and focusing > 0"
            )
        solution = torch.stack([soliton(t) * phase for t in times], dim=1)
        found = {"psi_re": solution.real.contiguous(), "psi_im": solution.imag.contiguous()}
        return found | {name: instances[name] for name in self.drawn}

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """Mass, momentum, energy: means of |psi|^2, Im(psi* psi_x), |psi_x|^2 / 2 - focusing |psi|^4 / 2."""
        re, im = solution["psi_re"].double(), solution["psi_im"].double()
        focusing = self.values_of(solution)["focusing"]
        slope_re, slope_im = derivative(re, self.extent), derivative(im, self.extent)
        density = re**2 + im**2
        return {
            "mass": density.mean(-1),
            "momentum": (re * slope_im - im * slope_re).mean(-1),
            "energy": (slope_re**2 + slope_im**2).mean(-1) / 2 - focusing / 2 * (density**2).mean(-1),
        }
