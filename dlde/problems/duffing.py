"""The Duffing oscillator, free or driven; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.problem import Interval
from dlde.problems.drawn import NonNegative, Real
from dlde.problems.driving_force import AnyForce
from dlde.problems.ode_system import ODESystem, Parameters, Start


class Duffing(ODESystem):
    """Duffing: x'' + damping x' + stiffness x + cubic x^3 = force(t).

    A negative stiffness makes two wells. With `force: {kind: multisine}` it stands in for measured
    circuits such as the Silverbox: Wigren & Schoukens, European Control Conference (2013).
    """

    components: ClassVar = ("position", "velocity")

    damping: NonNegative = 0.2
    stiffness: Real = 1.0
    cubic: NonNegative = 1.0  # not below zero, where solutions end in finite time
    force: AnyForce | None = None
    start: Start = (Interval(low=-1.5, high=1.5), Interval(low=-1.5, high=1.5))

    @property
    def forcing(self) -> AnyForce | None:
        return self.force

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        x, v = y.unbind(-1)
        acceleration = -p["damping"] * v - x * (p["stiffness"] + p["cubic"] * x**2)
        if "force" in p:
            acceleration = acceleration + p["force"]
        return torch.stack([v, acceleration], -1)

    def energy(self, y: Tensor, p: Parameters) -> Tensor:
        """Kinetic and potential, of a unit of mass: (...,) of states (..., 2)."""
        x, v = y.unbind(-1)
        return (v**2 + p["stiffness"] * x**2) / 2 + p["cubic"] * x**4 / 4

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        return {"energy": self.energy(y, p)} if self.force is None and self.damping == 0 else {}
