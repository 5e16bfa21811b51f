"""Poisson's equation with a known solution on a rectangle; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.numerics.jets import Jet
from dlde.problem import Problem, Residual, Variable
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


class Poisson(Problem, Residual):
    """Poisson: -(u_xx + u_yy) = f on a rectangle, with Dirichlet data; the solution is chosen.

    `solution` gives f and the boundary values (a manufactured solution). The residual is divided by
    the largest |f|, so that its size says the same for every sharpness.
    """

    domain: tuple[tuple[float, float], tuple[float, float]] = ((-1.0, 1.0), (-1.0, 1.0))  # of x, of y
    solution: Annotated[Peak | Sine, Field(discriminator="kind")] = Peak()

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
        return {"poisson": (-u["u"]["laplacian"] - self.solution.source(x["x"], x["y"])) / self._source_scale}

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
            (self.solution.factor(axis, x[name]), self._line(axis, x[name]))
            for axis, name in enumerate(self.box)
        )
        return {"u": u + line_x * along_y + (along_x - line_x) * line_y}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        x, y = (Jet(column, {}, ()) for column in points.double().unbind(1))
        return {"u": (self.solution.factor(0, x) * self.solution.factor(1, y)).value}

    def _line(self, axis: int, x: Jet) -> Jet:
        start, stop = self.domain[axis]
        ends = Jet(torch.tensor([start, stop], dtype=torch.float64), {}, ())
        first, last = (float(end) for end in self.solution.factor(axis, ends).value)
        return (x - start) * ((last - first) / (stop - start)) + first

    @property
    def _source_scale(self) -> float:
        if isinstance(self.solution, Peak):
            return 4 * self.solution.sharpness
        return 2 * (self.solution.waves * math.pi) ** 2

    @property
    def _vanishes_outside(self) -> bool:
        """Whether the sides carry the value zero: a sine whose nodes they are."""
        return isinstance(self.solution, Sine) and all(
            float(end * self.solution.waves).is_integer() for ends in self.domain for end in ends
        )
