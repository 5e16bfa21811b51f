"""Pricing on many assets where borrowing costs more than lending earns; time in years."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.problem import Problem, ReferenceKind, Semilinear


class BlackScholesLending(Problem, Semilinear):
    """Black-Scholes with different rates for lending and borrowing, a spread on the largest price.

    g(x) = (max x_i - 120)^+ - 2 (max x_i - 150)^+ at the default strikes, and
    f = -R_l y - (drift - R_l) / volatility sum z + (R_b - R_l) (sum z / volatility - y)^+.
    Paths are exact, step by step in the logarithm. The reference 21.299 is recalled from E, Han & Jentzen,
    Commun. Math. Stat. 5 (2017), arXiv 1706.04702, who had it from a multilevel Picard method, for
    the default parameters and all prices 100.
    """

    reference_kind: ClassVar[ReferenceKind] = "recalled"
    units: ClassVar = "currency"

    dims: PositiveInt = 100
    horizon: PositiveFloat = 0.5  # years
    start: PositiveFloat = 100.0
    drift: float = 0.06  # a year
    volatility: PositiveFloat = 0.2  # a year^1/2
    lending_rate: float = 0.04  # R_l, a year
    borrowing_rate: float = 0.06  # R_b, a year
    strikes: tuple[PositiveFloat, PositiveFloat] = (120.0, 150.0)

    @model_validator(mode="after")
    def _no_free_money(self) -> Self:
        if self.borrowing_rate < self.lending_rate:
            raise ValueError(
                f"borrowing_rate={self.borrowing_rate:g} is below lending_rate={self.lending_rate:g}: money "
                "borrowed and lent out would earn without risk; give a borrowing rate that is not lower"
            )
        return self

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.15 * self.start, 0.18 * self.start  # as in the authors' code

    @property
    def value_scale(self) -> float:
        return self.start

    @property
    def positive(self) -> bool:
        return True

    def paths(self, start: Tensor, increments: Tensor, dt: float) -> Tensor:
        """Geometric Brownian motion: exact."""
        log = (self.drift - 0.5 * self.volatility**2) * dt + self.volatility * increments
        return torch.cat([start[:, None], start[:, None] * log.cumsum(1).exp()], 1)

    def diffusion(self, x: Tensor) -> Tensor:
        return self.volatility * x

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        held = z.sum(-1) / self.volatility  # value of the assets in the hedge
        borrowed = (held - y).relu()
        lending = self.lending_rate
        return -lending * y - (self.drift - lending) * held + (self.borrowing_rate - lending) * borrowed

    def terminal(self, x: Tensor) -> Tensor:
        largest = x.amax(-1)
        return (largest - self.strikes[0]).relu() - 2 * (largest - self.strikes[1]).relu()

    def reference(self, x: Tensor) -> Tensor | None:
        if self != BlackScholesLending() or not bool((x == self.start).all()):
            return None
        return torch.full((len(x),), 21.299, dtype=torch.float64)
