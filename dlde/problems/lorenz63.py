"""The Lorenz system of 1963; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.numerics.ode import Scheme
from dlde.problem import Interval
from dlde.problems.drawn import Positive
from dlde.problems.ode_system import ODESystem, Parameters, Start


class Lorenz63(ODESystem):
    """Lorenz: x' = prandtl (y - x), y' = x (rayleigh - z) - y, z' = x y - aspect z.

    Chaotic at the default parameters: a difference grows like e^(0.9 t), so 16 digits last to t = 30 or so.
    Source: E. N. Lorenz, Deterministic nonperiodic flow, J. Atmos. Sci. 20 (1963).
    """

    scheme: ClassVar[Scheme] = "dop853"
    components: ClassVar = ("x", "y", "z")
    visited: ClassVar = ((15.0, 20.0, 35.0), (-15.0, -20.0, 35.0))  # the edge of the attractor

    prandtl: Positive = 10.0
    rayleigh: Positive = 28.0
    aspect: Positive = 8 / 3
    start: Start = (
        Interval(low=-10.0, high=10.0),
        Interval(low=-10.0, high=10.0),
        Interval(low=15.0, high=35.0),
    )

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        x, y_, z = y.unbind(-1)
        return torch.stack(
            [p["prandtl"] * (y_ - x), x * (p["rayleigh"] - z) - y_, x * y_ - p["aspect"] * z], -1
        )
