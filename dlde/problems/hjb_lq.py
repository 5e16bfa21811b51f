"""Optimal control of many states with linear dynamics and quadratic cost; everything is dimensionless."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.radial import gaussian_mean
from dlde.numerics.sde import path_of
from dlde.problem import Problem, ReferenceKind, Semilinear


class HJBLQ(Problem, Semilinear):
    """Hamilton-Jacobi-Bellman: u_t + Lap u - control_gain |grad u|^2 = 0, u(T, x) = ln((1 + |x|^2) / 2).

    The least expected cost of steering dX = 2 sqrt(control_gain) m dt + sqrt(2) dW at the price
    |m|^2 a unit of time. By the Cole-Hopf transformation
    u(t, x) = -ln E[exp(-control_gain g(x + sqrt(2 (T - t)) N))] / control_gain, which is a quadrature
    in one dimension, as g is radial. Source: E, Han & Jentzen, Commun. Math. Stat. 5 (2017),
    arXiv 1706.04702; Han, Jentzen & E, PNAS 115 (2018), arXiv 1707.02568.
    """

    reference_kind: ClassVar[ReferenceKind] = "exact"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 1.0
    control_gain: PositiveFloat = 1.0  # lambda
    start: float = 0.0

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0  # as in the authors' code

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """start + sqrt(2) W: exact."""
        return start[:, None] + math.sqrt(2) * path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.full_like(x, math.sqrt(2))

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """-control_gain |z|^2 / 2, as z = sqrt(2) grad u."""
        return -0.5 * self.control_gain * z.square().sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        return torch.log(0.5 + 0.5 * x.square().sum(-1))

    def reference(self, x: Tensor) -> Tensor | None:
        """By quadrature, to about 1e-12."""
        gain = self.control_gain
        mean = gaussian_mean(
            lambda q: (0.5 + 0.5 * q) ** -gain,
            x.detach().double().square().sum(-1).cpu().numpy(),
            dims=self.dims,
            variance=2 * self.horizon,
        )
        return -torch.from_numpy(mean).log() / gain
