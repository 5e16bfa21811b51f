"""A linear oscillator that loses energy; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.problem import Interval
from dlde.problems.drawn import NonNegative, Positive
from dlde.problems.ode_system import Parameters, SolvedODE, Start


class DampedOscillator(SolvedODE):
    """Damped oscillator: x'' = -2 damping x' - (damping^2 + frequency^2) x, underdamped.

    Exact: e^(-damping t) times a sine of `frequency` (radians in a unit of time). Defaults: Norcliffe et
    al., On second order behaviour in augmented neural ODEs (2020), arXiv 2006.07220.
    """

    components: ClassVar = ("position", "velocity")

    damping: NonNegative = 0.1
    frequency: Positive = 1.0
    start: Start = (Interval(low=-2.5, high=2.5), Interval(low=-2.5, high=2.5))

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        x, v = y.unbind(-1)
        gamma, omega = p["damping"], p["frequency"]
        return torch.stack([v, -2 * gamma * v - (gamma**2 + omega**2) * x], -1)

    def flow(self, t: Tensor, start: Tensor, p: Parameters) -> Tensor:
        x, v = start[:, :1], start[:, 1:]
        gamma, omega = p["damping"], p["frequency"]
        cos, sin, decay = torch.cos(omega * t), torch.sin(omega * t) / omega, torch.exp(-gamma * t)
        push = v + gamma * x
        position = x * cos + push * sin
        velocity = push * cos - omega**2 * x * sin - gamma * position
        return torch.stack([decay * position, decay * velocity], -1)

    def energy(self, y: Tensor, p: Parameters) -> Tensor:
        """Kinetic and potential, of a unit of mass: (...,) of states (..., 2)."""
        x, v = y.unbind(-1)
        return (v**2 + (p["damping"] ** 2 + p["frequency"] ** 2) * x**2) / 2

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        return {"energy": self.energy(y, p)} if self.damping == 0 else {}
