"""Ornstein-Uhlenbeck processes, also of several components and with rough noise; dimensionless."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.problems.sde_system import SDESystem


class OrnsteinUhlenbeck(SDESystem):
    """Ornstein-Uhlenbeck: dX = R (mean - X) dt + S dB, with as many drivers as components.

    R has `rate` on its diagonal, `coupling` above and -coupling below it; S has noise + common_noise on
    its diagonal and common_noise elsewhere. B is Brownian, or fractional Brownian where hurst is not
    1/2. Euler-Maruyama, of strong order 1 as the noise is additive (rough noise: hurst + 1/2 at most).
    """

    order: ClassVar[float] = 1

    dims: PositiveInt = 1
    rate: PositiveFloat = 2.0
    coupling: float = 0.0
    mean: float = 0.5
    noise: PositiveFloat = 0.6
    common_noise: float = 0.0
    hurst: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _coupled(self) -> Self:
        if self.dims == 1 and self.coupling:
            raise ValueError(f"coupling={self.coupling:g}: one component has no neighbours; use dims >= 2")
        return self

    @property
    def num_components(self) -> int:
        return self.dims

    @property
    def num_drivers(self) -> int:
        return self.dims

    @property
    def hurst_exponent(self) -> float:
        return self.hurst

    def drift_at(self, t: float, x: Tensor) -> Tensor:
        rate, _ = _matrices_on(self, x.dtype, x.device)
        return (self.mean - x) @ rate.T

    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        _, noise = _matrices_on(self, x.dtype, x.device)
        return noise.expand(len(x), -1, -1)

    @property
    def drift_matrix(self) -> Tensor:
        """R (dims, dims), float64."""
        above = self.coupling * torch.ones(self.dims - 1, dtype=torch.float64)
        diagonal = self.rate * torch.eye(self.dims, dtype=torch.float64)
        return diagonal + torch.diag(above, 1) - torch.diag(above, -1)

    @property
    def noise_matrix(self) -> Tensor:
        """S (dims, dims), float64."""
        return self.noise * torch.eye(self.dims, dtype=torch.float64) + self.common_noise


@lru_cache(maxsize=16)  # not once for every step: a copy to a device waits for it
def _matrices_on(
    process: OrnsteinUhlenbeck, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    return process.drift_matrix.to(device, dtype), process.noise_matrix.to(device, dtype)
