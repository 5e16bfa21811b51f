"""Stationary convection with little diffusion on the unit interval; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveFloat
from torch import Tensor

from dlde.numerics.jets import Jet
from dlde.problem import Problem, Residual, Variable


class ConvectionLayer(Problem, Residual):
    """Convection layer: -diffusivity u'' + u' = 1 on (0, 1) with u = 0 at both ends.

    The solution follows u = x and falls to zero in a boundary layer at x = 1, as wide as the
    diffusivity. It is the standard test of Roos, Stynes & Tobiska, Robust Numerical Methods for
    Singularly Perturbed Differential Equations (2008), section I.1.
    """

    diffusivity: PositiveFloat = 0.02

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        return {"x": (0.0, 1.0)}

    @property
    def unknowns(self) -> dict[str, Variable]:
        return {"u": Variable(dims=("x",), long_name="concentration")}

    @property
    def derivatives(self) -> tuple[str, ...]:
        return ()

    @property
    def operators(self) -> dict[str, dict[str, float]]:
        return {"transport": {"x": 1, "xx": -self.diffusivity}}

    def residual(self, x: Mapping[str, Tensor], u: Mapping[str, Jet]) -> dict[str, Tensor]:
        return {"convection": u["u"]["transport"] - 1}

    def constrain(self, x: Mapping[str, Jet], network: Mapping[str, Jet]) -> dict[str, Jet]:
        """u = 4 x (1 - x) N: the factor has maximum one."""
        return {"u": 4 * x["x"] * (1 - x["x"]) * network["u"]}

    def reference(self, points: Tensor) -> dict[str, Tensor]:
        """x - (e^((x-1)/eps) - e^(-1/eps)) / (1 - e^(-1/eps)), without cancellation or overflow."""
        x, eps = points[:, 0].double(), self.diffusivity
        whole = torch.tensor(-1 / eps, dtype=torch.float64, device=x.device)
        return {"u": x - torch.exp((x - 1) / eps) * torch.expm1(-x / eps) / torch.expm1(whole)}
