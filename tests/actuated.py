"""A controlled field whose best law is known, and a run that draws its figures without storing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dlde.numerics.counters import normals
from dlde.problem import ActuatedField, Axis, Problem
from dlde.training.run import EngineRun


class Quick(EngineRun):
    """A run whose figures are drawn, and not rendered."""

    def figure(self, name: str, figure: Figure) -> None:
        assert figure.axes


class Cells(Problem, ActuatedField):
    """x' = keep x + reach a + sigma z at each of `points` cells with an actuator of its own.

    The reward is -mean (x'^2 + price a^2), so that the best law is a = -K x with K of a scalar Riccati
    equation, the same at every cell.
    """

    points: int = 4
    keep: float = 0.95
    reach: float = 0.5
    sigma: float = 0.1
    energy_price: float = 0.5
    interval: float = 1.0
    control_limit: float = 2.0
    episode: int = 20

    @property
    def decisions(self) -> int:
        return self.episode

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.points,)

    @property
    def control_shape(self) -> tuple[int, ...]:
        return (self.points,)

    @property
    def axis(self) -> Axis:
        return Axis(start=0.0, stop=1.0, num_points=self.points, boundary="periodic")

    @property
    def target(self) -> Tensor:
        return torch.zeros(self.points, dtype=torch.float64)

    @property
    def shapes(self) -> Tensor:
        return torch.eye(self.points, dtype=torch.float64)

    def initial(self, seed: int, episodes: Sequence[int]) -> Tensor:
        return torch.from_numpy(normals(seed, episodes, 0, self.state_shape, purpose=1))

    def noise(self, seed: int, episodes: Sequence[int], decision: int) -> Tensor:
        return torch.from_numpy(normals(seed, episodes, decision, self.state_shape))

    def step(self, state: Tensor, control: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        end = self.keep * state + self.reach * control + self.sigma * noise
        return end, -(end.square() + self.energy_price * control.square()).mean(1)

    def best_gain(self, discount: float = 1.0) -> float:
        """K of the stationary law, by iterating the Riccati equation of the cost of x'."""
        p, keep, reach = 0.0, self.keep, self.reach
        for _ in range(1000):
            weight = 1 + discount * p  # of x'^2 from the next decision on
            gain = weight * keep * reach / (self.energy_price + weight * reach**2)
            p = self.energy_price * gain**2 + weight * (keep - reach * gain) ** 2
        return float(np.float64(gain))
