"""An equation whose driver grows with the square of the gradient, with a known solution; dimensionless."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.sde import path_of
from dlde.problem import Problem, ReferenceKind, Semilinear


class QuadraticGradient(Problem, Semilinear):
    """Quadratic gradients: u_t + Lap u / 2 + |grad u|^2 = h_t + Lap h / 2 + |grad h|^2 with u = h at time T.

    The solution is h(t, x) = sin((T - t + |x|^2 / dims)^exponent). Source: E, Han & Jentzen, Commun. Math.
    Stat. 5 (2017), arXiv 1706.04702, after Gobet & Turkedjiev.
    """

    reference_kind: ClassVar[ReferenceKind] = "exact"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 1.0
    start: float = 0.0
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.4  # alpha

    @property
    def value_range(self) -> tuple[float, float]:
        return 2.0, 4.0  # as in the authors' code

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """start + W: exact."""
        return start[:, None] + path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """|z|^2 - (h_t + Lap h / 2 + |grad h|^2), with s = T - t + |x|^2 / dims and h = sin(s^exponent)."""
        alpha, radius = self.exponent, x.square().sum(-1)
        s = self.horizon - t + radius / self.dims
        power = s**alpha
        first = alpha * power / s * power.cos()  # dh/ds
        second = alpha * (alpha - 1) * power / s**2 * power.cos() - (alpha * power / s) ** 2 * power.sin()
        slope = 4 * radius / self.dims**2  # |grad s|^2
        return z.square().sum(-1) - (0.5 * slope * second + slope * first**2)

    def terminal(self, x: Tensor) -> Tensor:
        return self.solution(self.horizon, x)

    def solution(self, t: Tensor | float, x: Tensor) -> Tensor:
        """u(t, x) for states (..., dims) -> (...)."""
        return torch.sin((self.horizon - t + x.square().sum(-1) / self.dims) ** self.exponent)

    def reference(self, x: Tensor) -> Tensor | None:
        return self.solution(0.0, x.detach().double()).cpu()
