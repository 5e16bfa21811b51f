"""A particle in a double well under additive noise; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.problems.sde_system import SDESystem


class DoubleWell(SDESystem):
    """Double well: dX = rate X (1 - X^2) dt + noise dW, wells at -1 and 1.

    Euler-Maruyama, of strong order 1 as the noise is additive. The drift is not Lipschitz: steps of
    more than about 2 / (rate X^2) let a far state blow up; such a draw is replaced.
    """

    order: ClassVar[float] = 1
    state: ClassVar[str] = "position"

    rate: PositiveFloat = 2.0
    noise: PositiveFloat = 0.6
    start: float = 1.0

    def drift_at(self, t: float, x: Tensor) -> Tensor:
        return self.rate * x * (1 - x.square())

    def diffusion_at(self, t: float, x: Tensor) -> Tensor:
        return torch.full_like(x, self.noise)[..., None]
