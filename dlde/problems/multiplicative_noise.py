"""A state driven by many noises through random, non-commuting fields; everything is dimensionless."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dlde.problem import Seed, Thresholds
from dlde.problems.sde_system import SDESystem


class MultiplicativeNoise(SDESystem):
    """Many drivers: dX = -rate X dt + noise / sqrt(drivers) sum_j tanh(A_j X + b_j) dW_j (Ito).

    The entries of A_j (dims x dims) and b_j are standard normal, drawn once from `fields_seed`; the
    fields of fewer drivers are the first of those of more. They do not commute: Milstein's scheme
    without Levy areas, with a smaller error than Euler-Maruyama's but of strong order 1/2 like it
    (1 with one driver).
    """

    scheme: ClassVar = "milstein"
    order: ClassVar[float] = 0.5
    # of few paths orders from 0.35 are observed; `order` less 1/2 would ask for nothing
    thresholds: ClassVar[Thresholds] = Thresholds(order=0.2, error=1e-1, exact=1e-2, defect=5e-2)

    dims: PositiveInt = 2
    drivers: PositiveInt = 4
    rate: NonNegativeFloat = 1.0
    noise: PositiveFloat = 1.0
    fields_seed: Seed = 0

    @property
    def num_components(self) -> int:
        return self.dims

    @property
    def num_drivers(self) -> int:
        return self.drivers

    def drift_at(self, t: float, x: Tensor) -> Tensor:
        return -self.rate * x

    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        a, b = _fields_on(self.fields_seed, self.drivers, self.dims, x.dtype, x.device)
        columns: Tensor = self._size * torch.tanh(torch.einsum("jnm,bm->bnj", a, x) + b)
        return columns

    def diffusion_along(self, t: float, x: Tensor, v: Tensor) -> Tensor:
        a, _ = _fields_on(self.fields_seed, self.drivers, self.dims, x.dtype, x.device)
        slope = 1 - (self.diffusion_at(t, x) / self._size).square()
        columns: Tensor = self._size * slope * torch.einsum("jnm,bmj->bnj", a, v)
        return columns

    @property
    def _size(self) -> float:
        return float(self.noise / self.drivers**0.5)

    @property
    def fields(self) -> tuple[Tensor, Tensor]:
        """A (drivers, dims, dims) and b (dims, drivers), float64."""
        return _fields(self.fields_seed, self.drivers, self.dims)


@lru_cache(maxsize=8)
def _fields(seed: int, drivers: int, dims: int) -> tuple[Tensor, Tensor]:
    generator = np.random.Generator(np.random.Philox(key=seed))
    drawn = torch.from_numpy(generator.standard_normal((drivers, dims, dims + 1)))
    return drawn[..., :dims].contiguous(), drawn[..., dims].T.contiguous()


@lru_cache(maxsize=16)  # not once for every step: a copy to a device waits for it
def _fields_on(
    seed: int, drivers: int, dims: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    a, b = _fields(seed, drivers, dims)
    return a.to(device, dtype), b.to(device, dtype)
