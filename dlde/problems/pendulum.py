"""A pendulum, free or driven; angles in radians, else dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.problems.drawn import NonNegative, Positive
from dlde.problems.driving_force import AnyForce, GaussianProcess
from dlde.problems.ode_system import ODESystem, Parameters, Start


class Pendulum(ODESystem):
    """Pendulum: angle'' = -gravity sin(angle) - stiffness angle - friction angle' + force(t).

    `gravity` is g / l; `stiffness` is that of a torsional spring, force and friction are those of a unit
    of inertia. The defaults, from rest under a random force, are Lu, Jin & Karniadakis, DeepONet (2019),
    arXiv 1910.03193; with gravity 9.81, stiffness 0.5 and friction 0.01 it is the pendulum of Berto,
    Massaroli, Poli & Park, Neural solvers for optimal control (2022), arXiv 2203.08072.
    """

    components: ClassVar = ("angle", "velocity")
    units: ClassVar = {"angle": "rad", "velocity": "rad"}

    gravity: Positive = 1.0
    stiffness: NonNegative = 0.0
    friction: NonNegative = 0.0
    force: AnyForce | None = GaussianProcess()
    start: Start = (0.0, 0.0)

    @property
    def forcing(self) -> AnyForce | None:
        return self.force

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        angle, velocity = y.unbind(-1)
        torque = -p["gravity"] * torch.sin(angle) - p["stiffness"] * angle - p["friction"] * velocity
        if "force" in p:
            torque = torque + p["force"]
        return torch.stack([velocity, torque], -1)

    def energy(self, y: Tensor, p: Parameters) -> Tensor:
        """Zero at rest below, of a unit of inertia: (...,) of states (..., 2)."""
        angle, velocity = y.unbind(-1)
        return (velocity**2 + p["stiffness"] * angle**2) / 2 + p["gravity"] * (1 - torch.cos(angle))

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        return {"energy": self.energy(y, p)} if self.force is None and self.friction == 0 else {}
