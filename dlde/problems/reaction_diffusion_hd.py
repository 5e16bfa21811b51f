"""A reaction-diffusion equation with an oscillating, known solution; everything is dimensionless."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.sde import path_of
from dlde.problem import Problem, ReferenceKind, Semilinear


class ReactionDiffusionHD(Problem, Semilinear):
    """Reaction-diffusion in many dimensions: u_t + Lap u / 2 + min(1, (u - h)^2) = 0 with u = h at time T.

    The solution is h(t, x) = 1 + offset + sin(k sum_i x_i) exp((t - T) / 2) with k = dims^-1/2.
    Source: E, Han & Jentzen, Commun. Math. Stat. 5 (2017), arXiv 1706.04702, after Gobet & Turkedjiev.
    """

    reference_kind: ClassVar[ReferenceKind] = "exact"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 1.0
    start: float = 0.0
    offset: float = 0.6  # kappa

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0  # as in the authors' code

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """start + W: exact."""
        return start[:, None] + path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (y - self.solution(t, x)).square().clamp(max=1.0)

    def terminal(self, x: Tensor) -> Tensor:
        return self.solution(self.horizon, x)

    def solution(self, t: Tensor | float, x: Tensor) -> Tensor:
        """u(t, x) for states (..., dims) -> (...)."""
        decay = torch.as_tensor((t - self.horizon) / 2, dtype=x.dtype, device=x.device).exp()
        return 1 + self.offset + torch.sin(x.sum(-1) / math.sqrt(self.dims)) * decay

    def reference(self, x: Tensor) -> Tensor | None:
        return self.solution(0.0, x.detach().double()).cpu()
