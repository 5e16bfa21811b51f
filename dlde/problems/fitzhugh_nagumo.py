"""The FitzHugh-Nagumo model of a nerve cell; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dlde.numerics.ode import Scheme
from dlde.problem import Interval
from dlde.problems.drawn import Positive, Real
from dlde.problems.ode_system import ODESystem, Parameters, Start


class FitzHughNagumo(ODESystem):
    """FitzHugh-Nagumo: v' = v - v^3 / 3 - w + current, w' = rate (v + shift - slope w).

    Membrane potential v and recovery w. At the default parameters a cell fires over and over.
    Source: FitzHugh, Biophys. J. 1 (1961); Nagumo, Arimoto & Yoshizawa, Proc. IRE 50 (1962).
    """

    scheme: ClassVar[Scheme] = "dop853"
    components: ClassVar = ("potential", "recovery")

    current: Real = 0.5
    rate: Positive = 0.04
    shift: Real = 0.8
    slope: Positive = 0.7
    start: Start = (Interval(low=-2.0, high=2.0), Interval(low=-0.5, high=1.5))

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        v, w = y.unbind(-1)
        fast = v - v**3 / 3 - w + p["current"]
        return torch.stack([fast, p["rate"] * (v + p["shift"] - p["slope"] * w)], -1)
