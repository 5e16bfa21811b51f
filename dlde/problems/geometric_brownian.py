"""Geometric Brownian motion; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.problem import Axis, Exact, Solver
from dlde.problems.sde_system import SDESystem


class GeometricBrownian(SDESystem, Exact):
    """Geometric Brownian motion: dX = drift X dt + volatility X dW, in the sense of Ito.

    Exact: X_t = start exp((drift - volatility^2 / 2) t + volatility W_t). Solved by Milstein's scheme,
    of strong order 1, like an equation whose solution is not known.
    """

    scheme: ClassVar = "milstein"
    order: ClassVar[float] = 1
    state: ClassVar[str] = "value"

    drift: float = 0.1
    volatility: PositiveFloat = 0.5
    start: PositiveFloat = 1.0

    def drift_at(self, t: float, x: Tensor) -> Tensor:
        return self.drift * x

    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        return self.volatility * x[..., None]

    def diffusion_along(self, t: float, x: Tensor, v: Tensor) -> Tensor:
        return self.volatility * v

    def exact(
        self, instances: Mapping[str, Tensor], axes: Mapping[str, Axis], times: Sequence[float]
    ) -> dict[str, Tensor]:
        """On the finest path's values of W."""

        def march(increments: Tensor, dt: float, every: int) -> Tensor:
            w = torch.cat([torch.zeros_like(increments[:, :1]), increments.cumsum(1)], 1)[:, ::every]
            t = torch.arange(w.shape[1], dtype=w.dtype, device=w.device)[:, None] * (dt * every)
            growth = (self.drift - self.volatility**2 / 2) * t + self.volatility * w
            return self.start * growth.exp()

        return self.path.follow(self.noise_of(instances).double(), times, Solver(dt=self.path.spacing), march)
