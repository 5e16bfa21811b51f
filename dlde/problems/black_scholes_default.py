"""Pricing on many assets with the risk that the counterparty defaults; time in years."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.problem import Problem, ReferenceKind, Semilinear


class BlackScholesDefault(Problem, Semilinear):
    """Black-Scholes with default risk, a claim on the least of many prices: g(x) = min x_i.

    u_t + drift x . grad u + volatility^2 / 2 sum x_i^2 u_ii - (1 - recovery) Q(u) u - rate u = 0, where the
    intensity of default Q falls linearly from `intensity_high` (u below `value_low`) to
    `intensity_low` (u above `value_high`). Paths by Euler's scheme, as in the authors' code.
    The reference 57.300 is recalled from Han, Jentzen & E, PNAS 115 (2018), arXiv 1707.02568, who had it
    from a multilevel Picard method, for the default parameters and all prices 100.
    """

    reference_kind: ClassVar[ReferenceKind] = "recalled"
    units: ClassVar = "currency"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 1.0  # years
    start: PositiveFloat = 100.0
    drift: float = 0.02  # a year
    volatility: PositiveFloat = 0.2  # a year^1/2
    rate: NonNegativeFloat = 0.02  # R, a year
    recovery: Annotated[float, Field(ge=0, lt=1)] = 2 / 3  # delta, of the claim's value at default
    intensity_high: NonNegativeFloat = 0.2  # gamma^h, a year
    intensity_low: NonNegativeFloat = 0.02  # gamma^l, a year
    value_low: PositiveFloat = 50.0  # v^h
    value_high: PositiveFloat = 70.0  # v^l

    @model_validator(mode="after")
    def _falling(self) -> Self:
        if self.value_low >= self.value_high:
            raise ValueError(
                f"value_low={self.value_low:g} must lie below value_high={self.value_high:g}: between them "
                "the intensity of default changes linearly"
            )
        return self

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.4 * self.start, 0.5 * self.start  # as in the authors' code

    @property
    def value_scale(self) -> float:
        return self.start

    @property
    def positive(self) -> bool:
        return True

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """Euler's scheme X_{n+1} = X_n (1 + drift dt + volatility dW)."""
        growth = (1 + self.drift * dt + self.volatility * increments).cumprod(1)
        return torch.cat([start[:, None], start[:, None] * growth], 1)

    def diffusion(self, x: Tensor) -> Tensor:
        return self.volatility * x

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        slope = (self.intensity_low - self.intensity_high) / (self.value_high - self.value_low)
        intensity = self.intensity_high + slope * (y.clamp(self.value_low, self.value_high) - self.value_low)
        return -((1 - self.recovery) * intensity + self.rate) * y

    def terminal(self, x: Tensor) -> Tensor:
        return x.amin(-1)

    def reference(self, x: Tensor) -> Tensor | None:
        if self != BlackScholesDefault() or not bool((x == self.start).all()):
            return None
        return torch.full((len(x),), 57.300, dtype=torch.float64)
