"""A spiral with cubic terms; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.numerics.ode import Scheme
from dlde.problem import Interval
from dlde.problems.drawn import NonNegative, Positive
from dlde.problems.ode_system import ODESystem, Parameters, Start


class CubicOscillator(ODESystem):
    """Cubic oscillator: x' = -damping x^3 + coupling y^3, y' = -coupling x^3 - damping y^3.

    x^4 + y^4 falls, and stays where damping is 0. The slower, the nearer to the origin. Source: Brunton,
    Proctor & Kutz, Sparse identification of nonlinear dynamics, PNAS 113 (2016), from (2, 0).
    """

    scheme: ClassVar[Scheme] = "dop853"
    components: ClassVar = ("x", "y")

    damping: NonNegative = 0.1
    coupling: Positive = 2.0
    start: Start = (Interval(low=1.0, high=2.0), Interval(low=-1.0, high=1.0))

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        x, y_ = (y**3).unbind(-1)
        return torch.stack(
            [-p["damping"] * x + p["coupling"] * y_, -p["coupling"] * x - p["damping"] * y_], -1
        )

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        return {"x^4 + y^4": (y**4).sum(-1)} if self.damping == 0 else {}
