"""An equation of Burgers' type in many dimensions with a known solution; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.sde import path_of
from dlde.problem import Problem, ReferenceKind, Semilinear


class BurgersHD(Problem, Semilinear):
    """Burgers' type in d dimensions: u_t + d^2/2 Lap u + (u - (2 + d) / (2 d)) d sum_i u_i = 0.

    A travelling front: u(t, x) = 1 / (1 + exp(-t - sum_i x_i / d)). Source: Chassagneux, SIAM J. Numer.
    Anal. 52 (2014), example 4.6, as in E, Han & Jentzen, Commun. Math. Stat. 5 (2017), arXiv 1706.04702.
    """

    reference_kind: ClassVar[ReferenceKind] = "exact"

    dims: PositiveInt = 50
    horizon: PositiveFloat = 0.2
    start: float = 0.0

    @property
    def value_range(self) -> tuple[float, float]:
        return 2.0, 4.0  # as in the authors' code

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """start + dims W: exact."""
        return start[:, None] + self.dims * path_of(increments)

    def diffusion(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.dims)

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (y - (2 + self.dims) / (2 * self.dims)) * z.sum(-1)

    def terminal(self, x: Tensor) -> Tensor:
        return self.solution(self.horizon, x)

    def solution(self, t: Tensor | float, x: Tensor) -> Tensor:
        """u(t, x) for states (..., dims) -> (...)."""
        return torch.sigmoid(t + x.mean(-1))

    def reference(self, x: Tensor) -> Tensor | None:
        return self.solution(0.0, x.detach().double()).cpu()
